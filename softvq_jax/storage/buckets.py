"""Paths in buckets, `gs://BUCKET/NAME` and `s3://BUCKET/NAME`, with the methods of `pathlib.Path` that this package uses.

`storage.paths.as_path` makes them. `etils.epath` is not used here: it raises the clients' errors unchanged, does not retry,
and caches listings, so that one host does not see what another has written. Orbax uses it, through the same clients
(`fsspec` with `gcsfs` or `s3fs`).

A bucket has no folders, only objects whose names contain slashes. So a folder exists while there are objects below it,
`mkdir` does nothing, and nothing can be renamed. An object is written as a whole: readers see the old or the new content.
"""

import contextlib
import dataclasses
import fnmatch
import functools
import io
import os
import pathlib
import posixpath
import tempfile
from collections.abc import Iterator
from typing import IO, Any

from softvq_jax.storage import bucket_errors, listing
from softvq_jax.storage.bucket_errors import BucketError, NotFound

EXTRAS = {"gs": "gcs", "s3": "s3"}
"""The extra of `pyproject.toml` that each scheme needs."""


@dataclasses.dataclass(frozen=True)
class ObjectStatus:
    """An object's size in bytes, and its version, a string that changes with the content."""

    st_size: int
    version: str


@functools.total_ordering
class BucketPath(os.PathLike):
    """A path in a bucket.

    Raises:
      ValueError: the URI does not name a bucket.
    """

    __slots__ = ("_name", "_scheme")

    def __init__(self, uri: str | os.PathLike):
        self._scheme, _, rest = os.fspath(uri).partition("://")
        name = posixpath.normpath(rest).strip("/")
        if self._scheme not in EXTRAS or name in ("", "."):
            raise ValueError(f"{os.fspath(uri)} names no bucket: expected gs://BUCKET/NAME or s3://BUCKET/NAME")
        self._name = name

    # Names.
    def __fspath__(self) -> str:
        return f"{self._scheme}://{self._name}"

    __str__ = __fspath__

    def __repr__(self) -> str:
        return f"BucketPath({str(self)!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, BucketPath) and str(self) == str(other)

    def __lt__(self, other: "BucketPath") -> bool:
        return str(self) < str(other)

    def __hash__(self) -> int:
        return hash(str(self))

    def __truediv__(self, name: str | os.PathLike) -> "BucketPath":
        return BucketPath(f"{self}/{os.fspath(name)}")

    def joinpath(self, *names: str | os.PathLike) -> "BucketPath":
        return BucketPath("/".join([str(self), *(os.fspath(name) for name in names)]))

    @property
    def name(self) -> str:
        return posixpath.basename(self._name)

    @property
    def suffix(self) -> str:
        return pathlib.PurePosixPath(self._name).suffix

    @property
    def stem(self) -> str:
        return pathlib.PurePosixPath(self._name).stem

    @property
    def bucket(self) -> "BucketPath":
        return BucketPath(f"{self._scheme}://{self._name.split('/')[0]}")

    @property
    def parent(self) -> "BucketPath":
        """The folder of the path; for a bucket, the bucket itself."""
        return BucketPath(f"{self._scheme}://{posixpath.dirname(self._name) or self._name}")

    @property
    def parts(self) -> tuple[str, ...]:
        return tuple(self._name.split("/"))

    def with_name(self, name: str) -> "BucketPath":
        return self.parent / name

    def with_suffix(self, suffix: str) -> "BucketPath":
        return self.with_name(f"{self.stem}{suffix}")

    def relative_to(self, other: "BucketPath") -> pathlib.PurePosixPath:
        return pathlib.PurePosixPath(self._name).relative_to(other._name)

    def is_relative_to(self, other: object) -> bool:
        return isinstance(other, BucketPath) and f"{self}/".startswith(f"{other}/")

    def as_posix(self) -> str:
        return str(self)

    def resolve(self) -> "BucketPath":
        return self

    def absolute(self) -> "BucketPath":
        return self

    def expanduser(self) -> "BucketPath":
        return self

    def is_absolute(self) -> bool:
        return True

    # Status and listings.
    def exists(self) -> bool:
        return self._kind() is not None

    def is_file(self) -> bool:
        return self._kind() == "file"

    def is_dir(self) -> bool:
        return self._kind() == "directory"

    def _kind(self) -> str | None:
        # The clients' own `exists` and `isdir` return False without the permission to look.
        try:
            return self._call("look for", lambda: self._files.info(str(self)))["type"]
        except NotFound:
            return None

    def stat(self) -> ObjectStatus:
        """Returns the status of an object; raises `NotFound` if there is none of this name."""
        found = self._call("look for", lambda: self._files.info(str(self)))
        if found["type"] != "file":
            raise NotFound(f"there is no object {self}, but a folder")
        return _status(found)

    def iterdir(self) -> Iterator["BucketPath"]:
        """Yields the objects and folders directly below, sorted; nothing if the folder does not exist."""
        for entry in self._list(lambda: self._files.ls(str(self), detail=True)):
            yield self._path_of(entry)

    def glob(self, pattern: str) -> Iterator["BucketPath"]:
        """Yields the objects and folders below that match a relative pattern without `**`, sorted."""
        first, _, rest = pattern.partition("/")
        has_marks = any(mark in first for mark in "*?[")
        for path in self.iterdir() if has_marks else filter(BucketPath.exists, [self / first]):
            if fnmatch.fnmatchcase(path.name, first):
                yield from path.glob(rest) if rest else [path]

    def rglob(self, pattern: str) -> Iterator["BucketPath"]:
        """Yields the objects at any depth below with a matching name, sorted."""
        return (path for path, _ in self.find() if fnmatch.fnmatchcase(path.name, pattern))

    def find(self) -> list[tuple["BucketPath", ObjectStatus]]:
        """Returns all objects at any depth below with their status, sorted, by one listing."""
        found = self._list(lambda: list(self._files.find(str(self), detail=True).values()))
        return sorted((self._path_of(entry), _status(entry)) for entry in found)

    def check_bucket(self) -> None:
        """Raises `NotFound` if the bucket does not exist, and `Forbidden` if it may not be listed."""
        bucket = self.bucket
        try:
            self._call("list", lambda: self._files.ls(str(bucket)), bucket)
        except NotFound:
            raise NotFound(f"{self}: there is no bucket {bucket}. Create it, or correct its name") from None

    # Reading and writing.
    def read_bytes(self) -> bytes:
        return self._call("read", lambda: self._files.cat_file(str(self)))

    def read_range(self, start: int, stop: int) -> bytes:
        """Returns the bytes `start` to `stop - 1`."""
        return self._call("read", lambda: self._files.cat_file(str(self), start=start, end=stop))

    def read_text(self, encoding: str = "utf-8", errors: str = "strict") -> str:
        return self.read_bytes().decode(encoding, errors)

    def write_bytes(self, content: bytes) -> int:
        self._call("write", lambda: self._files.pipe_file(str(self), bytes(content)), writes=True)
        return len(content)

    def write_text(self, content: str, encoding: str = "utf-8") -> int:
        return self.write_bytes(content.encode(encoding))

    def create(self, content: bytes) -> None:
        """Creates an object; raises `Exists` if it exists already. If two programs create it, only one succeeds."""
        self._call("write", lambda: self._files.pipe_file(str(self), content, mode="create"), writes=True)

    def touch(self, exist_ok: bool = True) -> None:
        if not exist_ok:
            self.create(b"")
        elif not self.is_file():
            self.write_bytes(b"")

    @contextlib.contextmanager
    def open(self, mode: str = "r", encoding: str = "utf-8") -> Iterator[IO]:
        """Opens the object for reading by ranges ("rb", "r") or for writing ("wb", "w"); a write is uploaded at the end."""
        if mode not in ("r", "rb", "w", "wb"):
            raise ValueError(f"mode {mode!r} of {self}: expected 'r', 'rb', 'w' or 'wb'")
        binary = "b" in mode
        if "w" in mode:
            with tempfile.TemporaryDirectory() as folder:
                local = pathlib.Path(folder, "content")
                with local.open(mode, encoding=None if binary else encoding) as file:
                    yield file
                self.upload(local)
            return
        file = self._call("read", lambda: self._files.open(str(self), "rb"))
        with file:
            yield file if binary else io.TextIOWrapper(file, encoding)

    def upload(self, local: str | os.PathLike) -> None:
        """Writes the content of a local file to the object."""
        self._call("write", lambda: self._files.put_file(os.fspath(local), str(self)), writes=True)

    def download(self, local: str | os.PathLike) -> None:
        """Writes the content of the object to a local file, which is incomplete until this returns."""
        self._call("read", lambda: self._files.get_file(str(self), os.fspath(local)))

    def copy_to(self, target: "BucketPath") -> None:
        """Copies the object to another path of the same scheme."""
        target._call("write", lambda: self._files.cp_file(str(self), str(target)), writes=True)

    def unlink(self, missing_ok: bool = False) -> None:
        try:
            self._call("delete", lambda: self._files.rm_file(str(self)))
        except FileNotFoundError:
            if not missing_ok:
                raise

    def rmtree(self) -> None:
        """Deletes all objects below, several at a time."""
        listing.in_threads(lambda found: found[0].unlink(missing_ok=True), self.find())

    def mkdir(self, mode: int = 0o777, parents: bool = False, exist_ok: bool = False) -> None:
        """Does nothing: a folder begins to exist with its first object."""

    def rmdir(self) -> None:
        """Does nothing: a folder ceases to exist with its last object."""

    def chmod(self, mode: int) -> None:
        """Does nothing: permissions are those of the bucket."""

    @property
    def _files(self) -> Any:
        return file_system(self._scheme)

    def _call(self, action, function, path=None, *, writes=False):
        try:
            return bucket_errors.call(str(path or self), action, function)
        except NotFound:
            if writes:  # a write needs nothing but the bucket
                raise NotFound(
                    f"could not {action} {self}: there is no bucket {self.bucket}. Create it, or correct its name"
                ) from None
            raise

    def _list(self, function):
        try:
            found = self._call("list", function)
        except FileNotFoundError:
            return []
        own = self._name
        entries = {entry["name"].rstrip("/"): entry for entry in found}
        entries.pop(own, None)  # an object that marks the folder itself
        return [entries[name] for name in sorted(entries)]

    def _path_of(self, entry):
        return BucketPath(f"{self._scheme}://{entry['name']}")


