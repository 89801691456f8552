"""Images from Python: any sequence of `(image, label)`, such as a torch `Dataset` or one of Hugging Face `datasets`.

    Run(config, workdir, TokenizerTask, source=dataset)
    train_batches(config, image_size=256, seed=0, global_batch=32, source=SequenceSource(dataset))

or from a config: `data.source="python"`, and `data.path="package.module:function"`, which returns the sequence.
"""

import dataclasses
import functools
import importlib
import os
import pickle
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image

from softvq_jax.data import source
from softvq_jax.data.decoding import DEFAULT, Decoding, UnreadableImage, decode, to_rgb, upright

IMAGE_KEYS = ("image", "img", "jpg", "png", "webp", "pixel_values", 0)
LABEL_KEYS = ("label", "labels", "fine_label", "class", "cls", "target", 1)
MAX_SCANNED = 10_000  # items read to find the classes; reading a label may decode the image
CHECKED_ITEMS = 32  # spread over the sequence, which its fingerprint covers

Items = Any
"""A sequence with `len` and `[i]`, or a function that returns one; items are `(image, label)`, or `{"image", "label"}`.

An image is a PIL image, encoded bytes, or an array: uint8, or floats in [0, 1]; `[H, W]`, `[H, W, 1 | 3 | 4]`, or a torch
tensor `[1 | 3, H, W]`.
"""


@dataclasses.dataclass(frozen=True)
class Opener:
    """Opens a sequence once in each process.

    Attributes:
      name: name of the sequence, for messages.
      open: returns the sequence; it is pickled for worker processes, so it must be a function at module level.
    """

    name: str
    open: Callable[[], Any]


@dataclasses.dataclass(frozen=True)
class SequenceItem:
    """An item of a sequence, and its class."""

    opener: Opener
    index: int
    names: tuple[str, ...] | None  # class names, if labels are strings

    @property
    def where(self) -> str:
        return f"item {self.index} of {self.opener.name}"

    def read(self, decoding: Decoding = DEFAULT) -> tuple[Image.Image, int]:
        """Returns the image, upright RGB, and its class; raises `UnreadableImage`."""
        try:
            image, label = image_and_label(_opened(self.opener)[self.index])
            return as_image(image, self.where, decoding), _number(label, self.names)
        except UnreadableImage:
            raise
        except Exception as error:  # a user's code may raise anything for an unreadable image
            raise UnreadableImage(self.where, f"{type(error).__name__}: {error}") from None


class SequenceSource(source.Source):
    """A source of the items of a Python sequence.

    Args:
      items: the sequence, or a function without arguments that returns it; see `Items`. Reading processes
        (`data.num_workers` > 0) need a function that can be pickled, and call it once each.
      class_names: names by label; default: those of the sequence (`classes`, or `features["label"].names`), else numbers.
      name: name of the source, for messages.

    Raises:
      TypeError: it has no length or cannot be indexed.
      ValueError: it is empty, its first item is not an image with a class, or its classes cannot be found.
    """

    def __init__(self, items: Items, class_names: Sequence[str] | None = None, name: str = ""):
        function = items if callable(items) and not hasattr(items, "__getitem__") else None
        sequence: Any = function() if function else items
        if not hasattr(sequence, "__len__") or not hasattr(sequence, "__getitem__"):
            if not (function and isinstance(sequence, Iterable)):
                raise TypeError(
                    f"source {type(sequence).__name__}: expected a sequence with len() and [i] of (image, label), or a "
                    "function that returns one; from an iterator, make a list"
                )
            sequence = list(sequence)
        if isinstance(sequence, Mapping):
            splits = ", ".join(map(repr, list(sequence)[:5]))
            raise TypeError(f"source {type(sequence).__name__} holds several sequences: give one of them, [{splits}]")
        self._name = name or getattr(items, "__qualname__", type(sequence).__name__)
        self._opener = Opener(self._name, function or _Held(sequence))
        _OPENED[self._opener.open] = sequence
        self._sequence, self._length = sequence, len(sequence)
        if not self._length:
            raise ValueError(f"source {self._name} is empty")
        image, label = image_and_label(sequence[0])
        try:
            as_image(image, f"item 0 of {self._name}", DEFAULT)
        except (TypeError, ValueError) as error:
            raise ValueError(f"item 0 of {self._name}: {error}") from None
        except UnreadableImage:
            pass  # counted like any other
        self.class_names, text = self._classes(class_names, label)
        self._text_names = self.class_names if text else None

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, i: int) -> SequenceItem:
        if not 0 <= i < self._length:
            raise IndexError(f"item {i} of {self._length}")
        return SequenceItem(self._opener, int(i), self._text_names)

    def key(self, i: int) -> str:
        return str(i)

    def check_workers(self) -> None:
        """Raises ValueError if worker processes cannot open the sequence."""
        try:
            pickle.dumps(self._opener)
        except (ValueError, TypeError, AttributeError, pickle.PicklingError) as error:
            raise ValueError(f"source {self._name}: {error}") from None

    @functools.cached_property
    def part_fingerprints(self) -> dict[str, str]:
        """The length, and a digest of the class names and of the pixels of a few items."""
        own = getattr(self._sequence, "_fingerprint", None)  # of Hugging Face datasets
        if own:
            return {self._name: f"{self._length}-{own}"}
        items = np.unique(np.linspace(0, self._length - 1, CHECKED_ITEMS).astype(int))
        return {self._name: f"{self._length}-{source.digest([*self.class_names, *map(self._digest, items)], 16)}"}

    def fingerprint(self) -> str:
        return source.digest_of_fingerprints(self.part_fingerprints)

    def _digest(self, i):
        try:
            image, label = self[i].read()
        except UnreadableImage:
            return "unreadable"
        return f"{label} {image.size} {source.digest([image.tobytes().hex()], 16)}"

    def _classes(self, given: Sequence[str] | None, first: Any) -> tuple[tuple[str, ...], bool]:
        """The class names, and whether labels are strings."""
        text = isinstance(first, str)
        if given is not None:
            return tuple(map(str, given)), text
        if first is None:
            return ("",), False
        whole = self._sequence
        while not hasattr(whole, "classes") and hasattr(whole, "dataset"):
            whole = whole.dataset  # a torch Subset has the labels of its data set
        names = getattr(whole, "classes", None)
        features = getattr(self._sequence, "features", None)
        if names is None and isinstance(features, Mapping):
            names = next((getattr(features[k], "names", None) for k in LABEL_KEYS if k in features), None)
        if names is not None:
            return tuple(map(str, names)), text
        targets = getattr(self._sequence, "targets", None)
        if targets is None:
            if self._length > MAX_SCANNED:
                raise ValueError(
                    f"source {self._name} has {self._length:,} items and does not say its classes: wrap it as "
                    "SequenceSource(items, class_names=[...])"
                )
            targets = [image_and_label(self._sequence[i])[1] for i in range(self._length)]
        if text:
            return tuple(sorted(set(map(str, targets)))), True
        numbers = [_number(label, None) for label in targets]
        return tuple(map(str, range(max(numbers) + 1))), False


