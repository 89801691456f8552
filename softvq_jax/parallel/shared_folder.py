"""Whether all processes see one folder."""

import os
import pathlib
import socket
import time
import uuid

from jax._src.distributed import global_state  # as in `parallel.failure`

_KEY = "softvq_jax/shared_folder"
_BARRIER_MILLISECONDS = 120_000


def check_shared(folder: pathlib.Path, flag: str, *, timeout: float = 30.0) -> None:
    """Makes `folder` and returns once every process has seen a file that process 0 put there; at once if it is alone.

    Args:
      flag: what names the folder on the command line, for the message.
      timeout: seconds that a file may take to appear; network file systems keep their listings for some.

    Raises:
      ValueError: this process sees another folder.
      OSError: process 0 cannot write there.
    """
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
    while not (folder.is_dir() and name in os.listdir(folder)):
        if time.monotonic() > deadline:
            raise ValueError(
                f"{flag}={folder} of process {global_state.process_id} on {socket.gethostname()} is not the folder of "
                "process 0: a file written there does not appear. All processes need one folder that they share, on a "
                "network file system or in a mounted bucket"
            )
        time.sleep(0.2)
    client.wait_at_barrier(_KEY, _BARRIER_MILLISECONDS)
    if global_state.process_id == 0:
        probe.unlink()
