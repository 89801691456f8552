"""Writers of a run's metrics and pictures for TensorBoard and Weights & Biases, beside `metrics.jsonl`.

`config.log.writers` names them. All get the same tags, such as `losses/reconstruction` and `held_out/psnr`: the metric's
group in the report, and its name.
"""

import contextlib
import pathlib
import tempfile
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol

import numpy as np

from softvq_jax.config.run import writer_names
from softvq_jax.report.curves import group_of
from softvq_jax.storage import files
from softvq_jax.storage.paths import is_remote

UPLOAD_SECONDS = 60.0


class RunInfo(NamedTuple):
    """The run that a writer writes about.

    Attributes:
      workdir: of the run.
      id: identifies the run; restarts keep it.
      config: its config as JSON values.
      step: the step that the run resumes from; what was written about later steps is replaced.
    """

    workdir: pathlib.Path
    id: str
    config: Mapping[str, Any]
    step: int


class Writer(Protocol):
    """Writes metrics and pictures to one place. Only process 0 has writers."""

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Writes values by their tags."""
        ...

    def picture(self, step: int, tag: str, picture: np.ndarray) -> None:
        """Writes a uint8 picture `[H, W, 3]`."""
        ...

    def close(self) -> None: ...


class TensorBoard:
    """Writes event files to `tensorboard` in the workdir (extra `tensorboard`).

    For a workdir in a bucket they are written to a local folder, and uploaded at most every `UPLOAD_SECONDS`.
    """

    def __init__(self, run: RunInfo):
        import tensorboardX  # pyright: ignore[reportMissingImports] (extra)

        self._folder, self._uploaded = run.workdir / "tensorboard", time.monotonic()
        self._local = tempfile.TemporaryDirectory() if is_remote(run.workdir) else None
        folder = str(self._folder) if self._local is None else self._local.name
        # A name of its own even if the run is restarted within a second.
        suffix = f".after_{run.step}"
        self._events = tensorboardX.SummaryWriter(folder, purge_step=run.step + 1, filename_suffix=suffix)

    def scalars(self, step, values):
        for tag, value in values.items():
            self._events.add_scalar(tag, value, step)
        if self._local is not None and time.monotonic() - self._uploaded > UPLOAD_SECONDS:
            self._events.flush()
            self._upload()
            self._uploaded = time.monotonic()

    def picture(self, step, tag, picture):
        self._events.add_image(tag, picture, step, dataformats="HWC")

    def close(self):
        self._events.close()
        if self._local is not None:
            self._upload()
            self._local.cleanup()

    def _upload(self):
        assert self._local is not None
        for path in pathlib.Path(self._local.name).iterdir():
            files.write_bytes(self._folder / path.name, path.read_bytes())


class WandB:
    """Writes a run of Weights & Biases (extra `wandb`), which goes on after a restart.

    Where, as whom and whether online: wandb's own environment variables, such as `WANDB_MODE=offline`. Charts are over
    `step`, a value like others, because wandb refuses to go back to an earlier step of its own counter.

    Raises:
      ValueError: wandb refuses to start the run, for example without a login.
    """

    def __init__(self, run: RunInfo):
        import wandb  # pyright: ignore[reportMissingImports] (extra)

        try:
            self._run = wandb.init(
                project=run.config["log"]["wandb_project"],
                id=run.id,
                name=run.workdir.name,
                config=dict(run.config),
                dir=None if is_remote(run.workdir) else str(run.workdir),
                resume="allow",
                settings=wandb.Settings(console="off", silent=True),  # the log is ours
            )
        except wandb.errors.Error as error:  # pyright: ignore[reportAttributeAccessIssue] (wandb has no export of it)
            reason = str(error).split("\n")[0]
            raise ValueError(
                f"log.writers=wandb: {reason}; log in by `wandb login`, or set WANDB_MODE=offline"
            ) from error
        self._image = wandb.Image
        self._run.define_metric("step")
        self._run.define_metric("*", step_metric="step")

    def scalars(self, step, values):
        self._run.log({"step": step, **values})

    def picture(self, step, tag, picture):
        self._run.log({"step": step, tag: self._image(picture)})

    def close(self):
        self._run.finish()


WRITERS: dict[str, Callable[[RunInfo], Writer]] = {"tensorboard": TensorBoard, "wandb": WandB}


class Writers:
    """The writers that `config.log.writers` names, as one `Writer` that takes names of metrics instead of tags.

    Args:
      names: value of `config.log.writers`.
      run: the run.

    Raises:
      ImportError: a writer's extra is not installed.
    """

    def __init__(self, names: str, run: RunInfo):
        self._writers: list[Writer] = []
        for name in writer_names(names):
            try:
                self._writers.append(WRITERS[name](run))
            except ImportError as error:
                self.close()
                raise ImportError(f"log.writers={name} needs: pip install 'softvq-jax[{name}]'") from error

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Writes metrics, given by their names in `metrics.jsonl`."""
        tags = {tag(name): value for name, value in values.items()}
        for writer in self._writers:
            writer.scalars(step, tags)

    def picture(self, step: int, name: str, picture: np.ndarray) -> None:
        """Writes a uint8 picture `[H, W, 3]`."""
        for writer in self._writers:
            writer.picture(step, f"images/{name}", picture)

    def close(self) -> None:
        with contextlib.ExitStack() as closing:
            for writer in self._writers:
                closing.callback(writer.close)


def tag(name: str) -> str:
    """Returns the hierarchical tag of a metric: `eval_psnr` becomes `held_out/psnr`."""
    group = group_of(name).lower().replace("-", "_").replace(" ", "_")
    return f"{group}/{name.removeprefix('eval_')}"
