"""What a source of photographs is: a random-access sequence of references, small enough to send to another process."""

import abc
import hashlib
import io
import itertools
import os
from collections.abc import Iterable, Mapping
from typing import Protocol

import numpy as np
from PIL import Image

END_BYTES = 1 << 16


class UnreadableImage(Exception):
    """An image that cannot be read: where it is, and why."""

    def __init__(self, where: str, reason: str):
        super().__init__(where, reason)
        self.where, self.reason = where, reason

    def __str__(self):
        return f"{self.where}: {self.reason}"


class Reference(Protocol):
    """Where one labelled photograph, or its latents, lie. Picklable and small; `read` works in any process.

    Attributes:
      where: in words.
    """

    where: str

    def read(self) -> tuple[Image.Image | np.ndarray, int]:
        """The decoded picture, in its own mode, and its class. Raises `UnreadableImage`."""


class EncodedImage(abc.ABC):
    """A reference to an image file's bytes, wherever they are kept."""

    where: str  # for messages

    @abc.abstractmethod
    def load(self) -> tuple[bytes, int]:
        """The encoded picture and its class. Raises `UnreadableImage`."""

    def read(self) -> tuple[Image.Image, int]:
        encoded, label = self.load()
        return decode(encoded, self.where), label


class Source(Protocol):
    """Labelled photographs by number: `source[i]` is a `Reference` and costs no reading.

    Attributes:
      class_names: by label.
      parts: the shards (or folders, or photographs) by name, in their order, each with a short fingerprint; taken at
        first use.
    """

    class_names: tuple[str, ...]
    parts: dict[str, str]

    def __len__(self) -> int: ...

    def __getitem__(self, i: int) -> Reference: ...

    def key(self, i: int) -> str:
        """A name of item `i` that stays when the whole source moves."""

    def fingerprint(self) -> str:
        """Changes when the photographs, their order or their labels do, as far as `parts` tells."""


def decode(encoded: bytes, where: str) -> Image.Image:
    """Decodes a JPEG, PNG, WebP or BMP file's bytes completely. Raises `UnreadableImage`, which names `where`."""
    try:
        image = Image.open(io.BytesIO(encoded))
        image.load()  # exact: `draft`, which shrinks a JPEG while decoding, would change the crops
    except Exception as error:  # Pillow raises a dozen types on broken files
        raise UnreadableImage(where, f"{type(error).__name__}: {error}") from None
    return image


def digest(parts: Iterable[str], length: int = 32) -> str:
    """A fingerprint of strings in their order, of `length` hexadecimal digits."""
    return hashlib.sha256("\0".join(parts).encode(errors="surrogateescape")).hexdigest()[:length]


def digest_of_parts(parts: Mapping[str, str]) -> str:
    """The fingerprint of a source whose parts are these."""
    return digest(itertools.chain(*parts.items()))


def digest_of_file(path: str) -> str:
    """The size of a file, and a digest of its first and last 64 KiB: what lies between is not read.

    Shards that were written anew, cut short or exchanged differ in one of these. A few bytes changed in the middle do
    not show here; ArrayRecord's checksums find them when the record is read.
    """
    with open(path, "rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - END_BYTES))
        last = file.read()
        file.seek(0)
        ends = (hashlib.sha256(part).hexdigest() for part in (file.read(END_BYTES), last))
        return f"{size}-{digest(ends, 16)}"
