"""Keeps the indexes of tar shards: in the user's cache folder, and for shards in a bucket also in the bucket.

So the first host that reads a bucket makes the indexes, and the others find them. Each host begins with another shard, so
that hosts that start at the same time share the work.
"""

import concurrent.futures
import contextlib
import functools
import hashlib
import io
import os
import socket
import time
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np
from absl import logging

from softvq_jax.storage import files, listing
from softvq_jax.storage.paths import as_path, bucket_path, is_remote, user_cache

FOLDER = ".softvq_jax_index"  # beside the shards in a bucket
Index = TypeVar("Index")


def indexes(
    shards: Sequence[str], version: int, make: Callable[[str], Index], to_arrays: Callable, from_arrays: Callable
) -> list[Index]:
    """Returns the index of each shard, from a cache or newly made.

    Args:
      shards: paths of the shards.
      version: version of the index format; indexes of other versions are made again.
      make: makes the index of a shard.
      to_arrays: `index -> arrays by name`.
      from_arrays: `(arrays, size of the shard) -> index`; raises ValueError for arrays that are not an index.
    """
    found, failed, began = {}, {}, time.monotonic()
    start = int(hashlib.sha256(f"{socket.gethostname()}{os.getpid()}".encode()).hexdigest(), 16) % max(len(shards), 1)
    remote = any(map(is_remote, shards))
    ordered = [*shards[start:], *shards[:start]] if remote else shards
    find = functools.partial(_index, version=version, make=make, to_arrays=to_arrays, from_arrays=from_arrays)
    with concurrent.futures.ThreadPoolExecutor(listing.THREADS if remote else 1) as threads:
        for number, (shard, (index, error)) in enumerate(zip(ordered, threads.map(find, ordered), strict=True), 1):
            found[shard] = index
            if error is not None:
                failed[shard] = error
            if time.monotonic() - began > 10:
                began = time.monotonic()
                logging.info("indexed %d of %d tar files", number, len(shards))
    if failed:
        shard, error = next(iter(failed.items()))
        logging.warning(
            "the indexes of %d of %d tar files, such as %s, cannot be kept (%s): other hosts or the next start make them "
            "again",
            len(failed), len(shards), shard, error,
        )  # fmt: skip
    return [found[shard] for shard in shards]


def _index(shard, *, version, make, to_arrays, from_arrays):
    """The index of a shard, and the error if it could not be kept.

    It comes from the cache folder, else from the bucket, else it is newly made and written to both.
    """
    size, identity = _status(shard)
    key = hashlib.sha256(f"{version}\0{identity}".encode()).hexdigest()[:32]
    places: list[Any] = [user_cache("tar") / f"{key}.npz"]
    if is_remote(shard):
        places.append(as_path(shard).parent / FOLDER / f"{key}.npz")
    for place in places:
        if place.exists():
            try:
                with np.load(io.BytesIO(place.read_bytes())) as arrays:
                    index = from_arrays(arrays, size)
            except Exception as error:  # NumPy and zipfile raise many types for damaged files
                logging.warning("the cached index %s of %s is damaged (%s); it is made again", place, shard, error)
            else:
                if place is not places[0]:
                    with contextlib.suppress(OSError):
                        _write(places[0], to_arrays(index))
                return index, None
    index, failed = make(shard), None
    for place in places:
        try:
            _write(place, to_arrays(index))
        except OSError as error:
            failed = error
    return index, failed


def _status(shard: str) -> tuple[int, str]:
    """The size of a shard, and a string that changes with its content."""
    if is_remote(shard):
        status = bucket_path(shard).stat()
        return status.st_size, f"{shard}\0{status.st_size}\0{status.version}"
    stat = os.stat(shard)
    return stat.st_size, f"{os.path.abspath(shard)}\0{stat.st_size}\0{stat.st_mtime_ns}"


def _write(place, arrays):
    content = io.BytesIO()
    np.savez(content, **arrays)
    if not is_remote(place):
        place.parent.mkdir(parents=True, exist_ok=True)
    files.write_bytes(place, content.getvalue())
