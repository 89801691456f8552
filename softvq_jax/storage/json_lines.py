"""Files of JSON lines that a program appends to: read with the line that is wrong named, and without a half-written end."""

import contextlib
import json
import os
from typing import Any

from softvq_jax.storage import line_log
from softvq_jax.storage.paths import as_path


def read(path: str | os.PathLike) -> dict[int, dict[str, Any]]:
    """Returns the objects in a file by their line, from 1; none if there is no such file.

    Of an object in a bucket, those in the parts that `line_log` has not merged yet are among them.

    A last line without its newline that cannot be read is left out: a program was writing it, or was killed while it did.

    Raises:
      ValueError: another line is not UTF-8, not JSON, or holds something other than an object; with file and line.
    """
    path = as_path(path)
    if not line_log.exists(path):
        return {}
    *lines, last = line_log.read(path).split(b"\n")
    found = {number: _parsed(path, number, line) for number, line in enumerate(lines, 1) if line.strip()}
    if last.strip():
        with contextlib.suppress(ValueError):
            found[len(lines) + 1] = _parsed(path, len(lines) + 1, last)
    return found


def read_metrics(path: str | os.PathLike) -> list[dict[str, float]]:
    """Returns the lines of a `metrics.jsonl`: a step, and numbers by name.

    Raises:
      ValueError: as `read`, and where a line has no step, or a value is not a number.
    """
    lines = read(path)
    for number, line in lines.items():
        step = line.get("step")
        if not isinstance(step, int) or isinstance(step, bool) or step < 0:
            raise ValueError(f"{path}, line {number}: step is {step!r}; expected an integer. {ADVICE}")
        for name, value in line.items():
            if not isinstance(value, int | float) or isinstance(value, bool):
                raise ValueError(f"{path}, line {number}: {name} is {value!r}; expected a number. {ADVICE}")
    return list(lines.values())


ADVICE = "Correct this line, or remove it"


def _parsed(path, number, line):
    try:
        content = json.loads(line.decode())
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}, line {number}, is not UTF-8: {error}. {ADVICE}") from error
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}, line {number}, is not valid JSON: {error}. {ADVICE}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path}, line {number}, is {line.decode()[:40]}; expected a JSON object. {ADVICE}")
    return content
