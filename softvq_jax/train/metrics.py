"""Writes the pictures of a run, and its metrics as JSON lines; passes both on to `train.writers`."""

import json
import pathlib
from collections.abc import Callable, Mapping, Sequence

import jax
import numpy as np

from softvq_jax.report.image_grid import rows_grid, save_png
from softvq_jax.storage import files, json_lines, line_log
from softvq_jax.train.write_errors import writing
from softvq_jax.train.writers import Writers

NAME = "metrics.jsonl"
TRAINING = "images_per_second"  # is in every line of a training step, and in no other


class NonFinite(FloatingPointError):
    """A loss is not finite; the message names the step and the first such term.

    Attributes:
      step: of the loss.
    """

    def __init__(self, message: str, step: int):
        super().__init__(message)
        self.step = step


class MetricsWriter:
    """Appends to `metrics.jsonl` in a workdir, and passes metrics and pictures on to other writers.

    A workdir that is removed or turned read-only is noticed at the next line. In a bucket, lines are uploaded in the
    background, see `storage.line_log`.

    Args:
      workdir: the run's folder.
      step: the step that the run resumes from; lines of later steps are removed.
      active: True in one process; the others write nothing.
      writers: opens the other writers, once the lines of later steps are removed.

    Raises:
      ValueError: a line of `metrics.jsonl` is not one that a run writes; with file and line.
    """

    def __init__(self, workdir: pathlib.Path, *, step: int, active: bool, writers: Callable[[], Writers] | None = None):
        self._active, self._folder, self._writers = active, workdir, None
        self._path = workdir / NAME
        if not active:
            return
        kept = [line for line in json_lines.read_metrics(self._path) if line["step"] <= step]
        self._kept, self._step, self._log = kept, step, line_log.open_log(self._path)
        self._write_kept()
        self._writers = writers() if writers is not None else None

    def evaluation(self) -> dict[str, float] | None:
        """Returns the results of the evaluation of the step that the run resumes from; None if there is none."""
        for line in self._kept if self._active else ():
            if line["step"] == self._step and TRAINING not in line:
                return {name: value for name, value in line.items() if name != "step"}
        return None

    def remove_evaluation(self) -> None:
        """Removes the results that `evaluation` returns; call it before any line is written."""
        if self.evaluation() is not None:
            self._kept = [line for line in self._kept if line["step"] != self._step or TRAINING in line]
            self._write_kept()

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Writes a line `{"step": step, ...}`; those of training steps have `images_per_second`, evaluations have not.

        Raises:
          WriteFailed: the disk is full, or the file is removed or read-only; or another writer fails.
        """
        if not self._active:
            return
        line = json.dumps({"step": step} | dict(values)).encode() + b"\n"
        with writing(self._path):
            self._log.append(line)
        if self._writers is not None:
            with writing(self._folder):
                self._writers.scalars(step, values)

    def pictures(self, step: int, name: str, rows: Sequence[np.ndarray]) -> None:
        """Writes rows of uint8 images `[n, H, W, 3]`, stacked vertically, to `images/NAME_STEP.png`."""
        if not self._active:
            return
        picture = rows_grid(rows)
        folder = self._folder / "images"
        path = folder / f"{name}_{step:07d}.png"
        with writing(path):
            self._log.check()  # the workdir is still there
            files.make_folder(folder)
            save_png(path, picture)
        if self._writers is not None:
            with writing(self._folder):
                self._writers.picture(step, name, picture)

    def sync(self) -> None:
        """Returns once all lines are on disk."""
        if self._active:
            with writing(self._path):
                self._log.sync()

    def _write_kept(self):
        self._log.rewrite(json.dumps(line).encode() + b"\n" for line in self._kept)

    def close(self) -> None:
        """Closes the file and the other writers; raises WriteFailed if their last lines cannot be written."""
        try:
            if self._active:
                with writing(self._path):
                    self._log.close()
        finally:
            if self._writers is not None:
                with writing(self._folder):
                    self._writers.close()


def check_finite(step: int, values: Mapping[str, float]) -> None:
    """Raises NonFinite, naming the first value that is not finite."""
    for name, value in values.items():
        if not np.isfinite(value):
            raise NonFinite(f"{name} is {value} at step {step}; the run stops", step)


def newest_metrics(pending: list[tuple[int, Mapping[str, jax.Array]]]) -> dict[str, float]:
    """Returns the newest step's metrics, after checking those of all steps in `pending`; empties `pending`.

    Args:
      pending: steps and their metrics, in order.

    Raises:
      NonFinite: a metric of a step is not finite.
    """
    values = {}
    for step, metrics in pending:
        values = {name: float(value) for name, value in jax.device_get(metrics).items()}
        check_finite(step, values)
    pending.clear()
    return values
