"""The file `run.json` in a workdir: when the run was first started, and its id, which restarts keep."""

import pathlib
import secrets
from typing import NamedTuple

from softvq_jax.storage import files

NAME = "run.json"


class FirstStart(NamedTuple):
    """The first start of a run.

    Attributes:
      id: identifies the run; eight hexadecimal digits.
      time: seconds since 1970.
    """

    id: str
    time: float


def first_start(workdir: pathlib.Path, now: float) -> FirstStart:
    """Returns the first start of the run in a workdir; writes it if this is the first one. For process 0.

    Args:
      workdir: an existing folder.
      now: when this process started, in seconds since 1970.

    Raises:
      ValueError: the file is damaged.
      OSError: the file cannot be written.
    """
    path = workdir / NAME
    if path.exists():
        content = files.read_json(path)
        identity, started = content.get("id"), content.get("first_start")
        if not isinstance(identity, str) or not isinstance(started, int | float):
            raise ValueError(f"{path} lacks id or first_start: remove it, and the time since the first start is lost")
        return FirstStart(identity, started)
    start = FirstStart(secrets.token_hex(4), now)
    files.write_json(path, {"id": start.id, "first_start": start.time})
    return start
