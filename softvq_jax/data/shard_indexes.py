"""Where the index of a tar shard is kept: in the user's cache, and of a shard in a bucket also beside it.

So the first host that reads a bucket makes the indexes, and the others find them. Each host begins with another shard, so
that hosts that start at the same time share the work.
"""

import concurrent.futures
import contextlib
import hashlib
import io
import os
import pathlib
import socket
import time
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np
from absl import logging

from softvq_jax.storage import files, listing
from softvq_jax.storage.paths import as_path, bucket_path, is_remote

FOLDER = ".softvq_jax_index"  # beside the shards in a bucket
Index = TypeVar("Index")


def indexes(
    shards: Sequence[str], version: int, make: Callable[[str], Index], to_arrays: Callable, of_arrays: Callable
) -> list[Index]:
    """Returns the index of each shard, from the cache or made now.

    Args:
      shards: the files.
      version: of the form of an index; older ones are made again.
      make: makes the index of a shard.
      to_arrays: the index as arrays by name.
      of_arrays: `(arrays, size of the shard) -> index`; raises ValueError for arrays that are not those of an index.
    """
    found, began = {}, time.monotonic()
    turn = int(hashlib.sha256(f"{socket.gethostname()}{os.getpid()}".encode()).hexdigest(), 16) % max(len(shards), 1)
    remote = any(map(is_remote, shards))
    ordered = [*shards[turn:], *shards[:turn]] if remote else shards
    one = lambda shard: (shard, _index(shard, version, make, to_arrays, of_arrays))  # noqa: E731
    with concurrent.futures.ThreadPoolExecutor(listing.THREADS if remote else 1) as threads:
        for number, (shard, index) in enumerate(threads.map(one, ordered), 1):
            found[shard] = index
            if time.monotonic() - began > 10:
                began = time.monotonic()
                logging.info("indexed %d of %d tar files", number, len(shards))
    return [found[shard] for shard in shards]


def _index(shard, version, make, to_arrays, of_arrays):
    size, identity = _status(shard)
    key = hashlib.sha256(f"{version}\0{identity}".encode()).hexdigest()[:32]
    cache = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "softvq_jax" / "tar"
    places: list[Any] = [cache / f"{key}.npz"]
    if is_remote(shard):
        places.append(as_path(shard).parent / FOLDER / f"{key}.npz")
    for place in places:
        if place.exists():
            try:
                with np.load(io.BytesIO(place.read_bytes())) as arrays:
                    index = of_arrays(arrays, size)
            except Exception as error:  # NumPy and zipfile raise many types for damaged files
                logging.warning("the cached index %s of %s is damaged (%s); it is made again", place, shard, error)
            else:
                if place is not places[0]:
                    with contextlib.suppress(OSError):
                        _write(places[0], to_arrays(index))
                return index
    index = make(shard)
    for place in places:
        try:
            _write(place, to_arrays(index))
        except OSError as error:
            logging.warning("the index of %s cannot be cached (%s); it is made again at the next start", shard, error)
    return index


def _status(shard: str) -> tuple[int, str]:
    """The size of a shard, and a text that changes with it."""
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
