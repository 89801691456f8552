"""Atomic writes: a file either exists completely or does not exist under its name.

A write returns when the file and its folder are on disk (`fsync`), so that a power failure loses at most the write in
progress. In a bucket, an object is written as a whole, and is stored once the server has confirmed it.
"""

import contextlib
import errno
import json
import os
import pathlib
import secrets
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence

from softvq_jax.storage.paths import as_path, bucket_path, is_remote

PARTIAL = ".partial"
"""Suffix of temporary names. A killed process may leave such files behind; they can always be deleted."""
_NO_FOLDER_FSYNC = (errno.EINVAL, errno.ENOTSUP, errno.ENOSYS, errno.EBADF)  # on network file systems and buckets


@contextlib.contextmanager
def replacing(path: str | os.PathLike) -> Iterator[pathlib.Path]:
    """Yields a temporary path in the folder of `path`, and renames it to `path` at the end.

    The temporary file exists, is empty, and has a name ending in `.partial`. The finished file has the permissions of the
    user's umask, even if the writer creates the file itself. After an error inside the context, `path` is unchanged and
    the temporary file is deleted. For a path in a bucket, the temporary file is local, and is uploaded at the end.

    Raises:
      OSError: the file cannot be written, synced or renamed.
    """
    path = as_path(path)
    if is_remote(path):
        with tempfile.TemporaryDirectory() as folder:
            partial = pathlib.Path(folder, f"{path.name}{PARTIAL}")
            partial.touch()
            yield partial
            path.upload(partial)
        return
    partial = path.with_name(f"{path.name}.{secrets.token_hex(4)}{PARTIAL}")
    try:
        partial.touch(exist_ok=False)
        mode = partial.stat().st_mode
        yield partial
        if partial.stat().st_mode != mode:
            partial.chmod(mode & 0o777)
        sync(partial)
        os.replace(partial, path)
        sync_folder(path.parent)
    except OSError as error:
        if error.filename is None and error.errno is not None:  # errors of `write` do not name their file
            error.filename = str(path)
        raise
    finally:
        with contextlib.suppress(OSError):  # on a full or lost disk, the first error is the one to report
            partial.unlink(missing_ok=True)


def write_bytes(path: str | os.PathLike, content: bytes) -> None:
    """Writes a file atomically."""
    path = as_path(path)
    if is_remote(path):
        path.write_bytes(content)
        return
    with replacing(path) as partial:
        partial.write_bytes(content)


def write_text(path: str | os.PathLike, content: str) -> None:
    """Writes a UTF-8 text file atomically."""
    write_bytes(path, content.encode())


def write_json(path: str | os.PathLike, content: Mapping | Sequence, *, indent: int | None = 2) -> None:
    """Writes a JSON file atomically, ending with a newline."""
    write_text(path, json.dumps(content, indent=indent) + "\n")


def read_json(path: str | os.PathLike) -> dict:
    """Returns the object in a JSON file.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: the file is not UTF-8 or not JSON, or holds something other than an object.
    """
    try:
        content = json.loads(as_path(path).read_bytes().decode())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not valid JSON: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds a JSON {type(content).__name__}; expected an object of fields")
    return content


def make_folder(path: str | os.PathLike) -> list[pathlib.Path]:
    """Makes a folder and its missing parents; returns the new ones, outermost first, when their names are on disk.

    A bucket has no folders, so the list is empty there.

    Raises:
      OSError: a folder cannot be made, or the bucket does not exist.
    """
    path = as_path(path)
    if is_remote(path):
        path.check_bucket()
        return []
    new: list[pathlib.Path] = []
    while not path.exists():
        new.insert(0, path)
        path = path.parent
    for folder in new:
        folder.mkdir(exist_ok=True)
        sync_folder(folder.parent)
    if not path.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(path))
    return new


def remove_empty(folders: Sequence[pathlib.Path]) -> None:
    """Removes the empty ones of `folders`, in reverse order; keeps the others without an error."""
    for folder in reversed(folders):
        with contextlib.suppress(OSError):
            folder.rmdir()


def move_folder(folder: pathlib.Path, target: pathlib.Path) -> None:
    """Moves a folder to a new name, and returns when the change is on disk. In a bucket, each object is copied."""
    if is_remote(folder):
        for path, _ in folder.find():
            path.copy_to(bucket_path(target) / path.relative_to(folder))
        folder.rmtree()
        return
    make_folder(target.parent)
    shutil.move(folder, target)
    sync_folder(target.parent)
    sync_folder(folder.parent)


def remove_folder(folder: pathlib.Path) -> None:
    """Deletes a folder and everything in it."""
    if is_remote(folder):
        folder.rmtree()
    else:
        shutil.rmtree(folder)


def sync_tree(folder: str | os.PathLike) -> None:
    """Returns once all files below a folder, and all names in it, are on disk.

    In a shared folder, files of other hosts are on disk when these hosts have closed them (NFS, mounted buckets). Does
    nothing for a folder in a bucket.
    """
    if is_remote(folder):
        return
    for path, _, names in os.walk(folder, topdown=False):
        for name in names:
            sync(os.path.join(path, name))
        sync_folder(path)


def sync(path: str | os.PathLike) -> None:
    """Returns once the content of a file is on disk; does nothing for an object in a bucket."""
    if is_remote(path):
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_folder(path: str | os.PathLike) -> None:
    """Returns once the names in a folder are on disk; does nothing on file systems that cannot do this."""
    try:
        sync(path)
    except OSError as error:
        if error.errno not in _NO_FOLDER_FSYNC:
            raise
