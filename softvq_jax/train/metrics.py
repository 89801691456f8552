"""Writes the pictures of a run, and its metrics as JSON lines and, optionally, TensorBoard events."""

import json
import pathlib
from collections.abc import Mapping, Sequence

import numpy as np

from softvq_jax.report.image_grid import rows_grid, save_png
from softvq_jax.storage import files


class NonFinite(FloatingPointError):
    """A loss is not finite; the message names the step and the first such loss."""


class MetricsWriter:
    """Appends to `metrics.jsonl` in a workdir, and to TensorBoard's event files.

    Args:
      workdir: the run's folder.
      tensorboard: whether to write TensorBoard events, which needs the `tensorboard` extra.
      step: the step that the run resumes from; lines of later steps are removed.
      active: True in one process; the others write nothing.
    """

    def __init__(self, workdir: pathlib.Path, *, tensorboard: bool, step: int, active: bool):
        self._active, self._folder, self._tensorboard = active, workdir, None
        if not active:
            return
        path = workdir / "metrics.jsonl"
        _drop_after(path, step)
        self._file = path.open("a")
        if tensorboard:
            try:
                import tensorboardX  # pyright: ignore[reportMissingImports] (extra)
            except ImportError as error:
                raise ImportError("log.tensorboard needs: pip install 'softvq-jax[tensorboard]'") from error
            self._tensorboard = tensorboardX.SummaryWriter(str(workdir / "tensorboard"), purge_step=step + 1)

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Writes a line `{"step": step, ...}`."""
        if not self._active:
            return
        self._file.write(json.dumps({"step": step} | dict(values)) + "\n")
        self._file.flush()
        if self._tensorboard is not None:
            for name, value in values.items():
                self._tensorboard.add_scalar(name, value, step)

    def pictures(self, step: int, name: str, rows: Sequence[np.ndarray]) -> None:
        """Writes rows of uint8 images `[n, H, W, 3]`, stacked vertically, to `images/NAME_STEP.png`."""
        if not self._active:
            return
        picture = rows_grid(rows)
        folder = self._folder / "images"
        folder.mkdir(exist_ok=True)
        save_png(folder / f"{name}_{step:07d}.png", picture)
        if self._tensorboard is not None:
            self._tensorboard.add_image(name, picture, step, dataformats="HWC")

    def close(self) -> None:
        if self._active:
            self._file.close()
        if self._tensorboard is not None:
            self._tensorboard.close()


def check_finite(step: int, values: Mapping[str, float]) -> None:
    """Raises NonFinite, naming the first value that is not finite."""
    for name, value in values.items():
        if not np.isfinite(value):
            raise NonFinite(
                f"{name} is {value} at step {step}. The run stops; the last checkpoint is older. Resume with a "
                "lower optim.learning_rate or another seed, or check the data of that step"
            )


def _drop_after(path: pathlib.Path, step: int) -> None:
    if not path.exists():
        return
    kept = []
    for line in path.read_text().splitlines():
        try:
            if json.loads(line)["step"] <= step:
                kept.append(line)
        except (json.JSONDecodeError, KeyError):
            continue  # an incomplete line
    files.write_text(path, "".join(line + "\n" for line in kept))
