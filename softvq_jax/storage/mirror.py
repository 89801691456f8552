"""Local copies of objects, in a cache folder of bounded size.

The folder is `SOFTVQ_CACHE_DIR` (default: `softvq_jax/buckets` in the user's cache folder), and its limit is
`SOFTVQ_CACHE_GB` (default: 100). Data that do not fit are refused. Weights and other files that are only read from copies
are copied also beyond the limit, if the disk has room.

The name of a copy depends on the object's path, size and version, so that a replaced object is copied again. A copy gets
its name when it is complete. The processes of a host share the folder.
"""

import contextlib
import hashlib
import os
import pathlib
import secrets
import shutil
import threading
from collections.abc import Sequence

from absl import logging

from softvq_jax.storage import files, listing
from softvq_jax.storage.buckets import BucketPath, ObjectStatus
from softvq_jax.storage.paths import as_path, is_remote, user_cache

DEFAULT_GB = 100.0
WORK = "work"  # subfolder for files that are not copies, which stay
KEPT_FREE = 0.05  # fraction of the disk that copies leave free


def cache_folder() -> pathlib.Path:
    """Returns the cache folder."""
    if folder := os.environ.get("SOFTVQ_CACHE_DIR"):
        return pathlib.Path(folder).expanduser()
    return user_cache("buckets")


def limit() -> int:
    """Returns the limit of the total size of all copies, in bytes.

    Raises:
      ValueError: `SOFTVQ_CACHE_GB` is not a number.
    """
    text = os.environ.get("SOFTVQ_CACHE_GB", str(DEFAULT_GB))
    try:
        return int(float(text) * 1e9)
    except ValueError:
        raise ValueError(f"SOFTVQ_CACHE_GB={text}: expected a number of gigabytes") from None


def copy_of(path: BucketPath, status: ObjectStatus) -> pathlib.Path:
    """Returns the path of an object's copy, which may not exist yet."""
    key = hashlib.sha256(f"{path}\0{status.st_size}\0{status.version}".encode()).hexdigest()[:32]
    return cache_folder() / key / path.name


def local_file(path: str | os.PathLike, *, limited: bool = False) -> pathlib.Path:
    """Returns a local file: `path` itself, or a copy if it is in a bucket.

    Args:
      path: the file.
      limited: whether a file larger than `limit` is refused. If not, it is copied beside the other copies.

    Raises:
      FileNotFoundError: the object does not exist.
      OSError: it cannot be copied, or does not fit on the disk or into the limit.
    """
    path = as_path(path)
    if not is_remote(path):
        return path
    status = path.stat()
    copy = copy_of(path, status)
    _complete(copy.parent, path, [(path, status, copy)], limited)
    return copy


def local_folder(path: str | os.PathLike) -> pathlib.Path:
    """Returns a local folder: `path` itself, or a copy of all objects below it if it is in a bucket. `limit` applies.

    Raises:
      FileNotFoundError: the folder does not exist.
      OSError: it cannot be copied, or does not fit into the cache.
    """
    path = as_path(path)
    if not is_remote(path):
        return path
    found = path.find()
    if not found:
        raise FileNotFoundError(f"there is no folder {path}")
    versions = "\0".join(f"{entry}\0{status}" for entry, status in found)
    folder = cache_folder() / hashlib.sha256(versions.encode()).hexdigest()[:32] / path.name
    objects = [(entry, status, folder / entry.relative_to(path)) for entry, status in found]
    _complete(folder.parent, path, objects, limited=True)
    return folder


def _complete(folder, path, objects: Sequence[tuple[BucketPath, ObjectStatus, pathlib.Path]], limited: bool) -> None:
    """Copies the missing ones of `objects` (object, status, path of its copy in `folder`), and marks `folder` as used."""
    missing = [(entry, copy, status) for entry, status, copy in objects if not copy.exists()]
    if missing:
        size = sum(status.st_size for *_, status in missing)
        make_room(size, keep=folder, limited=limited)
        logging.info("copying %s (%d files, %.2f GB) to %s", path, len(missing), size / 1e9, folder)
        listing.in_threads(lambda arguments: download(*arguments), missing)
    with contextlib.suppress(OSError):
        os.utime(objects[0][2])  # `make_room` removes the least recently used copies


