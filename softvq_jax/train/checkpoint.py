"""Checkpoints: the whole state of a run, and enough beside it to refuse what does not belong together.

The only file that imports Orbax. The state is saved as a flat `{path: array}`, so that a checkpoint knows no class of
ours, and restored straight to its shards. A digest of every array's bits, computed on the devices, goes with it: storage
that lost a file can give zeros without an error.
"""

import contextlib
import pathlib
import shutil
import time
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from absl import logging
from jax.experimental import multihost_utils


class NoReadableCheckpoint(RuntimeError):
    """There are checkpoints, but none of them can be read."""


class SaveFailed(RuntimeError):
    """A checkpoint could not be written; the message says why and what is left."""


class Restored(NamedTuple):
    """A checkpoint's state, placed on the mesh, and its record (config, data position, fingerprints)."""

    state: Any
    record: dict


class Checkpoints:
    """The checkpoints of one workdir, the newest ones kept.

    Args:
      folder: where they lie.
      keep: how many of the newest to keep.
      keep_every_steps: of the older ones, keep those whose step this divides; 0 keeps none.
    """

    def __init__(self, folder: pathlib.Path, *, keep: int, keep_every_steps: int):
        self.folder = folder
        options = ocp.CheckpointManagerOptions(
            max_to_keep=keep,
            keep_period=keep_every_steps or None,
            enable_async_checkpointing=True,
            cleanup_tmp_directories=True,  # of saves that were cut off; process 0 removes them
        )
        self._manager = ocp.CheckpointManager(folder.absolute(), options=options)
        # Orbax waits for all processes after it has read: one that cannot read would leave the others waiting. So each
        # reads alone, and what they found is compared here.
        process = jax.process_index()
        alone = ocp.options.MultiprocessingOptions(primary_host=process, active_processes={process})
        self._reader = ocp.Checkpointer(
            ocp.CompositeCheckpointHandler(
                state=ocp.StandardCheckpointHandler(multiprocessing_options=alone),
                record=ocp.JsonCheckpointHandler(multiprocessing_options=alone),
            ),
            multiprocessing_options=alone,
        )

    def save(self, state, record: dict) -> None:
        """Starts saving the state of step `record["step"]`; training goes on meanwhile.

        Raises:
          SaveFailed: this save, or the one before it, failed, or there is a checkpoint of a later step.
        """
        self.check()
        record = record | {"digest": _digest(state)}
        arguments = ocp.args.Composite(state=ocp.args.StandardSave(_flat(state)), record=ocp.args.JsonSave(record))
        with self._explained():
            saved = self._manager.save(record["step"], args=arguments)
        if not saved:
            raise SaveFailed(
                f"the checkpoint of step {record['step']} was not written: {self.folder} holds one of step "
                f"{self._manager.latest_step()}, which is not older. Move that one elsewhere, then start the same command "
                "again"
            )

    def check(self) -> None:
        """Raises `SaveFailed` for a save that failed in the background."""
        if not self._manager.is_saving_in_progress():
            with self._explained():
                self._manager.wait_until_finished()  # Returns at once; only here Orbax raises what went wrong.

    def delete_from(self, step: int) -> None:
        """Deletes the checkpoints of `step` and later ones, which a run that resumed before them saves again."""
        for later in [saved for saved in self._manager.all_steps() if saved >= step]:
            self._manager.delete(later)

    def latest_step(self) -> int | None:
        """The step of the newest complete checkpoint."""
        return self._manager.latest_step()

    def restore(self, abstract_state) -> Restored | None:
        """The newest checkpoint that all processes can read, None where there are none.

        Args:
          abstract_state: `ShapeDtypeStruct`s with shardings: where every array goes.

        Raises:
          NoReadableCheckpoint: all are damaged.
        """
        steps = sorted(self._manager.all_steps(), reverse=True)
        for step in steps:
            restored, reason = self._restore(step, abstract_state)
            if restored is not None:
                self._set_aside([damaged for damaged in steps if damaged > step])
                return restored
            logging.error("checkpoint %d cannot be read (%s)", step, reason)
        if steps:
            raise NoReadableCheckpoint(
                f"none of the checkpoints {steps} in {self.folder} can be read: see the errors above. To start anew, "
                "use another workdir"
            )
        return None

    def record(self) -> dict | None:
        """The record of the newest checkpoint that has a readable one."""
        for step in sorted(self._manager.all_steps(), reverse=True):
            record, reason = self._read(step, record=ocp.args.JsonRestore())
            if record is not None:
                return record["record"]
            logging.error("checkpoint %d has no readable record (%s)", step, reason)
        return None

    def close(self) -> None:
        """Waits for the save under way; raises `SaveFailed` where it failed."""
        with self._explained():
            self._manager.wait_until_finished()
        self.check()
        self._manager.close()

    @contextlib.contextmanager
    def _explained(self):
        """Whatever the storage layers raise, as a `SaveFailed` with the first line of it."""
        try:
            yield
        except Exception as error:
            complete = sorted(int(path.name) for path in self.folder.glob("*") if path.name.isdigit())
            raise SaveFailed(
                f"a checkpoint could not be written to {self.folder} ({type(error).__name__}: {_first_line(error)}). "
                f"Complete are those of steps {complete}. Free space or give permission, then start the same command "
                "again"
            ) from error

    def _restore(self, step, abstract_state):
        """The checkpoint of a step, or None and why not."""
        flat = _flat(abstract_state)
        read, reason = self._read(step, state=ocp.args.StandardRestore(flat), record=ocp.args.JsonRestore())
        if read is None:
            return None, reason
        state = jax.tree.unflatten(jax.tree.structure(abstract_state), [read.state[path] for path in flat])
        if _digest(state) != read.record["digest"]:
            return None, "its arrays are not the ones that were saved: a file is damaged or lost"
        return Restored(state, read.record), None

    def _read(self, step, **items):
        """What a checkpoint holds, or None and why not; None in every process where one of them cannot read it."""
        found = reason = None
        try:
            found = self._reader.restore(self.folder.absolute() / str(step), args=ocp.args.Composite(**items))
        except Exception as error:  # whatever a damaged file makes the storage layers raise
            reason = f"{type(error).__name__}: {_first_line(error)}"
        if not _everywhere(found is not None):
            return None, reason or "another process cannot read it"
        return found, None

    def _set_aside(self, damaged):
        """Moves damaged checkpoints out of the way of the steps that will be saved again; nothing is deleted."""
        for step in damaged if jax.process_index() == 0 else ():
            aside = self.folder.parent / "damaged" / f"{step}_{time.strftime('%Y%m%d_%H%M%S')}"
            aside.parent.mkdir(exist_ok=True)
            shutil.move(self.folder / str(step), aside)
            logging.error("moved the damaged checkpoint %d to %s", step, aside)
        if damaged:
            if jax.process_count() > 1:
                multihost_utils.sync_global_devices("damaged checkpoints are set aside")
            self._manager.reload()


def _everywhere(fine: bool) -> bool:
    """Whether it is fine in every process."""
    return fine if jax.process_count() == 1 else bool(np.all(multihost_utils.process_allgather(np.array(fine))))


def _flat(tree) -> dict[str, Any]:
    paths = jax.tree_util.tree_flatten_with_path(tree)[0]
    name = lambda key: str(getattr(key, "key", getattr(key, "name", getattr(key, "idx", key))))  # noqa: E731
    return {".".join(map(name, path)): leaf for path, leaf in paths}


def _digest(state) -> list[int]:
    """A checksum of every array, the sum of its bits as integers: the same however the array is divided."""
    return np.asarray(jax.jit(_bit_sums)(jax.tree.leaves(state))).tolist()


def _bit_sums(leaves):
    def one(leaf):
        if jnp.issubdtype(leaf.dtype, jnp.floating):
            leaf = jax.lax.bitcast_convert_type(leaf, {2: jnp.uint16, 4: jnp.uint32}[leaf.dtype.itemsize])
        return jnp.sum(leaf.astype(jnp.uint32), dtype=jnp.uint32)

    return jnp.stack([one(leaf) for leaf in leaves])


def _first_line(error):
    return str(error).split("\n")[0][:200]
