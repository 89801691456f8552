"""Functions like those of `os.path`, `os.listdir` and `glob`, for strings that name paths on disk or in a bucket."""

import concurrent.futures
import glob as local_glob
import os
import re
from collections.abc import Callable, Sequence
from typing import TypeVar

from softvq_jax.storage.paths import as_path, bucket_path, is_remote

THREADS = 16  # concurrent requests to a bucket
_MAGIC = re.compile(r"[*?\[]")
Item = TypeVar("Item")
Result = TypeVar("Result")


def exists(path: str) -> bool:
    """Whether a file or folder exists."""
    return as_path(path).exists() if is_remote(path) else os.path.exists(path)


def is_file(path: str) -> bool:
    """Whether a path is a file."""
    return as_path(path).is_file() if is_remote(path) else os.path.isfile(path)


def is_dir(path: str) -> bool:
    """Whether a path is a folder."""
    return as_path(path).is_dir() if is_remote(path) else os.path.isdir(path)


def names(folder: str) -> list[str]:
    """Returns the names in a folder, sorted."""
    return [path.name for path in as_path(folder).iterdir()] if is_remote(folder) else sorted(os.listdir(folder))


def sizes(folder: str) -> dict[str, int]:
    """Returns the size in bytes of each file directly in a folder, by name; in a bucket, by one listing."""
    if is_remote(folder):
        return {
            entry.name: status.st_size
            for entry, status in bucket_path(folder).find()
            if entry.parent == bucket_path(folder)
        }
    with os.scandir(folder) as entries:
        return {entry.name: entry.stat().st_size for entry in entries if entry.is_file()}


def glob(pattern: str) -> list[str]:
    """Returns the files and folders that match a pattern with `*`, `?` and `[]`, sorted.

    Raises:
      ValueError: the pattern is in the name of a bucket.
    """
    if not is_remote(pattern):
        return sorted(local_glob.glob(pattern))
    parts = pattern.split("/")
    fixed = next((i for i, part in enumerate(parts) if _MAGIC.search(part)), len(parts))
    if fixed < 3:
        raise ValueError(f"{pattern}: patterns are for names in a bucket, not for the bucket's own name")
    folder = as_path("/".join(parts[:fixed]))
    return sorted(map(str, folder.glob("/".join(parts[fixed:])))) if fixed < len(parts) else [pattern]


def in_threads(function: Callable[[Item], Result], items: Sequence[Item]) -> list[Result]:
    """Returns `function(item)` for each item, in order, with `THREADS` calls at a time."""
    with concurrent.futures.ThreadPoolExecutor(THREADS) as threads:
        return list(threads.map(function, items))