def work_folder(folder: str | os.PathLike) -> pathlib.Path:
    """Returns a local folder for a command's temporary files: `folder` itself, or one in the cache if it is in a bucket.

    It depends only on the name, so that a command that is started again on the same host finds its files.
    """
    folder = as_path(folder)
    return (
        cache_folder() / WORK / hashlib.sha256(str(folder).encode()).hexdigest()[:32] if is_remote(folder) else folder
    )


def download(path: BucketPath, copy: pathlib.Path, status: ObjectStatus, sha256: str = "") -> None:
    """Copies an object to `copy`, atomically.

    Args:
      path: the object.
      copy: path of the copy.
      status: status of the object when it was listed; the size of the copy is compared with it.
      sha256: expected digest of the content; "" if it is not known.

    Raises:
      OSError: the object cannot be read, the copy cannot be written, or the size or the digest differs.
    """
    copy.parent.mkdir(parents=True, exist_ok=True)
    partial = copy.with_name(f"{copy.name}.{secrets.token_hex(4)}{files.PARTIAL}")
    try:
        path.download(partial)
        if partial.stat().st_size != status.st_size:
            raise OSError(f"{path} has {partial.stat().st_size:,} bytes, and was listed with {status.st_size:,}")
        if sha256:
            with open(partial, "rb") as file:
                if hashlib.file_digest(file, "sha256").hexdigest() != sha256:
                    raise OSError(f"{path} is not the file that was written: its SHA-256 differs; copy it again")
        os.replace(partial, copy)
    finally:
        partial.unlink(missing_ok=True)


def room() -> int:
    """Returns the number of bytes that can be added to the cache without removing copies."""
    return min(limit() - sum(size for _, size, _ in _copies()), _room_on_disk())


def _room_on_disk() -> int:
    folder = cache_folder()
    folder.mkdir(parents=True, exist_ok=True)
    disk = shutil.disk_usage(folder)
    return disk.free - int(KEPT_FREE * disk.total)


def make_room(size: int, keep: pathlib.Path | None = None, *, limited: bool = True) -> None:
    """Removes the least recently used copies until `size` bytes fit; never removes the folder `keep`.

    Args:
      size: number of bytes.
      keep: folder of a copy that is not complete.
      limited: whether `limit` applies to a file that is larger than it.

    Raises:
      OSError: they do not fit, even without any copy.
    """
    measured = room if limited or size <= limit() else _room_on_disk
    for _, _, folder in sorted(_copies(), key=lambda copy: copy[0]):
        if measured() >= size:
            return
        if folder != keep:
            shutil.rmtree(folder, ignore_errors=True)
    if measured() < size:
        raise OSError(
            f"{size / 1e9:.2f} GB do not fit into {cache_folder()}: free some space, or set SOFTVQ_CACHE_DIR to a "
            f"larger disk or SOFTVQ_CACHE_GB (now {limit() / 1e9:g})"
        )


def _copies() -> list[tuple[float, int, pathlib.Path]]:
    """Time of the last use, size in bytes, and folder of each copy."""
    found = []
    for folder in cache_folder().iterdir() if cache_folder().exists() else ():
        if folder.name == WORK:
            continue
        with contextlib.suppress(OSError):  # another process is removing the copy
            statuses = [path.stat() for path in folder.rglob("*") if path.is_file()]
            if statuses:
                found.append((max(s.st_mtime for s in statuses), sum(s.st_size for s in statuses), folder))
    return found


class BackgroundCopies:
    """Copies objects to the cache in a background thread, in order, until all are copied or the cache is full.

    Args:
      objects: path, status and SHA-256 digest ("" if unknown) of each object, in the order of copying.
    """

    def __init__(self, objects: Sequence[tuple[BucketPath, ObjectStatus, str]]):
        self._objects = list(objects)
        self._thread = threading.Thread(target=self._copy, daemon=True, name="copies of shards")
        self._thread.start()

    def wait(self) -> None:
        """Waits until the thread has ended."""
        self._thread.join()

    def _copy(self):
        for number, (path, status, sha256) in enumerate(self._objects):
            copy = copy_of(path, status)
            if copy.exists():
                continue
            try:
                if room() < status.st_size:
                    logging.info(
                        "%d of %d shards are copied to %s, which is full: the others are read by ranges",
                        number, len(self._objects), cache_folder(),
                    )  # fmt: skip
                    return
                download(path, copy, status, sha256)
            except OSError as error:
                logging.warning("%s is not copied (%s): it is read by ranges", path, error)
