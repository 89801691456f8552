"""Writers of a run's metrics and pictures for TensorBoard and Weights & Biases, beside `metrics.jsonl`.

`config.log.writers` names them. All get the same tags, such as `losses/reconstruction` and `held_out/psnr`: the metric's
group in the report, and its name.
"""

import contextlib
import os
import pathlib
import socket
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple, Protocol

import numpy as np

from softvq_jax.config.run import writer_names
from softvq_jax.report.curves import group_of
from softvq_jax.storage import files
from softvq_jax.storage.paths import is_remote
from softvq_jax.train.write_errors import WriteFailed, writing

STORED_SECONDS = 60.0  # between two times that TensorBoard's events are on disk


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


class FailingWriter:
    """A writer that remembers an error of the disk, which it has then reported: closing does not report it again."""

    _failed = False

    @contextlib.contextmanager
    def _writing(self, path: pathlib.Path) -> Iterator[None]:
        try:
            with writing(path):
                yield
        except WriteFailed:
            self._failed = True
            raise


class TensorBoard(FailingWriter):
    """Writes an event file to `tensorboard` in the workdir (extra `tensorboard`), on disk at most `STORED_SECONDS` later.

    For a workdir in a bucket it is written to a local folder, and uploaded as often. It is written in the training loop,
    not in the thread of `tensorboardX.SummaryWriter`: when that thread ends with an error, such as a full disk, the next
    events fill its queue, and the program waits forever.
    """

    def __init__(self, run: RunInfo):
        from tensorboardX import record_writer, summary  # pyright: ignore[reportMissingImports] (extra)
        from tensorboardX.proto import event_pb2  # pyright: ignore[reportMissingImports] (extra)

        messages: Any = event_pb2  # its classes are made at run time
        self._summary, self._event = summary, messages.Event
        # A name of its own even if the run is restarted within a second.
        name = f"events.out.tfevents.{time.time():.0f}.{socket.gethostname()}.{os.getpid()}.after_{run.step}"
        folder = run.workdir / "tensorboard"
        self._local = tempfile.TemporaryDirectory() if is_remote(run.workdir) else None
        self._path = folder / name if self._local is None else pathlib.Path(self._local.name, name)
        self._object = folder / name
        self._stored = 0.0
        with self._writing(self._object):
            files.make_folder(self._path.parent)
            self._records = record_writer.RecordWriter(str(self._path))
        # TensorBoard hides the events of later steps, which the run takes again.
        start = messages.SessionLog(status=messages.SessionLog.START)
        self._add(step=run.step + 1, file_version="brain.Event:2")
        self._add(step=run.step + 1, session_log=start)

    def scalars(self, step, values):
        for tag, value in values.items():
            self._add(step=step, summary=self._summary.scalar(tag, value))
        if time.monotonic() - self._stored > STORED_SECONDS:
            self._store()

    def picture(self, step, tag, picture):
        self._add(step=step, summary=self._summary.image(tag, picture, dataformats="HWC"))

    def close(self):
        try:
            if self._failed:  # said already
                with contextlib.suppress(OSError):
                    self._records.close()
            else:
                self._store()
                with self._writing(self._object):
                    self._records.close()
        finally:
            if self._local is not None:
                self._local.cleanup()

    def _add(self, **fields):
        with self._writing(self._object):
            self._path.stat()  # a removed file or folder is an error
            self._records.write(self._event(wall_time=time.time(), **fields).SerializeToString())

    def _store(self):
        """Returns once all events are on disk or in the bucket."""
        self._stored = time.monotonic()
        with self._writing(self._object):
            self._path.stat()
            self._records.flush()
            if self._local is not None:
                files.write_bytes(self._object, self._path.read_bytes())


class WandB(FailingWriter):
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
        self._image, self._folder = wandb.Image, pathlib.Path(self._run.dir)
        self._writes = self._folder.is_dir()  # not with WANDB_MODE=disabled
        self._run.define_metric("step")
        self._run.define_metric("*", step_metric="step")

    def scalars(self, step, values):
        self._log({"step": step, **values})

    def picture(self, step, tag, picture):
        self._log({"step": step, tag: self._image(picture)})

    def close(self):
        if not self._failed:  # its process may be gone, and the error is reported already
            with self._writing(self._folder):
                self._run.finish()

    def _log(self, values):
        with self._writing(self._folder):
            if self._writes:
                self._folder.stat()  # wandb's own process does not report that it is removed
            self._run.log(values)


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
