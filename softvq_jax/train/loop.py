"""The training loop, for all tasks.

A run finds weights and data, checks that the workdir is writable, reads the newest checkpoint, and only then compiles.
Parameters come from the newest checkpoint in the workdir if there is one, else from the weights in the config if any are
set; else they are newly initialized.
"""

import contextlib
import functools
import json
import os
import time
from typing import Any

import jax
from absl import logging
from ml_collections import ConfigDict

from softvq_jax.config.paths import with_expanded_paths
from softvq_jax.config.schemas import check_values
from softvq_jax.data.pipeline import Batches
from softvq_jax.parallel.mesh import make_mesh
from softvq_jax.parallel.sharding import abstract, init_sharded
from softvq_jax.plurals import counted
from softvq_jax.storage import files
from softvq_jax.storage.paths import as_path, expand
from softvq_jax.train import elastic, notes, offload
from softvq_jax.train.agreement import agreed, sum_over_processes
from softvq_jax.train.best import Best
from softvq_jax.train.checkpoint import Checkpoints, SaveFailed
from softvq_jax.train.closing import at_end
from softvq_jax.train.compile import jit_step, put
from softvq_jax.train.evaluator import EvaluatedRun
from softvq_jax.train.evaluators import open_evaluators
from softvq_jax.train.first_start import NAME as FIRST_START
from softvq_jax.train.first_start import first_start
from softvq_jax.train.metrics import NAME as METRICS
from softvq_jax.train.metrics import MetricsWriter, NonFinite, newest_metrics
from softvq_jax.train.preemption import Preempted, Preemption
from softvq_jax.train.preflight import check_batches
from softvq_jax.train.profile import Profile, ProfileSteps
from softvq_jax.train.progress import parameter_table, progress_line
from softvq_jax.train.run_record import RunRecord
from softvq_jax.train.speed import Speed, model_flops
from softvq_jax.train.step_clock import EVALUATION, StepClock
from softvq_jax.train.step_evaluation import StepEvaluation
from softvq_jax.train.task import Task, data_of
from softvq_jax.train.workdir import Workdir, save_elsewhere
from softvq_jax.train.write_errors import WriteFailed
from softvq_jax.train.writers import RunInfo, Writers

AHEAD = 2  # steps that may be queued on the device before the host waits


