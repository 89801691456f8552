"""Checkpoints: the state of a run, and a record of its config, data position and fingerprints.

The state is saved as a flat `{path: array}`, so that a checkpoint does not depend on our classes, and restored straight to
its shards. Besides this file, only `weights/checkpoints.py`, which reads parameters alone, uses Orbax.

The record holds a digest of every array's bits and a digest of itself, because Orbax has none: without an error, Zarr
reads a lost chunk as zeros, and values that changed on disk as they are. Each device computes the digest of its own
shards. The result does not depend on the sharding, so a restore on another mesh checks it too.

A checkpoint gets its name when its files are on disk, and older ones are deleted when the name is. So a power cut loses at
most the checkpoint that was being written; Orbax alone syncs neither. In a bucket, where nothing can be renamed, a
checkpoint is complete once Orbax has written `commit_success.txt` into it, after all its arrays.
"""

import asyncio
import contextlib
import os
import pathlib
import time
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from absl import logging
from jax.experimental import multihost_utils
from orbax.checkpoint.path import atomicity

from softvq_jax.storage import files
from softvq_jax.storage.paths import is_remote
from softvq_jax.train.offload import on_devices
from softvq_jax.train.save_errors import drop_tracebacks
from softvq_jax.weights.checkpoints import RECORD_DIGEST, record_digest, record_problem, step_of
from softvq_jax.weights.s3_checkpoints import prepare_orbax


class NoReadableCheckpoint(RuntimeError):
    """There are checkpoints, but none of them can be read."""


class SaveFailed(RuntimeError):
    """A checkpoint could not be written; the message gives the reason and the complete checkpoints."""


class Restored(NamedTuple):
    """A checkpoint's state, placed on the mesh, and its record (config, data position, fingerprints)."""

    state: Any
    record: dict


class _DurablePath(atomicity.AtomicRenameTemporaryPath):
    """The folder of a checkpoint under its temporary name, of which Orbax calls `finalize` before it deletes older ones."""

    async def finalize(self) -> None:
        await asyncio.to_thread(files.sync_tree, self.get())
        await super().finalize()  # adds two small files, and renames
        await asyncio.to_thread(_sync_renamed, pathlib.Path(self.get_final()))


def _sync_renamed(folder: pathlib.Path) -> None:
    for path in folder.iterdir():
        if path.is_file():
            files.sync(path)
    files.sync_folder(folder)
    files.sync_folder(folder.parent)


