"""Keeps the best checkpoint of a run, in addition to the newest ones."""

import pathlib
from collections.abc import Mapping

from softvq_jax.config.fields import is_number
from softvq_jax.train.checkpoint import Checkpoints
from softvq_jax.train.evaluator import Evaluator
from softvq_jax.train.evaluators import HeldOut


class Best:
    """Keeps the checkpoint of the step with the best value of one held-out metric.

    Args:
      metric: `config.checkpoint.best_metric`.
      evaluators: evaluators of the run; their `better` states whether higher or lower values are better.
      folder: folder of the best checkpoint; a checkpoint already in it stays until a later step is better.

    Raises:
      ValueError: no evaluator has this metric, or its evaluator is turned off.
    """

    def __init__(self, metric: str, evaluators: Mapping[str, Evaluator], folder: pathlib.Path):
        known = {name: better for evaluator in evaluators.values() for name, better in evaluator.better.items()}
        if metric not in known:
            raise ValueError(f"checkpoint.best_metric is {metric!r}; expected one of {', '.join(known)}")
        [name, *_] = [name for name, evaluator in evaluators.items() if metric in evaluator.better]
        if not evaluators[name].section.every_steps and not isinstance(evaluators[name], HeldOut):
            raise ValueError(
                f"checkpoint.best_metric is {metric!r}, which is not measured: set evals.{name}.every_steps"
            )
        self.metric, self._sign = metric, 1 if known[metric] == "higher" else -1
        self.checkpoints = Checkpoints(folder, keep=1, keep_every_steps=0)
        record = self.checkpoints.record()
        self.value = self.step = None
        if record and record.get("metric") == metric and is_number(record.get("value")):
            self.value, self.step = record["value"], record["step"]

    def is_better(self, metrics: Mapping[str, float], step: int) -> bool:
        """Whether the metrics of `step` are better than those of the best step, or it is the best step.

        False if they lack the metric.
        """
        if self.metric not in metrics:
            return False
        if step == self.step:  # of a run that resumed before it, or that ended before its export
            return True
        return self.value is None or self._sign * (metrics[self.metric] - self.value) > 0

    def save(self, state, record: dict, metrics: Mapping[str, float]) -> None:
        """Keeps this step in place of the best one before; returns when it is on disk."""
        self.value, self.step = metrics[self.metric], record["step"]
        self.checkpoints.delete_from(record["step"])  # of a run that resumed before its best step
        self.checkpoints.save(state, record | {"metric": self.metric, "value": self.value})
        self.checkpoints.wait()

    def close(self) -> None:
        """Waits for the save in progress."""
        self.checkpoints.close()