def _status(entry: dict[str, Any]) -> ObjectStatus:
    # GCS numbers versions; S3's ETag is a digest of the content or of its parts.
    version = entry.get("generation") or entry.get("etag") or entry.get("ETag") or entry.get("mtime") or ""
    return ObjectStatus(int(entry.get("size") or 0), str(version).strip('"'))


@functools.cache
def file_system(scheme: str) -> Any:
    """Returns the client for `gs` or `s3` buckets; each process has one.

    Raises:
      ImportError: the extra is not installed.
    """
    prepare()
    import fsspec

    try:
        return fsspec.filesystem(scheme)
    except ImportError as error:
        extra = EXTRAS[scheme]
        raise ImportError(f"{scheme}:// paths need the {extra} extra: pip install 'softvq-jax[{extra}]'") from error
    except Exception as error:
        raise bucket_errors.translated(f"{scheme}://", "open", error) from error


@functools.cache
def prepare() -> None:
    """Configures the clients for this package and for Orbax; must be called before they are imported.

    Listings are not cached, and neither TensorFlow nor gRPC is used.
    """
    import fsspec.config

    os.environ.setdefault("EPATH_USE_TF", "false")  # TensorFlow has its own client for buckets
    # To detect zonal and hierarchical buckets, gcsfs calls the server by gRPC first, and waits a minute for an answer.
    os.environ.setdefault("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")
    for name in ("gs", "gcs", "s3"):
        fsspec.config.conf.setdefault(name, {}).setdefault("use_listings_cache", False)
    bucket_errors.quiet_clients()


__all__ = ["EXTRAS", "BucketError", "BucketPath", "ObjectStatus", "file_system", "prepare"]
