"""Reads files of JSON lines that a program appends to. Errors name the wrong line; an incomplete last line is left out."""

import contextlib
import json
import os
from typing import Any

from softvq_jax.storage import line_log
from softvq_jax.storage.paths import as_path

_ADVICE = "Correct this line, or remove it"


def read(path: str | os.PathLike) -> dict[int, dict[str, Any]]:
    """Returns the JSON objects in a file by line number, from 1; none if the file does not exist.

    In a bucket, this includes the lines in parts that `line_log` has not merged yet. A last line that has no newline and
    cannot be parsed is left out: a program is writing it, or was killed while it did.

    Raises:
      ValueError: another line is not UTF-8, not JSON, or not a JSON object; the message names the file and the line.
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
    """Returns the lines of a `metrics.jsonl`: each has a step, and numbers by name.

    Raises:
      ValueError: see `read`; or a line has no step, or a value that is not a number.
    """
    lines = read(path)
    for number, line in lines.items():
        step = line.get("step")
        if not isinstance(step, int) or isinstance(step, bool) or step < 0:
            raise ValueError(f"{path}, line {number}: step is {step!r}; expected an integer. {_ADVICE}")
        for name, value in line.items():
            if not isinstance(value, int | float) or isinstance(value, bool):
                raise ValueError(f"{path}, line {number}: {name} is {value!r}; expected a number. {_ADVICE}")
    return list(lines.values())


def _parsed(path, number, line):
    try:
        content = json.loads(line.decode())
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}, line {number}, is not UTF-8: {error}. {_ADVICE}") from error
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}, line {number}, is not valid JSON: {error}. {_ADVICE}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path}, line {number}, is {line.decode()[:40]}; expected a JSON object. {_ADVICE}")
    return content
