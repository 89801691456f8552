"""The training loop, for all tasks.

A run finds weights and data, checks that the workdir is writable, reads the newest checkpoint, and only then compiles.
Parameters come from the newest checkpoint in the workdir if there is one, else from the weights in the config if any are
set; else they are newly initialized.
"""

import contextlib
import json
import pathlib
import time
from typing import Any

import jax
import numpy as np
from absl import logging
from jax.experimental import multihost_utils
from ml_collections import ConfigDict

from softvq_jax.config.paths import with_expanded_paths
from softvq_jax.data.pipeline import Batches
from softvq_jax.parallel.mesh import make_mesh
from softvq_jax.parallel.sharding import abstract, init_sharded, shardings_for
from softvq_jax.train.best import Best
from softvq_jax.train.checkpoint import Checkpoints
from softvq_jax.train.compile import jit_step, put
from softvq_jax.train.evaluator import EvaluatedRun
from softvq_jax.train.evaluators import open_evaluators
from softvq_jax.train.metrics import MetricsWriter, check_finite
from softvq_jax.train.preemption import Preempted, Preemption
from softvq_jax.train.preflight import check_batches, check_writable
from softvq_jax.train.progress import Rate, parameter_table, progress_line
from softvq_jax.train.run_record import RunRecord
from softvq_jax.train.task import Task, data_of

AHEAD = 2  # steps that may be queued on the device before the host waits


