"""Tar shards of labeled images, read in random order through an index that is made once and cached.

The index is our own, because `tarfile` scans a whole shard in every process before it can seek, and does not read tars
inside tars. Three layouts are recognized by their content:

- WebDataset: `key.jpg` and `key.cls`, which contains the number of the class;
- ImageNet's: a tar of tars, one for each class and named after it;
- folders: `class/name.jpg`; images without a folder have class 0.
"""

import dataclasses
import functools
import glob
import hashlib
import os
import pathlib
import tarfile
import time
from collections.abc import Iterator
from typing import BinaryIO

import numpy as np
from absl import logging

from softvq_jax.data import source
from softvq_jax.data.folder import EXTENSIONS
from softvq_jax.storage import files


@dataclasses.dataclass(frozen=True)
class TarMember(source.EncodedImage):
    """An image inside a tar."""

    shard: str
    name: str
    offset: int
    size: int
    label: int

    @property
    def where(self) -> str:
        return f"{self.shard}:{self.name}"

    def load(self) -> tuple[bytes, int]:
        try:
            file = _open(self.shard)  # keep a reference: the cache may drop the file meanwhile
            return os.pread(file.fileno(), self.size, self.offset), self.label
        except OSError as error:
            raise source.UnreadableImage(self.where, f"{type(error).__name__}: {error.strerror}") from None


@dataclasses.dataclass(frozen=True)
class Index:
    """The images of one shard. Classes are names, or numbers as text if the shard has `.cls` files."""

    names: np.ndarray  # bytes [n]
    offsets: np.ndarray  # int64 [n]
    sizes: np.ndarray  # int64 [n]
    classes: np.ndarray  # bytes [n]
    numbered: np.ndarray  # bool []


class TarShards(source.Source):
    """All images of a tar file, or of the tar files of a folder sorted by name.

    Raises:
      FileNotFoundError: there is no tar file, or the tar files contain no image.
      ValueError: a shard is compressed or truncated, or its layout differs from the other shards.
    """

    def __init__(self, path: str):
        self._shards = sorted(glob.glob(os.path.join(glob.escape(path), "*.tar"))) if os.path.isdir(path) else [path]
        if not self._shards or not os.path.exists(self._shards[0]):
            raise FileNotFoundError(f"no tar file at {path!r}: expected one .tar, or a folder of .tar files")
        indexes = _indexes(self._shards)
        self._shard_of = np.repeat(np.arange(len(indexes)), [len(index.names) for index in indexes])
        if not len(self._shard_of):
            raise FileNotFoundError(f"no image in the tar files at {path!r}: expected {', '.join(EXTENSIONS)} inside")
        self._names, self._offsets, self._sizes, classes = (
            np.concatenate([getattr(index, name) for index in indexes])
            for name in ("names", "offsets", "sizes", "classes")
        )
        if len({bool(index.numbered) for index in indexes if len(index.names)}) > 1:
            raise ValueError(f"some tar files at {path!r} have .cls files and some do not: all need the same layout")
        self._labels, self.class_names = _numbered(classes) if indexes[0].numbered else _named(classes)

    def __len__(self) -> int:
        return len(self._names)

    def __getitem__(self, i: int) -> TarMember:
        return TarMember(
            self._shards[self._shard_of[i]],
            self._names[i].decode(errors="replace"),
            int(self._offsets[i]),
            int(self._sizes[i]),
            int(self._labels[i]),
        )

    def key(self, i: int) -> str:
        return f"{os.path.basename(self._shards[self._shard_of[i]])}/{self._names[i].decode(errors='replace')}"

    @functools.cached_property
    def parts(self) -> dict[str, str]:
        return {os.path.basename(shard): source.digest_of_file(shard) for shard in self._shards}

    def fingerprint(self) -> str:
        return source.digest_of_parts(self.parts)


def _named(classes):
    names, labels = np.unique(classes, return_inverse=True)
    return labels, tuple(name.decode(errors="replace") for name in names)


