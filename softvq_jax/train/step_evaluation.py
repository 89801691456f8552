"""Evaluates steps of a run: runs the evaluators that are due, keeps the best step, and exports weights."""

import dataclasses
import pathlib
from collections.abc import Mapping
from typing import Any

import jax
from absl import logging

from softvq_jax.train import offload
from softvq_jax.train.agreement import agreed, sum_over_processes
from softvq_jax.train.best import Best
from softvq_jax.train.evaluator import EvaluatedRun, Evaluator
from softvq_jax.train.metrics import MetricsWriter
from softvq_jax.train.preemption import Preempted
from softvq_jax.train.write_errors import WriteFailed, writing


class StepEvaluation:
    """Evaluates steps of a run. All processes call it.

    Args:
      run: the run.
      evaluators: its evaluators, by name.
      best: keeps the best step; None keeps none.
    """

    def __init__(self, run: EvaluatedRun, evaluators: Mapping[str, Evaluator], best: Best | None):
        self._run, self._evaluators, self._best = run, evaluators, best

    def due(self, step: int) -> bool:
        """Returns whether an evaluator is due after `step`."""
        return any(evaluator.due(step) for evaluator in self._evaluators.values())

    def evaluate(self, state: Any, record: dict[str, Any], writer: MetricsWriter) -> dict[str, float] | None:
        """Runs the evaluators that are due, and keeps the step if it is the best; returns None if preempted.

        The line of metrics comes last: a run that ends before it evaluates again when it resumes.

        Args:
          state: of the step.
          record: of the step, as in its checkpoint.
          writer: writes metrics and pictures.

        Raises:
          WriteFailed: a file cannot be written.
        """
        step, metrics, images = record["step"], {}, {}
        try:
            on_devices = dataclasses.replace(state, ema=offload.on_devices(state.ema))
            for evaluator in self._evaluators.values():
                if evaluator.due(step):
                    found = evaluator(on_devices, step)
                    metrics, images = metrics | found.metrics, images | found.images
        except Preempted:
            return None
        except WriteFailed:
            raise  # all processes raise it
        except OSError as error:
            if jax.process_count() == 1:
                raise WriteFailed(f"the evaluation of step {step} stopped: {error}") from error
            raise
        if self._best is not None and self._best.is_better(metrics, step):
            self._best.save(state, record, metrics)
            self.export(state, self._run.workdir / "best")
        with agreed():
            for name, rows in images.items():
                writer.pictures(step, name, rows)
            writer.scalars(step, metrics)
            writer.sync()
        if jax.process_index() == 0:
            words = (f"{name.removeprefix('eval_')} {value:.4g}" for name, value in metrics.items())
            logging.info("step %d, held out: %s", step, ", ".join(words))
        return metrics

    def evaluated_before(self, step: int, writer: MetricsWriter) -> dict[str, float] | None:
        """Returns the results of `step` in `metrics.jsonl` if those of all evaluators that are due are there, else None.

        Empty in processes but the first. Incomplete results are removed.
        """
        found = writer.evaluation()
        due = [evaluator for evaluator in self._evaluators.values() if evaluator.due(step)]
        complete = found is not None and all(
            any(name in found for name in evaluator.better) for evaluator in due if evaluator.better
        )
        if sum_over_processes(complete):
            return found or {}
        writer.remove_evaluation()
        return None

    def export(self, state: Any, folder: pathlib.Path) -> None:
        """Writes the averaged weights of a state to a subfolder of `folder` that is named after the task."""
        main = jax.process_index() == 0
        params = self._run.on_host(state.ema, keep=main)
        with agreed():
            if main:
                folder = folder / self._run.config.task
                with writing(folder):
                    self._run.task.export(params).save_pretrained(folder)
                logging.info("exported to %s", folder)