class Run:
    """A run of one task in one workdir; `Run(...).train()` trains to the last step.

    Args:
      config: the locked config.
      workdir: a new folder, or the folder of a run to resume.
      kind: the class of the task; its `open` finds the data and reads the pretrained weights.
      source: images in place of those of `config.data`: any sequence of `(image, label)`, a function that returns one, or
        a `data.source.Source`; see `data.sequence`. A share is held out unless `config.data.eval_path` names images.

    Raises:
      PermissionError, ValueError, FileNotFoundError: config, data, weights or workdir are unusable; the message names
        what to change.
    """

    def __init__(self, config: ConfigDict, workdir: pathlib.Path, kind: type[Task], *, source: Any = None):
        if source is not None:
            config = config.copy_and_resolve_references()
            config.data.source = "python"
        config = with_expanded_paths(config)
        self.config, self.workdir = config, workdir
        self.main = jax.process_index() == 0
        self.mesh = make_mesh(**config.mesh)
        check_batches(config, self.mesh)
        for folder in (workdir, workdir / "checkpoints"):
            check_writable(folder)
        self.task = kind.open(config) if source is None else kind.open(config, source)
        self.data, self.num_steps = data_of(self.task), self.task.num_steps
        self.record = RunRecord.of(config, self.task)
        section = config.checkpoint
        self.checkpoints = Checkpoints(
            workdir / "checkpoints", keep=section.keep, keep_every_steps=section.keep_every_steps
        )
        self.evaluated = EvaluatedRun(config, self.task, workdir, self.mesh)
        self.evaluators, self.best = open_evaluators(self.evaluated), None
        if section.best_metric:
            self.best = Best(section.best_metric, self.evaluators, workdir / "best" / "checkpoints")

    def train(self) -> dict[str, float]:
        """Trains to the last step; leaves checkpoints, metrics, pictures and the exported weights in the workdir.

        Returns:
          The metrics of the last step's evaluation.

        Raises:
          NonFinite: a loss is not finite.
          Preempted: the run was preempted, and has saved a checkpoint.
        """
        with jax.set_mesh(self.mesh), Preemption() as preemption:
            # Start.
            state, record = self._restore_or_init()
            if self.main:
                content = json.loads(self.config.to_json_best_effort())
                (self.workdir / "config.json").write_text(json.dumps(content, indent=2) + "\n")
            frozen, key = put(self.task.frozen, self.mesh), jax.random.key(self.config.seed)
            batches = self.data.train_batches(record["next_sample"], self.mesh)
            self.evaluated.frozen, self.evaluated.check_preemption = frozen, preemption.check
            self.evaluated.held_out_sums = self.task.compile_evaluation(self.mesh, state)
            first = self.evaluated.inputs(next(batches))
            step = self._compile(state, frozen, first, key)
            with preemption.deferred(), contextlib.ExitStack() as closing:
                for closed in filter(None, (self.best, self.checkpoints)):
                    closing.callback(closed.close)
                closing.enter_context(batches)
                tensorboard = self.config.log.tensorboard
                writer = MetricsWriter(self.workdir, tensorboard=tensorboard, step=record["step"], active=self.main)
                closing.callback(writer.close)
                # Train.
                state = self._steps(step, state, frozen, first, batches, key, record, writer, preemption)
                # Evaluate and export.
                metrics = self._evaluate(state, record, writer)
                if metrics is None:
                    raise Preempted
                self._export(state, self.workdir)
        return metrics

    def _restore_or_init(self):
        """Returns the state to continue from, and its record; see `RunRecord.at`."""
        saved = self.checkpoints.record()
        if saved is not None:
            self.record.check(saved, self.workdir)
        key = jax.random.key(self.config.seed)
        pretrained = put(self.task.initial, self.mesh)
        shapes = jax.eval_shape(self.task.init, key, pretrained)
        restored = self.checkpoints.restore(abstract(shapes, shardings_for(shapes, self.mesh)))
        if restored is not None:
            logging.info("resuming after step %d", restored.record["step"])
            self.record.check_position(restored.record)
            return restored.state, restored.record
        if self.main:
            logging.info("parameters by module:\n%s", parameter_table(self.task.parameters(shapes)))
        return init_sharded(self.task.init, self.mesh, key, pretrained), self.record.at(0)

    def _compile(self, state, frozen, batch, key):
        logging.info("compiling the training step for %d devices", self.mesh.size)
        began = time.monotonic()
        compiled = jit_step(self.task.step, state, frozen, self.mesh).lower(state, frozen, batch, key).compile()
        logging.info("compiled in %.1f s", time.monotonic() - began)
        return compiled

    def _steps(self, step, state, frozen, batch, batches: Batches, key, record, writer, preemption):
        """Trains from the step of `record` to the last one, updates `record`, and returns the final state, saved."""
        config, pending, start, unreadable_before = self.config, [], record["step"], record["unreadable_images"]
        rate = Rate(start, config.train.batch_size)
        for done in range(start + 1, self.num_steps + 1):
            state, metrics = step(state, frozen, batch, key)
            pending.append((done, metrics))
            unreadable = batches.unreadable  # number among the samples trained on so far
            if done < self.num_steps:
                batch = self.evaluated.inputs(next(batches))  # overlaps with the step on the device
            if len(pending) > AHEAD:
                jax.block_until_ready(pending[-1 - AHEAD][1])
            last = done == self.num_steps
            evaluating = not last and any(evaluator.due(done) for evaluator in self.evaluators.values())
            stopping = preemption.requested()
            saving = last or stopping or _due(done, config.checkpoint.every_steps)
            if saving or evaluating or done == start + 1 or _due(done, config.log.every_steps):
                values = _fetch(pending) | {"images_per_second": rate.measure(done)}
                record |= self.record.at(done, unreadable_before + _sum_over_processes(unreadable))
                writer.scalars(done, values | {"unreadable_images": record["unreadable_images"]})
                if self.main:
                    logging.info(progress_line(done, self.num_steps, config.train.batch_size, values))
                self.checkpoints.check()
            if saving:
                self._save(state, record)
            if evaluating and not stopping:
                with rate.paused():
                    stopping = self._evaluate(state, record, writer) is None
            if stopping and not last:
                logging.warning("preempted: saving checkpoint at step %d", done)
                self._save(state, record)
                raise Preempted
        return state

    def _save(self, state, record):
        if self.checkpoints.latest_step() != record["step"]:
            self.checkpoints.save(state, record)

    def _evaluate(self, state, record, writer) -> dict[str, float] | None:
        """Runs the evaluators that are due, and keeps the step if it is the best; returns None if preempted."""
        step, metrics, images = record["step"], {}, {}
        try:
            for evaluator in self.evaluators.values():
                if evaluator.due(step):
                    found = evaluator(state, step)
                    metrics, images = metrics | found.metrics, images | found.images
        except Preempted:
            return None
        writer.scalars(step, metrics)
        for name, rows in images.items():
            writer.pictures(step, name, rows)
        if self.best is not None and self.best.improved_by(metrics):
            self.best.save(state, record, metrics)
            self._export(state, self.workdir / "best")
        if self.main:
            words = (f"{name.removeprefix('eval_')} {value:.4g}" for name, value in metrics.items())
            logging.info("step %d, held out: %s", step, ", ".join(words))
        return metrics

    def _export(self, state, folder):
        params = self.evaluated.on_host(state.ema, keep=self.main)
        if self.main:
            folder = folder / self.config.task
            self.task.export(params).save_pretrained(folder)
            logging.info("exported to %s", folder)


def _due(step: int, every: int) -> bool:
    return every > 0 and step % every == 0


def _fetch(pending) -> dict[str, float]:
    """Returns the newest step's metrics, after checking those of all steps since the last call; empties `pending`."""
    values = {}
    for step, metrics in pending:
        values = {name: float(value) for name, value in jax.device_get(metrics).items()}
        check_finite(step, values)
    pending.clear()
    return values


def _sum_over_processes(count: int) -> int:
    return count if jax.process_count() == 1 else int(multihost_utils.process_allgather(np.int64(count)).sum())
