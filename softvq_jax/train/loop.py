"""The one training loop. What is trained is a task's business; what happens around a step is here.

Order of a start: weights and data are found, the workdir is tried, the newest checkpoint is read, and only then anything
is compiled. Order of where parameters come from: the workdir's checkpoint, else the weights that the config names, else
fresh ones.
"""

import contextlib
import json
import pathlib
import time

import jax
import numpy as np
from absl import logging
from jax.experimental import multihost_utils
from ml_collections import ConfigDict

from softvq_jax.config import tokenizer as configs
from softvq_jax.data.pipeline import Batches
from softvq_jax.parallel.mesh import check_global_batch, global_batch, make_mesh, replicated
from softvq_jax.parallel.sharding import abstract, init_sharded, shardings_for
from softvq_jax.train.best import Best
from softvq_jax.train.checkpoint import Checkpoints
from softvq_jax.train.compatibility import check_config, check_data, check_weights
from softvq_jax.train.compile import jit_step, put
from softvq_jax.train.metrics import MetricsWriter, check_finite
from softvq_jax.train.preemption import Preempted, Preemption
from softvq_jax.train.progress import Progress, parameter_table
from softvq_jax.train.quality import Quality
from softvq_jax.train.task import Task
from softvq_jax.weights import fingerprints

AHEAD = 2  # steps that may be queued on the device before the host waits for one


