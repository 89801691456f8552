"""Writes the pictures of a run, and its metrics as JSON lines and, optionally, TensorBoard events."""

import contextlib
import json
import pathlib
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from softvq_jax.report.image_grid import rows_grid, save_png
from softvq_jax.storage import files, json_lines, line_log

TRAINING = "images_per_second"  # is in every line of a training step, and in no other


class NonFinite(FloatingPointError):
    """A loss is not finite; the message names the step and the first such term.

    Attributes:
      step: of the loss.
    """

    def __init__(self, message: str, step: int):
        super().__init__(message)
        self.step = step


class WriteFailed(OSError):
    """A file of the run could not be written; the message names it."""


class MetricsWriter:
    """Appends to `metrics.jsonl` in a workdir, and to TensorBoard's event files.

    A workdir that is removed or turned read-only is noticed at the next line. In a bucket, lines are uploaded in the
    background, see `storage.line_log`.

    Args:
      workdir: the run's folder.
      tensorboard: whether to write TensorBoard events, which needs the `tensorboard` extra.
      step: the step that the run resumes from; lines of later steps are removed.
      active: True in one process; the others write nothing.

    Raises:
      ValueError: a line of `metrics.jsonl` is not one that a run writes; with file and line.
    """

    def __init__(self, workdir: pathlib.Path, *, tensorboard: bool, step: int, active: bool):
        self._active, self._folder, self._tensorboard = active, workdir, None
        self._path = workdir / "metrics.jsonl"
        if not active:
            return
        kept = [line for line in json_lines.read_metrics(self._path) if line["step"] <= step]
        self._kept, self._step, self._log = kept, step, line_log.open_log(self._path)
        self._write_kept()
        if tensorboard:
            try:
                import tensorboardX  # pyright: ignore[reportMissingImports] (extra)
            except ImportError as error:
                raise ImportError("log.tensorboard needs: pip install 'softvq-jax[tensorboard]'") from error
            self._tensorboard = tensorboardX.SummaryWriter(str(workdir / "tensorboard"), purge_step=step + 1)

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
          WriteFailed: the disk is full, or the file is removed or read-only.
        """
        if not self._active:
            return
        line = json.dumps({"step": step} | dict(values)).encode() + b"\n"
        with writing(self._path):
            self._log.append(line)
            if self._tensorboard is not None:
                for name, value in values.items():
                    self._tensorboard.add_scalar(name, value, step)

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
            if self._tensorboard is not None:
                self._tensorboard.add_image(name, picture, step, dataformats="HWC")

    def sync(self) -> None:
        """Returns once all lines are on disk."""
        if self._active:
            with writing(self._path):
                self._log.sync()

    def _write_kept(self):
        self._log.rewrite(json.dumps(line).encode() + b"\n" for line in self._kept)

    def close(self) -> None:
        if self._active:
            with writing(self._path):
                self._log.close()
        if self._tensorboard is not None:
            self._tensorboard.close()


@contextlib.contextmanager
def writing(path: pathlib.Path) -> Iterator[None]:
    """Turns an OSError inside into a `WriteFailed` that names `path`."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        raise WriteFailed(f"{path} could not be written: {reason}") from error


def check_finite(step: int, values: Mapping[str, float]) -> None:
    """Raises NonFinite, naming the first value that is not finite."""
    for name, value in values.items():
        if not np.isfinite(value):
            raise NonFinite(f"{name} is {value} at step {step}; the run stops", step)
