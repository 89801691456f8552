"""The best step of a run, kept beside its newest ones."""

import pathlib
from collections.abc import Mapping

from ml_collections import ConfigDict

from softvq_jax.train.checkpoint import Checkpoints

BETTER = {
    "eval_psnr": 1,
    "eval_ssim": 1,
    "eval_codebook_usage": 1,
    "eval_is_mean": 1,
    "eval_loss": -1,
    "eval_rfid": -1,
    "eval_gfid": -1,
}
"""Held-out numbers that can choose, and whether more (1) or less (-1) is better."""

OF_FID = ("eval_ssim", "eval_is_mean", "eval_rfid", "eval_gfid")
"""Those that are measured together with FID, on its schedule."""


class Best:
    """Keeps the checkpoint of the step where one held-out number was best.

    Args:
      config: the run's, with `checkpoint.best_metric`, one of `BETTER`.
      folder: where the checkpoint lies; a best step that is there already stays until it is beaten.

    Raises:
      ValueError: for a metric of which it is not known what is better, or that is never measured.
    """

    def __init__(self, config: ConfigDict, folder: pathlib.Path):
        self.metric = config.checkpoint.best_metric
        if self.metric not in BETTER:
            raise ValueError(f"checkpoint.best_metric is {self.metric!r}; expected one of {', '.join(BETTER)}")
        if self.metric in OF_FID and not config.fid.every_steps:
            raise ValueError(f"checkpoint.best_metric is {self.metric!r}, which is not measured: set fid.every_steps")
        self.checkpoints = Checkpoints(folder, keep=1, keep_every_steps=0)
        record = self.checkpoints.record()
        self.value = record["value"] if record and record["metric"] == self.metric else None

    def beaten_by(self, results: Mapping[str, float]) -> bool:
        """Whether an evaluation is better than every one before; not where it lacks the metric."""
        if self.metric not in results:
            return False
        return self.value is None or BETTER[self.metric] * (results[self.metric] - self.value) > 0

    def save(self, state, record: dict, results: Mapping[str, float]) -> None:
        """Keeps this step in place of the one before."""
        self.value = results[self.metric]
        self.checkpoints.delete_from(record["step"])  # of a run that resumed before its best step
        self.checkpoints.save(state, record | {"metric": self.metric, "value": self.value})

    def close(self) -> None:
        """Waits for the save under way."""
        self.checkpoints.close()