class Run:
    """A run of one task in one workdir; `Run(...).train()` does it all.

    Args:
      config: the locked config.
      workdir: a new folder, or one whose run goes on.
      kind: the class of the task; its `open` finds the data and reads the pretrained weights.

    Raises:
      PermissionError, ValueError, FileNotFoundError: before any work, naming what to change.
    """

    def __init__(self, config: ConfigDict, workdir: pathlib.Path, kind: type[Task]):
        self.config, self.workdir = config, workdir
        self.main = jax.process_index() == 0
        self.mesh = make_mesh(**config.mesh)
        _check_batches(config, self.mesh)
        for folder in (workdir, workdir / "checkpoints"):
            _check_writable(folder)
        self.task = kind.open(config)
        self.data, self.num_steps = self.task.data, self.task.num_steps
        self.weights = {
            name: fingerprints.of_weights(network) for name, network in (self.task.frozen | self.task.initial).items()
        }
        self.data_version = self.data.version
        self.checkpoints = Checkpoints(
            workdir / "checkpoints",
            keep=config.checkpoint.keep,
            keep_every_steps=config.checkpoint.keep_every_steps,
        )
        self.quality = Quality(config, self.data, workdir)
        self.best = Best(config, workdir / "best" / "checkpoints") if config.checkpoint.best_metric else None
        self.saved_config = json.loads(config.to_json_best_effort())
        self.flat_config = {field: _plain(config, field) for field in configs.fields(config)}

    def train(self) -> dict[str, float]:
        """Trains to the last step and leaves checkpoint, metrics, pictures and the exported weights in the workdir.

        Returns:
          The last evaluation.

        Raises:
          NonFinite: a loss is not a number any more.
          Preempted: preempted, and saved.
        """
        with jax.set_mesh(self.mesh), Preemption() as preemption:
            state, record = self._restore_or_init()
            self._write_config()
            frozen = put(self.task.frozen, self.mesh)
            batches = self.data.train_batches(record["next_sample"], self.mesh)
            self.evaluation = self.task.compile_evaluation(self.mesh, state)
            key = jax.random.key(self.config.seed)
            first = self._inputs(next(batches))
            step = self._compile(state, frozen, first, key)
            with preemption.deferred(), contextlib.ExitStack() as closing:
                if self.best is not None:
                    closing.callback(self.best.close)
                closing.callback(self.checkpoints.close)
                closing.enter_context(batches)
                writer = MetricsWriter(
                    self.workdir, tensorboard=self.config.log.tensorboard, step=record["step"], active=self.main
                )
                closing.callback(writer.close)
                state = self._steps(step, state, frozen, first, batches, key, record, writer, preemption)
                results = self._evaluate(state, frozen, record, writer, preemption)
                if results is None:
                    raise Preempted
                self._export(state, self.workdir)
        return results

    def _steps(self, step, state, frozen, batch, batches: Batches, key, record, writer, preemption):
        """From the step of `record` to the last, whose record it becomes; returns the final state, saved."""
        config, pending, start, unreadable_before = self.config, [], record["step"], record["unreadable_images"]
        progress = Progress(start, self.num_steps, config.train.batch_size)
        for done in range(start + 1, self.num_steps + 1):
            state, metrics = step(state, frozen, batch, key)
            pending.append((done, metrics))
            unreadable = batches.unreadable  # of the samples that were trained on
            if done < self.num_steps:
                batch = self._inputs(next(batches))  # read while the device works
            if len(pending) > AHEAD:
                jax.block_until_ready(pending[-1 - AHEAD][1])
            last = done == self.num_steps
            evaluating = _due(done, config.eval.every_steps) or _due(done, config.fid.every_steps)
            stopping = preemption.requested()
            saving = last or stopping or _due(done, config.checkpoint.every_steps)
            if saving or evaluating or done == start + 1 or _due(done, config.log.every_steps):
                values = _fetch(pending)
                values["images_per_second"] = progress.rate(done)
                record |= self._record(done, unreadable_before + _sum(unreadable))
                writer.scalars(done, values | {"unreadable_images": record["unreadable_images"]})
                if self.main:
                    logging.info(progress.line(done, values))
                self.checkpoints.check()
            if saving:
                self._save(state, record)
            if evaluating and not (last or stopping):
                with progress.paused():
                    stopping = self._evaluate(state, frozen, record, writer, preemption) is None
            if stopping and not last:
                logging.warning("preempted: saving checkpoint at step %d", done)
                self._save(state, record)
                raise Preempted
        return state

    def _save(self, state, record):
        if self.checkpoints.latest_step() != record["step"]:
            self.checkpoints.save(state, record)

    def _restore_or_init(self):
        """The state to go on from, and its record; see `_record`."""
        record = self.checkpoints.record()
        if record is not None:
            if missing := self._record(0, 0).keys() - record.keys():
                raise ValueError(
                    f"the checkpoints in {self.workdir} are of an older version: their record lacks "
                    f"{', '.join(sorted(missing))}. Use another workdir"
                )
            check_config(record["config"], self.flat_config)
            check_weights(record["weights"], self.weights, record["config"], self.flat_config)
            check_data(record["data"], self.data_version, self.config.data.path)
        key = jax.random.key(self.config.seed)
        pretrained = put(self.task.initial, self.mesh)
        shapes = jax.eval_shape(self.task.init, key, pretrained)
        restored = self.checkpoints.restore(abstract(shapes, shardings_for(shapes, self.mesh)))
        if restored is not None:
            logging.info("resuming after step %d", restored.record["step"])
            _check_position(restored.record, self.config.train.batch_size)
            return restored.state, restored.record
        if self.main:
            logging.info("parameters by module:\n%s", parameter_table(self.task.parameters(shapes)))
        return init_sharded(self.task.init, self.mesh, key, pretrained), self._record(0, 0)

    def _record(self, step: int, unreadable: int) -> dict:
        """What a checkpoint holds beside the state; the data's position is a global sample index."""
        return {
            "step": step,
            "config": self.flat_config,
            "weights": self.weights,
            "data": self.data_version,
            "next_sample": step * self.config.train.batch_size,
            "unreadable_images": unreadable,
        }

    def _compile(self, state, frozen, batch, key):
        logging.info("compiling the training step for %d devices", self.mesh.size)
        began = time.monotonic()
        compiled = jit_step(self.task.step, state, frozen, self.mesh).lower(state, frozen, batch, key).compile()
        logging.info("compiled in %.1f s", time.monotonic() - began)
        return compiled

    def _evaluate(self, state, frozen, record, writer, preemption) -> dict[str, float] | None:
        """Averages over the held-out samples, `quality` where it is due, and pictures; keeps the step if it is the best.

        Returns:
          The numbers; None if it was told to stop before it had them.
        """
        total, first, step = None, None, record["step"]
        with self.data.eval_batches(self.mesh) as batches:
            for batch in batches:
                if preemption.requested():
                    return None
                sums, shown = jax.device_get(self.evaluation(state.ema, frozen, self._inputs(batch, "valid", "index")))
                total = sums if total is None else jax.tree.map(np.add, total, sums)
                first = shown if first is None else first
        if preemption.requested():
            return None
        results, pictures = self.task.report(state.ema, frozen, total, first)
        if step == self.num_steps or _due(step, self.config.fid.every_steps):
            self.quality.on_batch = preemption.check
            try:
                results |= self.task.measure_quality(self.quality, step, _on_host(state.ema, self.mesh))
            except Preempted:
                return None
        writer.scalars(step, results)
        if self.best is not None and self.best.beaten_by(results):
            self.best.save(state, record, results)
            self._export(state, self.workdir / "best")
        for name, rows in pictures.items():
            writer.pictures(step, name, rows)
        if self.main:
            logging.info("step %d, held out: %s", step, ", ".join(f"{k[5:]} {v:.4g}" for k, v in results.items()))
        return results

    def _inputs(self, batch, *more: str):
        """What of a batch goes to the devices."""
        fields = {name: batch[name] for name in (*self.task.inputs, *more)}
        return global_batch(fields | ({"index": np.int32(batch["index"])} if "index" in more else {}), self.mesh)

    def _export(self, state, folder):
        params = _on_host(state.ema, self.mesh, keep=self.main)
        if self.main:
            folder = folder / self.config.task
            self.task.export(params).save_pretrained(folder)
            logging.info("exported to %s", folder)

    def _write_config(self):
        if self.main:
            (self.workdir / "config.json").write_text(json.dumps(self.saved_config, indent=2) + "\n")


