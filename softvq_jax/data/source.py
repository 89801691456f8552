"""What a source of photographs is: a random-access sequence of references, small enough to send to another process."""

import abc
import hashlib
import io
import os
from collections.abc import Iterable
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
    """Labelled photographs by number: `source[i]` is a `Reference` and costs no reading."""

    class_names: tuple[str, ...]

    def __len__(self) -> int: ...

    def __getitem__(self, i: int) -> Reference: ...

    def key(self, i: int) -> str:
        """A name of item `i` that stays when the whole source moves."""

    def fingerprint(self) -> str:
        """Changes when the photographs, their order or their labels do; a checkpoint stores it."""


def decode(encoded: bytes, where: str) -> Image.Image:
    """Decodes a JPEG, PNG, WebP or BMP file's bytes completely. Raises `UnreadableImage`, which names `where`."""
    try:
        image = Image.open(io.BytesIO(encoded))
        image.load()  # exact: `draft`, which shrinks a JPEG while decoding, would change the crops
    except Exception as error:  # Pillow raises a dozen types on broken files
        raise UnreadableImage(where, f"{type(error).__name__}: {error}") from None
    return image


def digest(parts: Iterable[str]) -> str:
    """A fingerprint of strings in their order."""
    return hashlib.sha256("\0".join(parts).encode(errors="surrogateescape")).hexdigest()[:32]


def digest_of_file(path: str) -> str:
    """Tells two versions of a large file apart by its size and its ends, where formats keep their indexes."""
    with open(path, "rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - END_BYTES))
        last = file.read()
        file.seek(0)
        return digest([str(size), hashlib.sha256(file.read(END_BYTES)).hexdigest(), hashlib.sha256(last).hexdigest()])
