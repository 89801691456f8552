"""The workdir of a run: checked, locked against a second run, and left as it was found by a run that is refused."""

import contextlib
import pathlib
from collections.abc import Iterator
from typing import Any

import jax

from softvq_jax.storage import files
from softvq_jax.storage.bucket_lock import BucketLock
from softvq_jax.storage.lock import FolderLock
from softvq_jax.storage.paths import as_path, is_remote
from softvq_jax.train.checkpoint import Checkpoints, SaveFailed
from softvq_jax.train.preflight import check_writable
from softvq_jax.weights.s3_checkpoints import prepare_orbax


class Workdir:
    """Makes and locks the workdir of a run; process 0 holds the lock for all.

    Args:
      path: the workdir.
      fallback: `config.checkpoint.fallback`.

    Raises:
      Locked: another run uses the workdir.
      ValueError: a folder is in an `s3://` bucket, which the installed version of Orbax cannot use.
      PermissionError: a folder cannot be written.
    """

    def __init__(self, path: pathlib.Path, fallback: str):
        for folder in (path, as_path(fallback) if fallback else path):
            prepare_orbax(folder)
        self._path = path
        self._new: list[pathlib.Path] = []
        self._lock = None
        try:
            self._make(path)
            if jax.process_index() == 0:
                self._lock = _lock(path)
            self._make(path / "checkpoints")
            if fallback:
                self._make(as_path(fallback), "config.checkpoint.fallback")
            if not (path / "best").exists():
                self._new += [path / "best", path / "best" / "checkpoints"]
        except BaseException:
            self.close()
            raise

    def check(self) -> None:
        """Raises `Locked` if another program took the lock over while this one was suspended."""
        if self._lock is not None:
            self._lock.check()

    @contextlib.contextmanager
    def leaving_as_found(self, *names: str) -> Iterator[None]:
        """Context that writes the first files of a run; after an error in it, the new ones of `names` are removed."""
        new = [self._path / name for name in names if not (self._path / name).exists()]
        try:
            yield
        except BaseException:
            for path in new:
                with contextlib.suppress(OSError):
                    path.unlink(missing_ok=True)
            raise

    def close(self) -> None:
        """Gives the lock back, and removes the folders that were made for this run and are empty."""
        if self._lock is not None:
            self._lock.release()
        if jax.process_index() == 0:
            files.remove_empty(self._new)

    def _make(self, folder, field="--workdir"):
        with contextlib.suppress(OSError):  # named by the check below
            self._new += files.make_folder(folder)
        check_writable(folder, field)


def _lock(path: pathlib.Path) -> BucketLock | FolderLock:
    return BucketLock(path) if is_remote(path) else FolderLock(path)


def save_elsewhere(fallback: str, workdir: pathlib.Path, state: Any, record: dict) -> str:
    """Saves the state of a run whose workdir cannot be written; returns where, or why not, for its message.

    Called by all processes. Raises nothing.

    Args:
      fallback: `config.checkpoint.fallback`; empty for none.
    """
    if not fallback:
        return "To have the last state saved elsewhere in such a case, set config.checkpoint.fallback"
    step = record["step"]
    folder = as_path(fallback) / f"{workdir.resolve().name}_step_{step}"
    try:
        files.make_folder(folder)
        checkpoints = Checkpoints(folder, keep=1, keep_every_steps=0)
        checkpoints.save(state, record)
        checkpoints.close()
    except (SaveFailed, OSError) as error:
        return f"Nor could it be saved in config.checkpoint.fallback: {error}"
    return (
        f"The state of step {step} is saved in {folder}: move {folder / str(step)} to {workdir / 'checkpoints'} to "
        "continue from it"
    )