def _due(step: int, every: int) -> bool:
    return every > 0 and step % every == 0


def _fetch(pending) -> dict[str, float]:
    """The newest step's metrics; every step since the last look is checked. Empties `pending`."""
    values = {}
    for step, metrics in pending:
        values = {name: float(value) for name, value in jax.device_get(metrics).items()}
        check_finite(step, values)
    pending.clear()
    return values


def _on_host(tree, mesh, *, keep: bool = True):
    """Sharded arrays as whole ones on the hosts of the processes that `keep` them, None in the others.

    One after the other: a device holds one whole array more than before, never all. Called by all processes.
    """

    def one(array):
        whole = array if jax.process_count() == 1 else jax.block_until_ready(jax.device_put(array, replicated(mesh)))
        return np.asarray(whole) if keep else None

    return jax.tree.map(one, tree)


def _sum(count: int) -> int:
    """Over all processes."""
    return count if jax.process_count() == 1 else int(multihost_utils.process_allgather(np.int64(count)).sum())


def _check_batches(config, mesh):
    """ValueError naming the field whose number of images does not divide among the devices, or into parts."""
    batch, parts = config.train.batch_size, config.optim.accumulate
    check_global_batch(batch, mesh)
    if parts < 1 or batch // mesh.size % parts:
        fitting = [n for n in range(1, batch // mesh.size + 1) if batch // mesh.size % n == 0]
        raise ValueError(
            f"optim.accumulate={parts} does not cut the {batch // mesh.size} images a device of "
            f"train.batch_size={batch} into equal parts: use one of {', '.join(map(str, fitting))}"
        )
    try:
        check_global_batch(config.eval.batch_size or batch, mesh)
    except ValueError as error:
        raise ValueError(f"eval.batch_size={config.eval.batch_size}: {error}, or 0 for that of training") from None


def _check_position(record, batch_size):
    if record["next_sample"] != record["step"] * batch_size:
        raise ValueError(
            f"the checkpoint of step {record['step']} goes on with sample {record['next_sample']}, but steps of "
            f"train.batch_size={batch_size} samples lead to {record['step'] * batch_size}: its record was changed; use "
            "another workdir"
        )


def _plain(config, field):
    value = config
    for part in field.split("."):
        value = value[part]
    return list(value) if isinstance(value, tuple) else value


def _check_writable(folder: pathlib.Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f".writable_{jax.process_index()}"
        probe.write_text("written")
        probe.unlink()
    except OSError as error:
        raise PermissionError(f"cannot write to {folder}: {error.strerror}. Choose another --workdir") from error
