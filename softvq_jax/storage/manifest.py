"""Manifests: JSON files that identify the job to which a folder belongs.

After an interruption, a job must resume only from its own files. So it first writes a manifest of everything on which the
files depend (inputs, settings), and compares the manifest when it opens the folder again.
"""

import json
import os
from collections.abc import Mapping

from softvq_jax.storage import files
from softvq_jax.storage.paths import as_path


class OtherJob(ValueError):
    """The folder belongs to another job; the message names the fields that differ."""


def claim(folder: str | os.PathLike, name: str, content: Mapping) -> None:
    """Creates `folder` with the manifest `name`, or compares the existing manifest.

    With several processes, one calls this, and the others then call `check`.

    Args:
      folder: the job's folder.
      name: file name of the manifest.
      content: JSON values by field.

    Raises:
      OtherJob: the manifest differs, or there is none and the folder holds other files.
      ValueError: the manifest is damaged.
      OSError: the folder or the manifest cannot be written.
    """
    folder = as_path(folder)
    if (folder / name).exists():
        check(folder / name, content)
        return
    if folder.exists() and (not folder.is_dir() or _holds_files(folder)):
        raise OtherJob(f"{folder} exists and has no {name}: use another folder, or remove this one")
    folder.mkdir(parents=True, exist_ok=True)
    files.write_json(folder / name, content)


def check(path: str | os.PathLike, content: Mapping) -> None:
    """Compares a manifest with its expected content.

    Raises:
      FileNotFoundError: there is no manifest.
      OtherJob: fields differ; the message names them with both values.
      ValueError: the manifest is damaged.
    """
    if differing := differences(files.read_json(path), content):
        raise OtherJob(
            f"{as_path(path).parent} belongs to another job: {'; '.join(differing)}. Use the same inputs and "
            "settings to continue it, or another folder"
        )


def differences(found: Mapping, expected: Mapping) -> list[str]:
    """Returns a phrase for each field that differs, such as `seed is 1 there, 2 here`."""
    expected = json.loads(json.dumps(expected))  # converts tuples to lists, as in a file
    return [
        f"{name} is {_shown(found, name)} there, {_shown(expected, name)} here"
        for name in sorted(found.keys() | expected.keys())
        if (name in found) != (name in expected) or found.get(name) != expected.get(name)
    ]


def _shown(content, name):
    return repr(content[name]) if name in content else "absent"


def _holds_files(folder):
    return any(not path.name.endswith(files.PARTIAL) for path in folder.iterdir())