class Checkpoints:
    """Saves and restores the checkpoints of one workdir, and deletes old ones.

    Args:
      folder: folder of the checkpoints.
      keep: number of newest checkpoints to keep.
      keep_every_steps: also keeps checkpoints of steps divisible by this; 0 keeps none of them.

    Raises:
      ValueError: the folder is in an `s3://` bucket, which the installed version of Orbax cannot use.
    """

    def __init__(self, folder: pathlib.Path, *, keep: int, keep_every_steps: int):
        self.folder, self._closed = folder, False
        prepare_orbax(folder)
        temporary = atomicity.CommitFileTemporaryPath if is_remote(folder) else _DurablePath
        options = ocp.CheckpointManagerOptions(
            max_to_keep=keep,
            keep_period=keep_every_steps or None,
            enable_async_checkpointing=True,
            cleanup_tmp_directories=True,  # process 0 removes what interrupted saves left
            temporary_path_class=temporary,
        )
        drop_tracebacks()
        self._manager = ocp.CheckpointManager(os.fspath(folder.absolute()), options=options)
        # After a read, Orbax waits for all processes, so a process that fails would leave the others waiting. Instead,
        # each process reads independently, and the results are compared here.
        process = jax.process_index()
        single = ocp.options.MultiprocessingOptions(primary_host=process, active_processes={process})
        self._reader = ocp.Checkpointer(
            ocp.CompositeCheckpointHandler(
                state=ocp.StandardCheckpointHandler(multiprocessing_options=single),
                record=ocp.JsonCheckpointHandler(multiprocessing_options=single),
            ),
            multiprocessing_options=single,
            temporary_path_class=temporary,
        )

    def save(self, state, record: dict) -> None:
        """Starts saving the state of step `record["step"]`; training continues in the meantime.

        Raises:
          SaveFailed: this save or the previous one failed, or a checkpoint of a later step exists.
        """
        self.check()
        if not is_remote(self.folder) and not self.folder.is_dir():  # Orbax would make it again
            raise SaveFailed(f"the folder {self.folder} has been removed while the run was writing to it")
        # Arrays in host memory may be shared with Orbax, which writes them while the next step overwrites them.
        state = on_devices(state)
        record = record | {"digest": _digest(state)}
        record[RECORD_DIGEST] = record_digest(record)
        arguments = ocp.args.Composite(state=ocp.args.StandardSave(_flat(state)), record=ocp.args.JsonSave(record))
        with self._save_errors():
            saved = self._manager.save(record["step"], args=arguments)
        if not saved:
            raise SaveFailed(
                f"the checkpoint of step {record['step']} was not written: {self.folder} holds one of step "
                f"{self._manager.latest_step()}, which is not older. Move that one elsewhere, then start the same command "
                "again"
            )

    def check(self) -> None:
        """Raises `SaveFailed` if a save has failed in the background."""
        if not self._manager.is_saving_in_progress():
            with self._save_errors():
                self._manager.wait_until_finished()  # returns at once, and is the only call that raises the error

    def delete_from(self, step: int) -> None:
        """Deletes the checkpoints of `step` and later steps, which a run that resumed from before them saves again.

        Raises:
          SaveFailed: one cannot be deleted.
        """
        with self._save_errors():
            for later in [saved for saved in self._manager.all_steps() if saved >= step]:
                self._manager.delete(later)

    def complete_steps(self) -> list[int]:
        """Returns the steps of all complete checkpoints, after the save in progress."""
        with self._save_errors():
            self._manager.wait_until_finished()
        return sorted(self._manager.all_steps())

    def latest_step(self) -> int | None:
        """Returns the step of the newest complete checkpoint."""
        return self._manager.latest_step()

    def restore(self, abstract_state) -> Restored | None:
        """Returns the newest checkpoint that all processes can read; None if there are no checkpoints.

        Newer, damaged checkpoints are moved to the folder `damaged` of the workdir.

        Args:
          abstract_state: the tree to restore, as `ShapeDtypeStruct`s with shardings.

        Raises:
          NoReadableCheckpoint: all checkpoints are damaged.
        """
        steps = sorted(self._manager.all_steps(), reverse=True)
        for step in steps:
            restored, reason = self._restore(step, abstract_state)
            if restored is not None:
                self._move_damaged([damaged for damaged in steps if damaged > step])
                return restored
            logging.error("checkpoint %d cannot be read (%s)", step, reason)
        if steps:
            raise NoReadableCheckpoint(
                f"none of the checkpoints {steps} in {self.folder} can be read: see the errors above. Restore "
                "one from a copy, or use another workdir"
            )
        return None

    def record(self) -> dict | None:
        """Returns the newest readable record of a checkpoint; None if there is none."""
        for step in sorted(self._manager.all_steps(), reverse=True):
            record, reason = self._read(step, record=ocp.args.JsonRestore())
            if record is not None:
                return record["record"]
            logging.error("checkpoint %d has no readable record (%s)", step, reason)
        return None

    def wait(self) -> None:
        """Waits for the save in progress; raises `SaveFailed` if it failed."""
        with self._save_errors():
            self._manager.wait_until_finished()

    def close(self) -> None:
        """Waits for the save in progress, and ends; raises `SaveFailed` where it failed. Does nothing when called again."""
        if not self._closed:
            self._closed = True
            with self._save_errors():
                self._manager.close()  # waits first

    @contextlib.contextmanager
    def _save_errors(self):
        """Converts any error of the storage layers to `SaveFailed` with the error's first line."""
        try:
            yield
        except Exception as error:
            complete = self._complete()
            raise SaveFailed(
                f"a checkpoint could not be written to {self.folder} ({type(error).__name__}: {_first_line(error)}). "
                f"Complete checkpoints: {complete}. Free space or give permission, then start the same command again"
            ) from error

    def _complete(self):
        """Returns the steps of the complete checkpoints after a failed save; "unknown" if they cannot be listed."""
        with contextlib.suppress(OSError):
            return sorted(step for step in map(step_of, self.folder.glob("*")) if step is not None)
        return "unknown"

    def _restore(self, step, abstract_state):
        """Returns the checkpoint of a step and None, or None and why it cannot be read."""
        flat = _flat(abstract_state)
        read, reason = self._read(step, state=ocp.args.StandardRestore(flat), record=ocp.args.JsonRestore())
        if read is None:
            return None, reason
        state = jax.tree.unflatten(jax.tree.structure(abstract_state), [read.state[path] for path in flat])
        if _digest(on_devices(state)) != read.record.get("digest"):
            return None, "its arrays are not the ones that were saved: a file is damaged or lost"
        return Restored(state, read.record), None

    def _read(self, step, **items):
        """Returns the items of a checkpoint and None, or None and why some process cannot read them."""
        found = reason = None
        try:
            folder = os.fspath(self.folder.absolute() / str(step))
            found = self._reader.restore(folder, args=ocp.args.Composite(**items))
        except Exception as error:  # the storage layers raise many types for damaged files
            reason = f"{type(error).__name__}: {_first_line(error)}"
        else:
            if reason := record_problem(found["record"], step):
                found = None
        if not _in_all_processes(found is not None):
            return None, reason or "another process cannot read it"
        return found, None

    def _move_damaged(self, damaged):
        """Moves damaged checkpoints to another folder, so that their steps can be saved again. Deletes nothing."""
        for step in damaged if jax.process_index() == 0 else ():
            target = self.folder.parent / "damaged" / f"{step}_{time.strftime('%Y%m%d_%H%M%S')}"
            files.move_folder(self.folder / str(step), target)
            logging.error("moved the damaged checkpoint %d to %s", step, target)
        if damaged:
            multihost_utils.sync_global_devices("damaged checkpoints are moved")
            self._manager.reload()


def _in_all_processes(condition: bool) -> bool:
    return bool(np.all(multihost_utils.process_allgather(np.array(condition))))


def _flat(tree) -> dict[str, Any]:
    paths = jax.tree_util.tree_flatten_with_path(tree)[0]
    name = lambda key: str(getattr(key, "key", getattr(key, "name", getattr(key, "idx", key))))  # noqa: E731
    return {".".join(map(name, path)): leaf for path, leaf in paths}


def _digest(state) -> list[int]:
    """Returns a checksum of every array, the sum of its bits as integers, which does not depend on the sharding."""
    return np.asarray(jax.jit(_bit_sums)(jax.tree.leaves(state))).tolist()


def _bit_sums(leaves):
    def bit_sum(leaf):
        if jnp.issubdtype(leaf.dtype, jnp.floating):
            leaf = jax.lax.bitcast_convert_type(leaf, {2: jnp.uint16, 4: jnp.uint32}[leaf.dtype.itemsize])
        return jnp.sum(leaf.astype(jnp.uint32), dtype=jnp.uint32)

    return jnp.stack([bit_sum(leaf) for leaf in leaves])


def _first_line(error):
    return str(error).split("\n")[0][:200]
