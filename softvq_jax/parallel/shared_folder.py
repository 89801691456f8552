"""Checks that all processes have the same folder."""

import pathlib
import socket
import time
import uuid

from jax._src.distributed import global_state  # as in `parallel.errors`

from softvq_jax.storage.paths import is_remote

_KEY = "softvq_jax/shared_folder"
_BARRIER_MILLISECONDS = 120_000


def check_shared(folder: pathlib.Path, flag: str, *, timeout: float = 30.0) -> None:
    """Creates `folder`, and returns once every process has found a file of process 0 in it.

    Does nothing in a single process, except for a bucket, which must exist.

    Args:
      folder: the folder.
      flag: the command-line flag of the folder, for the message.
      timeout: seconds in which the file must appear; network file systems cache their listings.

    Raises:
      ValueError: the folder is not that of process 0.
      OSError: process 0 cannot write to the folder.
    """
    if is_remote(folder):
        folder.check_bucket()
    client = global_state.client
    if client is None:
        return
    if global_state.process_id == 0:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f".shared-{uuid.uuid4().hex}"
        probe.touch()
        client.key_value_set(_KEY, probe.name, allow_overwrite=True)
    name = client.blocking_key_value_get(_KEY, _BARRIER_MILLISECONDS)
    deadline = time.monotonic() + timeout
    while not (folder / name).exists():
        if time.monotonic() > deadline:
            raise ValueError(
                f"{flag}={folder} of process {global_state.process_id} on {socket.gethostname()} is not the folder of "
                "process 0: its files do not appear. All processes need the same folder, on a network file system or in a "
                "mounted bucket"
            )
        time.sleep(0.2)
    client.wait_at_barrier(_KEY, _BARRIER_MILLISECONDS)
    if global_state.process_id == 0:
        probe.unlink()
