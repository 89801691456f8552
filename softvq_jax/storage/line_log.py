"""Appends lines to files on disk, and in buckets, where objects cannot be appended to.

In a bucket, a thread uploads new lines as parts, objects `NAME.parts/FIRST-LAST` that are named after the numbers of their
first and last lines. `MERGED` (16) parts are merged into one, 16 of these into a larger one, and so on. So a line is
rewritten log16(n) times, and a reader finds few objects. `close` merges all parts into the single object NAME.
"""

import os
import pathlib
import re
import threading
from collections.abc import Iterable
from typing import Protocol

from softvq_jax.storage import files
from softvq_jax.storage.buckets import BucketPath
from softvq_jax.storage.paths import as_path, is_remote

UPLOAD_SECONDS = 10.0  # between two uploads; `sync` uploads at once
MERGED = 16  # number of parts that are merged into one
_PART = re.compile(r"(\d+)-(\d+)")


class LineLog(Protocol):
    """A file of lines; every line ends with a newline."""

    def rewrite(self, lines: Iterable[bytes]) -> None:
        """Replaces the content."""

    def append(self, line: bytes) -> None:
        """Appends a line; it is stored once `sync` has returned."""

    def check(self) -> None:
        """Raises OSError if the file has been removed, or if an upload has failed."""

    def sync(self) -> None:
        """Returns once all lines are on disk or in the bucket."""

    def close(self) -> None: ...


def open_log(path: str | os.PathLike) -> LineLog:
    """Opens a file to append lines to. Call `rewrite` first."""
    path = as_path(path)
    return BucketLog(path) if is_remote(path) else LocalLog(path)


class LocalLog(LineLog):
    """A local file. It is opened for every line, so that the next line notices a removed or read-only folder."""

    def __init__(self, path: pathlib.Path):
        self._path = path

    def rewrite(self, lines: Iterable[bytes]) -> None:
        files.write_bytes(self._path, b"".join(lines))

    def append(self, line: bytes) -> None:
        file = os.open(self._path, os.O_WRONLY | os.O_APPEND)  # without O_CREAT: a removed file is an error
        try:
            while line:
                line = line[os.write(file, line) :]
        finally:
            os.close(file)

    def check(self) -> None:
        self._path.stat()

    def sync(self) -> None:
        files.sync(self._path)

    def close(self) -> None: ...


class BucketLog(LineLog):
    """An object in a bucket, and its parts.

    Appending takes microseconds. A killed program loses at most the lines appended since the last `sync` or upload.
    Uploads are `seconds` apart.
    """

    def __init__(self, path: BucketPath, *, seconds: float = UPLOAD_SECONDS):
        self._path, self._folder, self._seconds = path, parts_folder(path), seconds
        # Parts as (number of the first line, content); level i holds parts that were merged i times.
        self._levels: list[list[tuple[int, bytes]]] = []
        self._written, self._waiting = 0, []  # number of uploaded lines, and the lines to upload next
        self._uploading, self._changed = threading.Lock(), threading.Lock()
        self._stop, self._error = threading.Event(), None
        self._thread: threading.Thread | None = None

    def rewrite(self, lines: Iterable[bytes]) -> None:
        lines = list(lines)
        with self._uploading:
            self._path.write_bytes(b"".join(lines))
            self._folder.rmtree()
            self._levels, self._written, self._waiting = [], len(lines), []

    def append(self, line: bytes) -> None:
        self.check()
        with self._changed:
            self._waiting.append(line)
        if self._thread is None:
            self._thread = threading.Thread(target=self._keep_uploading, daemon=True, name="line log")
            self._thread.start()

    def check(self) -> None:
        if self._error is not None:
            raise self._error

    def sync(self) -> None:
        self.check()
        self._upload()

    def close(self) -> None:
        self._stop.set()
        if self._error is None and (self._levels or self._waiting):
            self._upload()
            with self._uploading:
                self._path.write_bytes(read(self._path))
                self._folder.rmtree()
                self._levels = []

    def _keep_uploading(self):
        while not self._stop.wait(self._seconds):
            try:
                self._upload()
            except OSError as error:
                self._error = error
                return

    def _upload(self):
        with self._uploading:
            with self._changed:
                lines, self._waiting = self._waiting, []
            if not lines:
                return
            try:
                self._add(0, self._written, b"".join(lines))
            except OSError:
                with self._changed:
                    self._waiting = [*lines, *self._waiting]
                raise
            self._written += len(lines)

    def _add(self, level: int, first: int, content: bytes) -> None:
        """Writes a part; merges the parts of its level once there are `MERGED`."""
        self._part(first, content).write_bytes(content)
        if level == len(self._levels):
            self._levels.append([])
        parts = self._levels[level]
        parts.append((first, content))
        if len(parts) == MERGED:
            self._add(level + 1, parts[0][0], b"".join(content for _, content in parts))
            for part in parts:  # after the merged part is written, so that a reader always finds every line
                self._part(*part).unlink(missing_ok=True)
            parts.clear()

    def _part(self, first, content):
        last = first + content.count(b"\n") - 1
        return self._folder / f"{first:010d}-{last:010d}"


def parts_folder(path: BucketPath) -> BucketPath:
    """Returns the folder of an object's parts."""
    return path.with_name(f"{path.name}.parts")


def exists(path: str | os.PathLike) -> bool:
    """Whether the file or, in a bucket, a part of it exists."""
    path = as_path(path)
    return path.exists() or (is_remote(path) and parts_folder(path).is_dir())


def read(path: str | os.PathLike) -> bytes:
    """Returns the content of a file; in a bucket, of an object and its parts.

    Raises:
      FileNotFoundError: the file does not exist.
    """
    path = as_path(path)
    if not is_remote(path):
        return path.read_bytes()
    for _ in range(10):
        try:
            return _merged(path)
        except FileNotFoundError:  # a part was merged into another after the listing
            if not exists(path):
                raise
    return _merged(path)


def _merged(path: BucketPath) -> bytes:
    parts = []
    # Parts are listed before the object is read, because `close` writes the object before it deletes the parts.
    for part in parts_folder(path).iterdir():
        if match := _PART.fullmatch(part.name):
            parts.append((int(match[1]), -int(match[2]), part))
    content = path.read_bytes()
    lines = content.splitlines(keepends=True)
    for first, last, part in sorted(parts, key=lambda item: item[:2]):  # by first line, longest first
        if -last >= len(lines):
            lines += part.read_bytes().splitlines(keepends=True)[max(0, len(lines) - first) :]
    return b"".join(lines)


__all__ = ["BucketLog", "LineLog", "LocalLog", "exists", "open_log", "parts_folder", "read"]