class Run:
    """A run of one task in one workdir; `Run(...).train()` trains to the last step.

    Args:
      config: the locked config.
      workdir: a new folder, or the folder of a run to resume.
      kind: the class of the task; its `open` finds the data and reads the pretrained weights.
      source: images in place of those of `config.data`: any sequence of `(image, label)`, a function that returns one, or
        a `data.source.Source`; see `data.sequence`. A share is held out unless `config.data.eval_path` names images.
      allow_changes: lets a run go on with other values of `train`, `optim`, `seed` and `gan.start_step`, which its
        checkpoints then record.
      profile_steps: steps to trace, see `train.profile`.

    Raises:
      PermissionError, ValueError, FileNotFoundError: config, data, weights or workdir are unusable; the message names
        what to change.
    """

    def __init__(
        self,
        config: ConfigDict,
        workdir: str | os.PathLike,
        kind: type[Task],
        *,
        source: Any = None,
        allow_changes: bool = False,
        profile_steps: ProfileSteps | None = None,
    ):
        self.began = time.time()
        if source is not None:
            config = config.copy_and_resolve_references()
            config.data.source = "python"
        check_values(config)
        config = with_expanded_paths(config)
        workdir = as_path(expand(os.fspath(workdir)))
        self.config, self.workdir = config, workdir
        self.main = jax.process_index() == 0
        self.mesh = make_mesh(**config.mesh)
        check_batches(config, self.mesh)
        if config.optim.offload:
            offload.check_devices(self.mesh)
        self.allow_changes, self.profile = allow_changes, Profile(profile_steps, workdir)
        self.folder = Workdir(workdir, config.checkpoint.fallback)
        self.best: Best | None = None
        self._opened: list[Best | Checkpoints] = []  # to close
        self._latest: tuple[Any, dict] = None, {}  # state and record of the newest step, while it trains
        try:
            self._open(kind, source)
        except BaseException:
            self._close(raise_errors=False)
            raise

    def train(self) -> dict[str, float]:
        """Trains to the last step; leaves checkpoints, metrics, pictures and the exported weights in the workdir.

        Returns:
          The metrics of the last step's evaluation; empty in processes but the first, if a finished run is started again.

        Raises:
          NonFinite: a loss is not finite.
          Preempted: the run was preempted, and has saved a checkpoint.
          SaveFailed, WriteFailed: a file of the run cannot be written.
        """
        with jax.set_mesh(self.mesh), Preemption() as preemption, self._closing():
            # Start.
            state, record = self._restore_or_init()
            elastic.prepare(self.task.step, self.config, self.mesh.size, record)
            writer, start = self._open_writers(record["step"])
            self._log_notes()
            frozen, key = put(self.task.frozen, self.mesh), jax.random.key(self.config.seed)
            batches = self.data.train_batches(record["next_sample"], self.mesh)
            self.evaluated.frozen, self.evaluated.check_preemption = frozen, preemption.check
            self.evaluated.held_out_sums = self.task.compile_evaluation(self.mesh, state)
            first = self.evaluated.inputs(next(batches))
            step, flops = None, None
            if record["step"] < self.num_steps:
                step, flops = self._compile(state, frozen, first, key)
                with agreed():
                    self.profile.write_program(step, record["step"], self.num_steps)
            with preemption.deferred(), self._closing(), contextlib.ExitStack() as closing:
                closing.enter_context(batches)
                closing.enter_context(at_end(writer.close))
                speed = closing.enter_context(self._speed(start, record, flops))
                closing.enter_context(at_end(self.profile.end))
                self._latest = state, record
                closing.enter_context(self._rescuing())
                first_step = record["step"]
                metrics = self.evaluation.evaluated_before(first_step, writer) if first_step else None
                if metrics is None and 0 < first_step < self.num_steps and self.evaluation.due(first_step):
                    logging.info("evaluating step %d, which was interrupted", first_step)
                    self._evaluate(state, record, writer)
                with self._advising():
                    state = self._steps(step, state, frozen, first, batches, key, record, writer, speed, preemption)
                if metrics is None or first_step < self.num_steps:
                    metrics = self._evaluate(state, record, writer)
                self.evaluation.export(state, self.workdir)
        return metrics

    def _log_notes(self):
        if not self.main:
            return
        logging.info("%s", notes.learning_rate(self.config, len(self.data)))
        if line := notes.classes(self.data.source.class_names):
            logging.info("%s", line)
        warnings = (notes.short_run(self.config, len(self.data)), notes.average(self.config.optim, self.num_steps))
        for warning in filter(None, warnings):
            logging.warning("%s", warning)

    def _evaluate(self, state, record, writer) -> dict[str, float]:
        """Evaluates the newest step and returns its metrics; raises Preempted if it is interrupted."""
        metrics = self.evaluation.evaluate(state, record, writer)
        if metrics is None:
            raise Preempted
        return metrics

    def _open_writers(self, step):
        """Returns the writer of metrics of a run that resumes from `step`, and its first start (None if not process 0)."""
        if not self.main:
            return MetricsWriter(self.workdir, step=step, active=False), None
        config = json.loads(self.config.to_json_best_effort())
        with self.folder.leaving_as_found(FIRST_START, METRICS):  # without a login to wandb, for example
            start = first_start(self.workdir, self.began)
            run = RunInfo(self.workdir, start.id, config, step)
            writers = functools.partial(Writers, self.config.log.writers, run)
            writer = MetricsWriter(self.workdir, step=step, active=True, writers=writers)
        files.write_json(self.workdir / "config.json", config)
        return writer, start

    def _speed(self, start, record, flops) -> Speed:
        return Speed(
            StepClock(process=jax.process_index() if jax.process_count() > 1 else None),
            start=start,
            saved=record,
            batch_size=self.config.train.batch_size,
            num_devices=self.mesh.size,
            flops=flops,
            device=self.mesh.devices.flat[0],
        )

    def _open(self, kind, source):
        config, section = self.config, self.config.checkpoint
        self.task = kind.open(config) if source is None else kind.open(config, source)
        self.data, self.num_steps = data_of(self.task), self.task.num_steps
        self.record = RunRecord.from_task(config, self.task)
        self.evaluated = EvaluatedRun(config, self.task, self.workdir, self.mesh)
        evaluators = open_evaluators(self.evaluated)
        if section.best_metric:
            self.best = Best(section.best_metric, evaluators, self.workdir / "best" / "checkpoints")
            self._opened.append(self.best)
        self.evaluation = StepEvaluation(self.evaluated, evaluators, self.best)
        self.checkpoints = Checkpoints(
            self.workdir / "checkpoints", keep=section.keep, keep_every_steps=section.keep_every_steps
        )
        self._opened.append(self.checkpoints)

    @contextlib.contextmanager
    def _closing(self):
        """Closes the checkpoints and the workdir at the end; where the run fails, its own error is the one raised."""
        try:
            yield
        except Exception:
            self._close(raise_errors=False)
            raise
        except BaseException:  # preempted
            self._close()
            raise
        self._close()

    def _close(self, *, raise_errors=True):
        try:
            for opened in self._opened:
                try:
                    opened.close()
                except SaveFailed as error:
                    if raise_errors:
                        raise
                    logging.error("%s", error)
        finally:
            self.folder.close()

    def _restore_or_init(self):
        """Returns the state to continue from, and its record; see `RunRecord.at_step`."""
        saved = self.checkpoints.record()
        if saved is not None:
            self.record.check(saved, self.workdir, allow_changes=self.allow_changes)
        key = jax.random.key(self.config.seed)
        pretrained = put(self.task.initial, self.mesh)
        shapes = jax.eval_shape(self.task.init, key, pretrained)
        shardings = offload.state_shardings(shapes, self.mesh, self.config.optim.offload)
        restored = self.checkpoints.restore(abstract(shapes, shardings))
        if restored is not None:
            logging.info("resuming after step %d", restored.record["step"])
            return restored.state, self._continued(restored.record)
        if self.main:
            logging.info("parameters by module:\n%s", parameter_table(self.task.parameters(shapes)))
        if self.config.init_from:
            pretrained = pretrained | put({"init_from": self.task.start()}, self.mesh)
        return init_sharded(self.task.init, self.mesh, key, pretrained, shardings=shardings), self.record.at_step(0)

    def _continued(self, saved):
        """The record of a run that goes on from a checkpoint with the record `saved`; logs what changed."""
        self.record.check_position(saved)
        self.record = self.record.after(saved)
        step = saved["step"]
        if step > self.num_steps:
            raise ValueError(
                f"the checkpoint is of step {step}, but the run ends at step {self.num_steps}: set "
                f"--config.train.num_steps to {step} or more"
            )
        if len(self.record.changes) > len(saved.get("changes", ())):
            fields = self.record.changes[-1]["fields"]
            lines = notes.changes(fields, saved["config"], self.config, step, len(self.data))
            logging.warning("going on after step %d with changes:\n  %s", step, "\n  ".join(lines))
        return saved | self.record.at_step(step, saved["unreadable_images"])

    def _compile(self, state, frozen, batch, key):
        logging.info("compiling the training step for %s", counted(self.mesh.size, "device"))
        began = time.monotonic()
        step = jit_step(self.task.step, state, frozen, self.mesh, offload=self.config.optim.offload)
        traced = step.trace(state, frozen, batch, key)
        compiled = traced.lower().compile()
        logging.info("compiled in %.1f s", time.monotonic() - began)
        return compiled, model_flops(traced)

    def _steps(self, step, state, frozen, batch, batches: Batches, key, record, writer, speed: Speed, preemption):
        """Trains from the step of `record` to the last one, updates `record`, and returns the final state, saved."""
        config, pending, start, unreadable_before = self.config, [], record["step"], record["unreadable_images"]
        clock = speed.clock
        clock.restart()
        for done in range(start + 1, self.num_steps + 1):
            self.profile.before(done)
            state, metrics = clock.call(done, step, state, frozen, batch, key)
            self._latest = state, record
            pending.append((done, metrics))
            unreadable = batches.unreadable  # number among the samples trained on so far
            if done < self.num_steps:
                with clock.during("data"):
                    batch = self.evaluated.inputs(next(batches))  # overlaps with the step on the device
            if self.profile.ends(done):
                with clock.during("profile"), agreed():
                    self.profile.end(metrics)
            if len(pending) > AHEAD:
                jax.block_until_ready(pending[-1 - AHEAD][1])
            last = done == self.num_steps
            evaluating = not last and self.evaluation.due(done)
            stopping = preemption.requested()
            saving = last or stopping or _due(done, config.checkpoint.every_steps)
            if saving or evaluating or done == start + 1 or _due(done, config.log.every_steps):
                values = newest_metrics(pending) | speed.measure()
                record |= self.record.at_step(done, unreadable_before + sum_over_processes(unreadable)) | speed.record()
                with agreed():
                    self.folder.check()
                    writer.scalars(done, values | {"unreadable_images": record["unreadable_images"]})
                if self.main:
                    logging.info(progress_line(done, self.num_steps, config.train.batch_size, values))
                self.checkpoints.check()
            if saving:
                with clock.during("save"):
                    self._save(state, record, writer)
            if evaluating and not stopping:
                with clock.during(EVALUATION):
                    stopping = self.evaluation.evaluate(state, record, writer) is None
            if stopping and not last:
                logging.warning("preempted: saving checkpoint at step %d", done)
                self._save(state, record, writer)
                raise Preempted
        return state

    def _save(self, state, record, writer):
        if self.checkpoints.latest_step() != record["step"]:
            with agreed():
                writer.sync()  # lines up to this step are on disk before its checkpoint is
            self.checkpoints.save(state, record)

    @contextlib.contextmanager
    def _advising(self):
        """Adds to the error of a loss that is not finite how to go on from a checkpoint."""
        try:
            yield
        except NonFinite as error:
            saved = self.checkpoints.complete_steps()
            advice = notes.after_non_finite(error.step, saved, self.config, self.workdir)
            raise NonFinite(f"{error}. {advice}", error.step) from error

    @contextlib.contextmanager
    def _rescuing(self):
        """After an error of the disk saves the newest state in `config.checkpoint.fallback`, and says where."""
        try:
            yield
        except (SaveFailed, WriteFailed) as error:
            if jax.process_count() > 1 and not isinstance(error, WriteFailed):
                raise  # the other processes have not seen it, and would not take part in a save
            message = save_elsewhere(self.config.checkpoint.fallback, self.workdir, *self._latest)
            raise type(error)(f"{error}. {message}") from error
        finally:
            self._latest = None, {}


def _due(step: int, every: int) -> bool:
    return every > 0 and step % every == 0