def import_source(path: str) -> Callable[[], Any]:
    """Imports the function `package.module:function`.

    Raises:
      ValueError: the function does not exist.
    """
    module, colon, name = path.partition(":")
    try:
        if not colon:
            raise ValueError("no colon in it")
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(
            f"data.path={path!r}: {error}; data.source='python' needs 'package.module:function'"
        ) from error


def image_and_label(item: Any) -> tuple[Any, Any]:
    """Returns the image and the label of an item; the label is None if there is none."""
    if isinstance(item, Mapping):
        image = next((item[key] for key in IMAGE_KEYS if key in item), None)
        if image is None:
            raise ValueError(f"an item with the fields {', '.join(map(str, item))}; expected an image in 'image'")
        return image, next((item[key] for key in LABEL_KEYS if key in item), None)
    if isinstance(item, tuple | list):
        return item[0], item[1] if len(item) > 1 else None
    return item, None


def as_image(image: Any, where: str, decoding: Decoding = DEFAULT) -> Image.Image:
    """Converts any form of an image to 8-bit RGB, turned upright and blended as `decoding` says.

    Raises:
      TypeError, ValueError: the form of the image is not known.
      UnreadableImage: encoded bytes cannot be decoded.
    """
    if isinstance(image, Mapping) and ("bytes" in image or "path" in image):  # Hugging Face, not decoded
        image = image.get("bytes") or _content(image.get("path"))
    if isinstance(image, bytes | bytearray):
        return decode(bytes(image), where, decoding)
    if isinstance(image, str | os.PathLike):
        return decode(_content(image), where, decoding)
    if isinstance(image, Image.Image):
        return to_rgb(upright(image) if decoding.exif == "apply" else image, decoding)
    array, of_torch = np.asarray(image), type(image).__module__.split(".")[0] == "torch"
    if of_torch and array.ndim == 3 and array.shape[0] in (1, 3, 4):
        array = array.transpose(1, 2, 0)
    if array.dtype.kind == "f":
        if not (np.isfinite(array).all() and array.min() >= 0 and array.max() <= 1):
            raise ValueError(f"floats from {array.min():.3g} to {array.max():.3g}; expected 0 to 1, or uint8")
        array = np.round(array * 255).astype(np.uint8)
    if array.dtype != np.uint8 or array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (1, 3, 4)):
        raise ValueError(
            f"{type(image).__name__} of {array.dtype} {list(array.shape)}; expected uint8 [H, W, 3], floats in [0, 1], a "
            "PIL image, or the bytes of an image file"
        )
    return to_rgb(Image.fromarray(np.ascontiguousarray(array[..., 0] if array.shape[2:] == (1,) else array)), decoding)


def _content(path):
    with open(path, "rb") as file:
        return file.read()


def _number(label: Any, names: tuple[str, ...] | None) -> int:
    if label is None:
        return 0
    if names is not None:
        return names.index(str(label))
    number = int(label)
    if number < 0 or number != label:
        raise ValueError(f"label {label!r}; expected a class number of at least 0")
    return number


class _Held:
    """Opener of a sequence that exists only in this process, so that it cannot be pickled."""

    def __init__(self, sequence):
        self._sequence = sequence

    def __call__(self):
        return self._sequence

    def __reduce__(self):
        raise ValueError(
            "data.num_workers > 0 needs a source that other processes can open: give a function of a module that returns "
            "the sequence, or set data.num_workers=0, which reads in threads"
        )


_OPENED: dict[Callable, Any] = {}  # the open sequences of this process, by `Opener.open`


def _opened(opener: Opener) -> Any:
    if opener.open not in _OPENED:
        found = opener.open()
        _OPENED[opener.open] = found if hasattr(found, "__getitem__") else list(found)
    return _OPENED[opener.open]
