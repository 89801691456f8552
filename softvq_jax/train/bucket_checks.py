"""Checks the paths of a run that are in buckets, without an accelerator and without reading the data.

A dry run of a launch script prints the results, so that a wrong path or a missing permission is found before a machine is
rented. JAX is not imported.
"""

import os
import pathlib

from ml_collections import ConfigDict

from softvq_jax.config.paths import PATHS, with_expanded_paths
from softvq_jax.config.schemas import field_values
from softvq_jax.data import bucket_summary
from softvq_jax.storage import listing
from softvq_jax.storage.bucket_errors import NotFound
from softvq_jax.storage.buckets import BucketPath
from softvq_jax.storage.paths import as_path, bucket_path, is_remote

SHOWN = 4  # names of a folder


def check_buckets(config: ConfigDict, workdir: pathlib.Path) -> int:
    """Prints one line for each path in a bucket: what it holds, or why it cannot be used.

    To find out whether the workdir can be written, a small object is created in it and deleted.

    Args:
      config: of the run, or of a study.
      workdir: of the run.

    Returns:
      The exit code: 1 if a path cannot be used, else 0.
    """
    results = [_checked(name, path, config) for name, path in _paths(config, workdir)]
    if not results:
        print("no path in a bucket")
    return 0 if all(results) else 1


def _paths(config: ConfigDict, workdir: pathlib.Path) -> list[tuple[str, str]]:
    """The names and values of all fields with a path in a bucket, and the workdir."""
    base = config.get("base", config)  # of a study
    fields = [(name, value) for name, value in field_values(with_expanded_paths(base)) if isinstance(value, str)]
    named = [(name, value) for name, value in fields if PATHS.fullmatch(name)]
    return [(name, value) for name, value in [*named, ("workdir", os.fspath(workdir))] if is_remote(value)]


def _checked(name: str, path: str, config: ConfigDict) -> bool:
    """Checks a path and prints the result; returns whether it can be used."""
    try:
        if name in ("workdir", "checkpoint.fallback"):
            found = _describe_output(path)
        elif name in ("data.path", "data.eval_path"):
            found = bucket_summary.describe(config.get("base", config).data.source, path)
        else:
            found = _describe_file(path)
    except (OSError, ValueError, ImportError) as error:
        print(f"error: {name}: {error}")
        return False
    print(f"ok: {name}={path}: {found}")
    return True


def _describe_file(path: str) -> str:
    """What a path of weights, labels, references or a model holds; reads a few bytes of it."""
    found = [as_path(name) for name in listing.glob(path)]
    if not found or not found[0].exists():
        bucket_path(path).check_bucket()
        raise NotFound(f"there is no {path}")
    first = bucket_path(found[0])
    if first.is_file():
        first.read_range(0, 16)
        return f"{first.stat().st_size / 1e6:,.1f} MB"
    return _names(first)


def _describe_output(path: str) -> str:
    folder = bucket_path(path)
    folder.check_bucket()
    probe = folder / ".writable"
    probe.write_bytes(b"")
    probe.unlink()
    names = _names(folder)
    return f"can be written; it holds {names}" if names else "can be written; a new run"


def _names(folder: BucketPath) -> str:
    names = [entry.name for entry in folder.iterdir()]
    return ", ".join(names[:SHOWN]) + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")
