"""Sets of images to measure: arrays, `.npz` files, folders and files, read by row number."""

import concurrent.futures
import os
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

import numpy as np
from absl import logging

from softvq_jax.data import samples, source
from softvq_jax.data.decoding import DEFAULT, Decoding, decode_as_stored
from softvq_jax.data.folder import ImageFile, list_images
from softvq_jax.metrics.npz import ArrayRows, array_names
from softvq_jax.storage import listing
from softvq_jax.storage.paths import as_path, expand, is_remote

SAMPLE_GRID = "grid.png"  # in a folder of samples, a picture of the first ones


class Images(Protocol):
    """A set of 8-bit RGB images of one size, in a fixed order.

    Attributes:
      name: for messages.
      shape: of one image.
      unreadable: why images that were read so far cannot be read, by index. Their pixels are zeros, and no measure may
        count them.
    """

    @property
    def name(self) -> str: ...

    @property
    def shape(self) -> tuple[int, int, int]:
        """Height, width and channels of one image."""
        ...

    @property
    def unreadable(self) -> Mapping[int, str]: ...

    def __len__(self) -> int: ...

    def read(self, start: int, stop: int) -> np.ndarray:
        """Returns images `start` to `stop - 1`, uint8 `[stop - start, H, W, 3]`."""
        ...

    def version(self) -> str:
        """Returns a value that changes with the images, without reading them; it is compared on resuming."""
        ...

    def crop(self) -> str:
        """Returns how the images were cropped."""
        ...

    def describe(self, i: int) -> str:
        """Returns a description of image `i` for messages."""
        ...


class ArrayImages:
    """Images in memory: uint8 `[N, H, W, 3]`."""

    def __init__(self, images: np.ndarray, name: str = "array"):
        check_images(images.dtype, images.shape, name)
        self.name, self._images = name, images
        self.unreadable: dict[int, str] = {}
        _, height, width, channels = images.shape
        self.shape = height, width, channels

    def __len__(self) -> int:
        return len(self._images)

    def read(self, start: int, stop: int) -> np.ndarray:
        return self._images[start:stop]

    def version(self) -> str:
        return source.digest([self._images.tobytes().hex()])

    def crop(self) -> str:
        return "none"

    def describe(self, i: int) -> str:
        return f"image {i} of {self.name}"


class NpzImages:
    """The images of an `.npz` file (`arr_0`, or its only array), read on demand.

    Raises:
      ValueError: there is no such array, or it is not uint8 `[N, H, W, 3]`.
    """

    def __init__(self, path: str):
        path = expand(path)
        self.name, self.unreadable, names = path, {}, array_names(path)
        if not names:
            raise ValueError(f"{path} holds no array; expected images in arr_0, or mu and sigma of statistics")
        key = "arr_0" if "arr_0" in names else names[0]
        if key != "arr_0" and len(names) > 1:
            raise ValueError(
                f"{path} holds {', '.join(names)}; expected images in arr_0, or mu and sigma of statistics"
            )
        self._rows = ArrayRows(path, key)
        check_images(self._rows.dtype, self._rows.shape, f"{path}: {key}")
        _, height, width, channels = self._rows.shape
        self.shape = height, width, channels

    def __len__(self) -> int:
        return self._rows.shape[0]

    def read(self, start: int, stop: int) -> np.ndarray:
        return self._rows.read(start, stop)

    def version(self) -> str:
        return source.digest([_stat(self.name)])

    def crop(self) -> str:
        return "none"

    def describe(self, i: int) -> str:
        return f"image {i} of {self.name}"


class FileImages:
    """Image files, decoded by threads. With a `size`, they are center-cropped to it as ADM does.

    Images that cannot be read are named in the log and in `unreadable`.

    Raises:
      ValueError: no image is readable; or, without a `size`, an image that is read is not RGB or has another size than
        the first one.
    """

    def __init__(self, paths: Sequence[str], name: str, size: int | None = None, decoding: Decoding = DEFAULT):
        self.name, self._paths, self._size, self._decoding = name, list(paths), size, decoding
        self._pool = concurrent.futures.ThreadPoolExecutor(os.cpu_count())
        self._crop = None if size is None else samples.evaluation(size, decoding)
        self.unreadable: dict[int, str] = {}
        self._first = 0  # the first readable image
        self.shape: tuple[int, int, int] = None  # type: ignore[assignment]  # while the first image is read
        for i in range(len(self._paths)):
            if (image := self._read_image(i)) is not None:
                self._first, self.shape = i, image.shape
                break
        else:
            raise ValueError(f"none of the {len(self._paths):,} images of {name} is readable; {self.unreadable[0]}")

    def __len__(self) -> int:
        return len(self._paths)

    @property
    def stems(self) -> list[str]:
        """File names without suffix, which must be the same in paired sets."""
        return [pathlib.Path(path).stem for path in self._paths]

    def read(self, start: int, stop: int) -> np.ndarray:
        found = self._pool.map(self._read_image, range(start, stop))
        return np.stack([np.zeros(self.shape, np.uint8) if image is None else image for image in found])

    def version(self) -> str:
        return source.digest([str(self._size), *listing.in_threads(_stat, self._paths)])

    def crop(self) -> str:
        return "none" if self._size is None else _crop_in_words(self._size, self._decoding)

    def describe(self, i: int) -> str:
        return self._paths[i]

    def _read_image(self, i):
        """Image `i`; None where it cannot be read."""
        try:
            return self._load(self._paths[i])
        except source.UnreadableImage as error:
            _name_unreadable(self.unreadable, i, error)
            return None

    def _load(self, path):
        file = ImageFile(path, 0)
        if self._crop is not None:
            [result] = self._crop([file], [0])
            if isinstance(result, source.UnreadableImage):
                raise result
            return result[0]
        image = decode_as_stored(file.load()[0], path, self._decoding)
        hint = "give --image_size to convert to RGB and center-crop all to one size"
        if image.mode != "RGB":
            raise ValueError(f"{path} has mode {image.mode}; expected 8-bit RGB: {hint}")
        if self.shape is not None and (image.height, image.width, 3) != tuple(self.shape):
            raise ValueError(
                f"{path} is {image.height} x {image.width}, but {self._paths[self._first]} is {self.shape[0]} x "
                f"{self.shape[1]} (height x width): {hint}"
            )
        return np.asarray(image)


