"""Tar shards of labeled images, read in random order through an index that is made once and cached.

The index is our own: `tarfile` needs to scan a shard before it can seek, in every process, and does not look into tars
in tars, nor behind the first of several archives that were written one after the other. Layouts are recognized by content:

- WebDataset: `key.jpg` and `key.cls`, which contains the number of the class, or `key.json` with a "label"; the key is the
  name up to its last dot, or as in WebDataset up to the first;
- ImageNet's: a tar of tars, one for each class and named after it;
- folders: `class/name.jpg`; images without a folder have class 0.
"""

import dataclasses
import functools
import json
import os
import re
import tarfile
from collections.abc import Iterator
from typing import BinaryIO

import numpy as np

from softvq_jax.data import shard_indexes, source
from softvq_jax.data.decoding import EXTENSIONS
from softvq_jax.data.folder import is_junk, warn_once
from softvq_jax.data.labels import MAX_CLASSES
from softvq_jax.data.shard_files import find_shards, refuse_compressed
from softvq_jax.plurals import counted
from softvq_jax.storage.bucket_errors import BucketError
from softvq_jax.storage.paths import as_path, bucket_path, expand, is_remote

OTHER_IMAGES = (".avif", ".heic", ".heif", ".jp2", ".jxl", ".psd", ".svg", ".tga")  # formats that are not decoded here
MANY_ZEROS = 1 << 20  # writers fill the last 10 KB; a file that was not copied completely may be filled with zeros
MAX_TEXT = 1 << 24  # bytes read of a .cls or .json
INDEX_VERSION = 3  # of the index format; cached indexes of other versions are made again


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
            if is_remote(self.shard):
                return bucket_path(self.shard).read_range(self.offset, self.offset + self.size), self.label
            file = _open(self.shard)  # keep a reference: the cache may drop the file meanwhile
            return os.pread(file.fileno(), self.size, self.offset), self.label
        except BucketError:  # a fault of the server, not of this image
            raise
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
    """All images of tar files, sorted by the files' names.

    Args:
      path: a tar file, a folder of them, or a pattern such as `shards/*.tar` or `shards/{000..127}.tar`.

    Raises:
      FileNotFoundError: there is no tar file, or no image in them.
      ValueError: a shard is compressed or truncated, has a label that is not a class number, or has another layout than
        the others.
    """

    def __init__(self, path: str):
        self._shards = find_shards(expand(path), (".tar",), "tar file")
        indexes = _indexes(self._shards)
        self._shard_of = np.repeat(np.arange(len(indexes)), [len(index.names) for index in indexes])
        if not len(self._shard_of):
            raise FileNotFoundError(f"no image in the tar files at {path!r}: expected {', '.join(EXTENSIONS)} inside")
        self._names, self._offsets, self._sizes, classes = (
            np.concatenate([getattr(index, name) for index in indexes])
            for name in ("names", "offsets", "sizes", "classes")
        )
        filled = [index for index in indexes if len(index.names)]
        if len({bool(index.numbered) for index in filled}) > 1:
            raise ValueError(
                f"some tar files at {path!r} have labels (.cls or .json) and some do not: all need the same layout"
            )
        self._labels, self.class_names = _numbered(classes) if filled[0].numbered else _named(classes)
        if self.class_names == ("",):
            warn_once(
                f"{path}: {counted(len(self), 'image')} without labels (no .cls, no .json with a label, no folders)"
            )

    def renumber(self, class_names: tuple[str, ...]) -> None:
        """Numbers the classes by their positions in `class_names`, which must contain all of them."""
        order = {name: number for number, name in enumerate(class_names)}
        new = np.array([order.get(name, -1) for name in self.class_names])  # -1: a number without images
        self._labels, self.class_names = new[self._labels], class_names

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
    def part_fingerprints(self) -> dict[str, str]:
        return source.digests_of_files(self._shards)

    def fingerprint(self) -> str:
        return source.digest_of_fingerprints(self.part_fingerprints)


def _named(classes):
    names, labels = np.unique(classes, return_inverse=True)
    return labels, tuple(name.decode(errors="replace") for name in names)


def _numbered(classes):
    labels = classes.astype(np.int64)  # each was checked when the index was made
    return labels, tuple(map(str, range(labels.max() + 1)))


def _indexes(shards: list[str]) -> list[Index]:
    return shard_indexes.indexes(
        shards, INDEX_VERSION, _index, dataclasses.asdict, lambda arrays, size: _checked(Index(**arrays), size)
    )


def _checked(index: Index, size: int) -> Index:
    """Returns the index; raises ValueError if `_index` cannot have made its arrays for a shard of `size` bytes."""
    rows, kinds = index.offsets.shape, {"names": "S", "offsets": "i", "sizes": "i", "classes": "S", "numbered": "b"}
    fits = (
        all(getattr(index, name).dtype.kind == kind for name, kind in kinds.items())
        and len(rows) == 1
        and index.names.shape == index.sizes.shape == index.classes.shape == rows
        and index.numbered.shape == ()
        and bool((index.offsets >= 0).all() and (index.sizes >= 0).all())
        and bool((index.offsets + index.sizes <= size).all())
    )
    if fits and index.numbered:
        fits = all(name.isdigit() and int(name) < MAX_CLASSES for name in np.unique(index.classes).tolist())
    if not fits:
        raise ValueError("its arrays are not those of an index")
    return index