def _numbered(classes):
    labels = classes.astype(np.int64)
    return labels, tuple(map(str, range(labels.max() + 1)))


def _indexes(shards):
    indexes, start = [], time.monotonic()
    for number, shard in enumerate(shards, 1):
        indexes.append(_cached_index(shard))
        if time.monotonic() - start > 10:
            start = time.monotonic()
            logging.info("indexed %d of %d tar files", number, len(shards))
    return indexes


def _cached_index(shard):
    """Returns the index of a shard from the cache, or makes and caches it; the cache key changes with the shard."""
    stat = os.stat(shard)
    key = hashlib.sha256(f"{os.path.abspath(shard)}\0{stat.st_size}\0{stat.st_mtime_ns}".encode()).hexdigest()[:32]
    folder = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "softvq_jax" / "tar"
    path = folder / f"{key}.npz"
    if path.exists():
        try:
            with np.load(path) as arrays:
                return Index(**arrays)
        except Exception as error:  # NumPy and zipfile raise many types for damaged files
            logging.warning("the cached index %s of %s is damaged (%s); it is made again", path, shard, error)
    index = _index(shard)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with files.replacing(path) as partial, open(partial, "wb") as file:
            np.savez(file, **dataclasses.asdict(index))
    except OSError as error:
        logging.warning("the index of %s cannot be cached (%s); it is made again at the next start", shard, error)
    return index


def _index(shard: str) -> Index:
    images, numbers = [], {}
    with open(shard, "rb") as file:
        for name, group, offset, size in _members(file, shard):
            stem, extension = os.path.splitext(name)
            if extension.lower() == ".cls":
                numbers[stem] = os.pread(file.fileno(), size, offset).strip()
            elif extension.lower() in EXTENSIONS and not os.path.basename(name).startswith("."):
                images.append((name, group, offset, size))
    if numbers:
        unlabeled = [name for name, *_ in images if os.path.splitext(name)[0] not in numbers]
        if unlabeled:
            raise ValueError(f"{shard}: {unlabeled[0]} has no .cls file, but other images have")
        classes = [numbers[os.path.splitext(name)[0]] for name, *_ in images]
    else:
        classes = [group.encode(errors="surrogateescape") for _, group, *_ in images]
    return Index(
        np.array([name.encode(errors="surrogateescape") for name, *_ in images], np.bytes_),
        np.array([offset for *_, offset, _ in images], np.int64),
        np.array([size for *_, size in images], np.int64),
        np.array(classes, np.bytes_),
        np.array(bool(numbers)),
    )


def _members(file: BinaryIO, shard: str) -> Iterator[tuple[str, str, int, int]]:
    """Yields name, class, offset and size of every regular file, including files in inner tars."""
    for member in _files(file, shard):
        if not member.name.endswith(".tar"):
            folder = os.path.basename(os.path.dirname(member.name))
            yield member.name, folder, member.offset_data, member.size
            continue
        label = os.path.splitext(os.path.basename(member.name))[0]
        file.seek(member.offset_data)
        for inner in _files(file, f"{shard}:{member.name}"):
            yield f"{member.name}/{inner.name}", label, inner.offset_data, inner.size


def _files(file, where):
    """Yields the regular files of the tar that starts at the position of `file`; the caller may move the position."""
    try:
        tar = tarfile.TarFile(fileobj=file)
        while (member := tar.next()) is not None:
            tar.members = []  # drops the list that `tarfile` would keep  # pyright: ignore[reportAttributeAccessIssue]
            if member.isfile():
                yield member
        file.seek(tar.offset)
        if (
            file.read(tarfile.BLOCKSIZE) != tarfile.NUL * tarfile.BLOCKSIZE
        ):  # tarfile treats a truncated header as the end
            raise tarfile.ReadError("no end mark")
    except tarfile.ReadError as error:
        raise ValueError(
            f"{where} is not a complete, uncompressed tar ({error}): unpack it, or copy it again"
        ) from None


@functools.lru_cache(maxsize=256)
def _open(shard):
    return open(shard, "rb", buffering=0)