class SourceImages:
    """The first `count` images of a training source (all of them by default), center-cropped.

    Images that cannot be read are named in the log and in `unreadable`.
    """

    def __init__(
        self,
        images: source.Source,
        size: int,
        count: int | None = None,
        name: str = "images",
        decoding: Decoding = DEFAULT,
    ):
        self.name, self.shape, self._decoding = name, (size, size, 3), decoding
        self.unreadable: dict[int, str] = {}
        self._source, self._count = images, len(images) if count is None else min(count, len(images))
        self._load, self._pool = (
            samples.evaluation(size, decoding),
            concurrent.futures.ThreadPoolExecutor(os.cpu_count()),
        )

    def __len__(self) -> int:
        return self._count

    def read(self, start: int, stop: int) -> np.ndarray:
        return np.stack(list(self._pool.map(self._read_image, range(start, stop))))

    def version(self) -> str:
        return self._source.fingerprint()

    def crop(self) -> str:
        return _crop_in_words(self.shape[0], self._decoding)

    def describe(self, i: int) -> str:
        return self._source[i].where

    def _read_image(self, i):
        [result] = self._load([self._source[i]], [i])
        if isinstance(result, source.UnreadableImage):
            _name_unreadable(self.unreadable, i, result)
            return np.zeros(self.shape, np.uint8)
        return result[0]


def open_images(name: str, size: int | None = None, decoding: Decoding = DEFAULT) -> Images:
    """Opens a set of images.

    Args:
      name: an `.npz` file, a folder (all images below it), an image file, or a pattern such as `out/*.png` or `val/n0*`
        (all images below matching folders).
      size: center-crop image files to this size; None leaves them as they are.
      decoding: how image files become RGB.

    Raises:
      FileNotFoundError: there is no such file, folder or match.
      ValueError: the images are not 8-bit RGB or not of one size.
    """
    name = expand(name)
    if name.endswith(".npz"):
        if not listing.is_file(name):
            raise FileNotFoundError(f"no file {name!r}")
        images = NpzImages(name)
        if size is not None and images.shape != (size, size, 3):
            height, width = images.shape[:2]
            raise ValueError(
                f"{name} holds images of {height} x {width} pixels, not {size}; only image files are cropped"
            )
        return images
    paths = [path for path in list_images(name) if not _is_sample_grid(path)]
    return FileImages(paths, name, size, decoding)


def _is_sample_grid(path: str) -> bool:
    """Whether an image is the grid that `tools.sample --grid` writes into a folder of samples."""
    folder, name = os.path.split(path)
    return name == SAMPLE_GRID and listing.is_file(os.path.join(folder, "settings.json"))


def take(images: Images, rows: Iterable[int]) -> np.ndarray:
    """Reads the images `rows`, in that order: uint8 `[len(rows), H, W, 3]`."""
    return np.concatenate([images.read(int(row), int(row) + 1) for row in rows])


def check_images(dtype: np.dtype, shape: Sequence[int], name: str) -> None:
    """Raises ValueError if an array is not uint8 `[N, H, W, 3]`."""
    if dtype != np.uint8:
        raise ValueError(
            f"{name} is {dtype}; expected uint8 images in 0..255: from floats in [-1, 1], save round((x + 1) * 127.5)"
        )
    if len(shape) != 4 or shape[-1] != 3 or not shape[0]:
        raise ValueError(f"{name} has shape {tuple(shape)}; expected [N, H, W, 3] with at least one image")


def _name_unreadable(unreadable: dict[int, str], i: int, error: source.UnreadableImage) -> None:
    if i not in unreadable:
        logging.warning("unreadable image, left out of every measure: %s", error)
    unreadable[i] = str(error)


def _crop_in_words(size: int, decoding: Decoding) -> str:
    return ", ".join(filter(None, (f"ADM center crop to {size}", decoding.describe())))


def _stat(path: str) -> str:
    if is_remote(path):
        try:
            return f"{path} {as_path(path).stat()}"
        except FileNotFoundError:
            return f"{path} missing"
    try:
        stat = os.stat(path)
    except OSError:
        return f"{os.path.realpath(path)} missing"
    return f"{os.path.realpath(path)} {stat.st_size} {stat.st_mtime_ns}"