def _index(shard: str) -> Index:
    images, numbers, documents, not_read = [], Labels(), Labels(), []
    with as_path(shard).open("rb") as file:
        refuse_compressed(shard, file.read(8))
        file.seek(0)
        for name, group, offset, size in _members(file, shard):
            if any(map(is_junk, name.split("/"))):
                continue
            extension = os.path.splitext(name)[1]
            if extension.lower() == ".cls":
                content = _read_at(file, min(size, MAX_TEXT), offset)
                numbers.add(name, _class_number(content, shard, name))
            elif extension.lower() == ".json":
                label = _label_in_json(_read_at(file, min(size, MAX_TEXT), offset), shard, name)
                if label is not None:
                    documents.add(name, label)
            elif extension.lower() in EXTENSIONS:
                images.append((name, group, offset, size))
            elif extension.lower() in OTHER_IMAGES:
                not_read.append(name)
    if not_read:
        warn_once(f"{shard}: {len(not_read):,} images of other formats are not read, such as {not_read[0]}")
    labels = numbers if len(numbers) else documents
    if len(labels):
        found = [labels.of(name) for name, *_ in images]
        if None in found:
            name = images[found.index(None)][0]
            raise ValueError(f"{shard}: {name} has no .cls file or .json with a label, but other images have")
        classes = [b"%d" % number for number in found if number is not None]
    else:
        classes = [group.encode(errors="surrogateescape") for _, group, *_ in images]
    return Index(
        np.array([name.encode(errors="surrogateescape") for name, *_ in images], np.bytes_),
        np.array([offset for *_, offset, _ in images], np.int64),
        np.array([size for *_, size in images], np.int64),
        np.array(classes, np.bytes_),
        np.array(len(labels) > 0),
    )


class Labels:
    """Labels of a shard, added by the names of `.cls` or `.json` files and found by the names of images."""

    def __init__(self):
        self._by_stem: dict[str, int] = {}
        self._by_key: dict[str, int | None] = {}  # None: several files with different labels have this key

    def __len__(self) -> int:
        return len(self._by_stem)

    def add(self, name: str, label: int) -> None:
        """Adds the label in the file `name`."""
        self._by_stem[os.path.splitext(name)[0]] = label
        same = self._by_key.setdefault(_key(name), label) == label
        if not same:
            self._by_key[_key(name)] = None

    def of(self, image: str) -> int | None:
        """Returns the label of an image: from the file of the same name without its ending, else of the same key."""
        return self._by_stem.get(os.path.splitext(image)[0], self._by_key.get(_key(image)))


def _key(name: str) -> str:
    """The key by which WebDataset groups files: the path up to the first dot of the name."""
    folder, slash, base = name.rpartition("/")
    return folder + slash + base.split(".")[0]


def _class_number(content: bytes, shard: str, name: str) -> int:
    text = content[:100].decode(errors="replace").strip()
    if not re.fullmatch(r"\d+", text) or int(text) >= MAX_CLASSES:
        raise ValueError(f"{shard}: {name} holds {text!r}; expected a class number from 0 to {MAX_CLASSES - 1:,}")
    return int(text)


def _label_in_json(content: bytes, shard: str, name: str) -> int | None:
    try:
        document = json.loads(content)
    except (ValueError, RecursionError):
        raise ValueError(f"{shard}: {name} is not valid JSON") from None
    label = document.get("label") if isinstance(document, dict) else None
    return None if label is None else _class_number(str(label).encode(), shard, f'"label" in {name}')


def _members(file: BinaryIO, shard: str) -> Iterator[tuple[str, str, int, int]]:
    """Yields name, class, offset and size of every regular file, including files in inner tars."""
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    for member in _files(file, shard, size):
        if not member.name.endswith(".tar"):
            name = member.name.removeprefix("./")  # as `tar --create --directory=images .` writes them
            yield name, os.path.basename(os.path.dirname(name)), member.offset_data, member.size
            continue
        label = os.path.splitext(os.path.basename(member.name))[0]
        file.seek(member.offset_data)
        for inner in _files(file, f"{shard}:{member.name}", member.offset_data + member.size):
            name = f"{member.name.removeprefix('./')}/{inner.name.removeprefix('./')}"
            yield name, label, inner.offset_data, inner.size


def _files(file: BinaryIO, where: str, end: int) -> Iterator[tarfile.TarInfo]:
    """Yields the regular files of the tars from the position of `file` to `end`; it may be moved between them."""
    while True:
        try:
            tar = tarfile.TarFile(fileobj=file)
            while (member := tar.next()) is not None:
                tar.members = []  # drops the list that `tarfile` would keep  # pyright: ignore[reportAttributeAccessIssue]
                if member.isfile():
                    yield member
            file.seek(tar.offset)
            if file.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):  # tarfile takes a truncated header for the end
                raise tarfile.ReadError("no end mark")
        except tarfile.ReadError as error:
            raise ValueError(
                f"{where} is not a complete, uncompressed tar ({error}): unpack it, or copy it again"
            ) from None
        following = _next_content(file, end)
        if following is None:
            if (zeros := end - tar.offset) > MANY_ZEROS:
                warn_once(f"{where} ends in {zeros:,} bytes of zeros: if it was copied, compare it with its source")
            return
        file.seek(following)


def _read_at(file: BinaryIO, size: int, offset: int) -> bytes:
    """Reads without moving the file's position."""
    position = file.tell()
    file.seek(offset)
    content = file.read(size)
    file.seek(position)
    return content


def _next_content(file: BinaryIO, end: int) -> int | None:
    """The offset of the next block of `file` that is not all zeros, where another tar begins; None if there is none."""
    while (start := file.tell()) < end:
        content = file.read(min(1 << 16, end - start))
        if not content:
            return None
        if content.strip(b"\0"):
            zeros = len(content) - len(content.lstrip(b"\0"))
            return start + zeros // tarfile.BLOCKSIZE * tarfile.BLOCKSIZE
    return None


@functools.lru_cache(maxsize=256)
def _open(shard):
    return open(shard, "rb", buffering=0)
