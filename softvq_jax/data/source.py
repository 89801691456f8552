"""The interface of a data source: a random-access sequence of references, each small enough to send to a process."""

import abc
import hashlib
import itertools
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

import numpy as np
from PIL import Image

from softvq_jax.data.decoding import DEFAULT, Decoding, UnreadableImage, decode
from softvq_jax.storage import listing
from softvq_jax.storage.paths import bucket_path, is_remote

__all__ = [
    "EncodedImage",
    "Reference",
    "Source",
    "UnreadableImage",
    "decode",
    "digest",
    "digest_of_file",
    "digest_of_fingerprints",
    "digests_of_files",
]
END_BYTES = 1 << 16


class Reference(Protocol):
    """A reference to a labeled image or its latents, to be read later. Small and picklable; `read` works in any process.

    Attributes:
      where: the file, record or example, for messages.
    """

    @property
    def where(self) -> str: ...

    def read(self, decoding: Decoding = DEFAULT) -> tuple[Image.Image | np.ndarray, int]:
        """Returns the decoded image, upright RGB, or latents, and the class; raises `UnreadableImage`."""
        ...


class EncodedImage(abc.ABC):
    """A reference to the bytes of an image file."""

    where: str  # for messages

    @abc.abstractmethod
    def load(self) -> tuple[bytes, int]:
        """Returns the encoded image and its class; raises `UnreadableImage`."""

    def read(self, decoding: Decoding = DEFAULT) -> tuple[Image.Image, int]:
        encoded, label = self.load()
        return decode(encoded, self.where, decoding), label


class Source(Protocol):
    """A sequence of labeled images: `source[i]` is a `Reference`, and does not read the image.

    Attributes:
      class_names: names of the classes, by label.
      part_fingerprints: short fingerprints of the shards, folders or photographs, by name and in order; computed at
        first use.
    """

    class_names: tuple[str, ...]

    @property
    def part_fingerprints(self) -> dict[str, str]: ...

    def __len__(self) -> int: ...

    def __getitem__(self, i: int) -> Reference: ...

    def key(self, i: int) -> str:
        """Returns a name of item `i` that stays the same if the source is moved."""
        ...

    def fingerprint(self) -> str:
        """Returns a digest of `part_fingerprints`: it changes with the images, their order and their labels."""
        ...


def digest(parts: Iterable[str], length: int = 32) -> str:
    """Returns a fingerprint of an ordered list of strings, `length` hexadecimal digits."""
    return hashlib.sha256("\0".join(parts).encode(errors="surrogateescape")).hexdigest()[:length]


def digest_of_fingerprints(parts: Mapping[str, str]) -> str:
    """Returns the fingerprint of a source, given its `part_fingerprints`."""
    return digest(itertools.chain(*parts.items()))


def digest_of_file(path: str) -> str:
    """Returns the size of a file and a digest of its first and last 64 KiB; the rest is not read.

    It detects shards that were rewritten, truncated or exchanged, but not a few changed bytes in the middle, which
    ArrayRecord's checksums detect when the record is read.
    """
    if is_remote(path):
        found = bucket_path(path)
        size = found.stat().st_size
        parts = [
            found.read_range(start, min(size, start + END_BYTES)) for start in (0, max(0, size - END_BYTES)) if size
        ]
    else:
        with open(path, "rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - END_BYTES))
            last = file.read()
            file.seek(0)
            parts = [file.read(END_BYTES), last]
    ends = (hashlib.sha256(part).hexdigest() for part in (parts or [b"", b""]))
    return f"{size}-{digest(ends, 16)}"


def digests_of_files(paths: Sequence[str]) -> dict[str, str]:
    """Returns `digest_of_file` of each file, by its name; reads files in a bucket in threads.

    If a name occurs in several folders, files are named by their paths below the folder that holds them all.
    """
    names = [os.path.basename(path) for path in paths]
    if len(set(names)) < len(names):
        folders = [path.split("/")[:-1] for path in paths]
        shared = next(i for i, level in enumerate(itertools.zip_longest(*folders)) if len(set(level)) > 1)
        names = ["/".join(path.split("/")[shared:]) for path in paths]
    found = listing.in_threads(digest_of_file, paths) if any(map(is_remote, paths)) else map(digest_of_file, paths)
    return dict(zip(names, found, strict=True))
