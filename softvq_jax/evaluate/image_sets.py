"""Sets of images to measure: arrays, `.npz` files, folders and files, read by row number."""

import concurrent.futures
import glob
import os
import pathlib
from collections.abc import Iterable, Sequence
from typing import Protocol

import numpy as np
from absl import logging

from softvq_jax.data import crops, samples, source
from softvq_jax.data.folder import EXTENSIONS, ImageFile
from softvq_jax.metrics.npz import ArrayRows, array_names


class Images(Protocol):
    """A set of 8-bit RGB images of one size, in a fixed order."""

    @property
    def name(self) -> str: ...

    @property
    def shape(self) -> tuple[int, int, int]:
        """Height, width and channels of one image."""
        ...

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
        self.name, names = path, array_names(path)
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

    Without a `size`, reading an image that is not RGB or differs in size from the first one raises ValueError.
    """

    def __init__(self, paths: Sequence[str], name: str, size: int | None = None):
        self.name, self._paths, self._size = name, list(paths), size
        self._pool = concurrent.futures.ThreadPoolExecutor(os.cpu_count())
        self.shape = self._load(self._paths[0], None).shape

    def __len__(self) -> int:
        return len(self._paths)

    @property
    def stems(self) -> list[str]:
        """File names without suffix, which must be the same in paired sets."""
        return [pathlib.Path(path).stem for path in self._paths]

    def read(self, start: int, stop: int) -> np.ndarray:
        paths = self._paths[start:stop]
        return np.stack(list(self._pool.map(self._load, paths, [self.shape] * len(paths))))

    def version(self) -> str:
        return source.digest([str(self._size), *map(_stat, self._paths)])

    def crop(self) -> str:
        return "none" if self._size is None else f"ADM center crop to {self._size}"

    def describe(self, i: int) -> str:
        return self._paths[i]

    def _load(self, path, expected):
        image, _ = ImageFile(path, 0).read()
        if self._size is not None:
            return crops.center_crop(image, self._size)
        hint = "give --image_size to convert to RGB and center-crop all to one size"
        if image.mode != "RGB":
            raise ValueError(f"{path} has mode {image.mode}; expected 8-bit RGB: {hint}")
        if expected is not None and (image.height, image.width, 3) != tuple(expected):
            raise ValueError(
                f"{path} is {image.height} x {image.width}, but {self._paths[0]} is {expected[0]} x {expected[1]} "
                f"(height x width): {hint}"
            )
        return np.asarray(image)


class SourceImages:
    """The first `count` images of a training source (all of them by default), center-cropped.

    An unreadable image is replaced by a black one; with `complete`, reading it raises `UnreadableImage`.
    """

    def __init__(
        self,
        images: source.Source,
        size: int,
        count: int | None = None,
        name: str = "images",
        *,
        complete: bool = False,
    ):
        self.name, self.shape, self._complete = name, (size, size, 3), complete
        self._source, self._count = images, len(images) if count is None else min(count, len(images))
        self._load, self._pool = samples.evaluation(size), concurrent.futures.ThreadPoolExecutor(os.cpu_count())

    def __len__(self) -> int:
        return self._count

    def read(self, start: int, stop: int) -> np.ndarray:
        return np.stack(list(self._pool.map(self._read_image, range(start, stop))))

    def version(self) -> str:
        return self._source.fingerprint()

    def crop(self) -> str:
        return f"ADM center crop to {self.shape[0]}"

    def describe(self, i: int) -> str:
        return self._source[i].where

    def _read_image(self, i):
        [result] = self._load([self._source[i]], [i])
        if isinstance(result, source.UnreadableImage):
            if self._complete:
                raise result
            logging.warning("unreadable image, black in this evaluation: %s", result)
            return np.zeros(self.shape, np.uint8)
        return result[0]


def open_images(name: str, size: int | None = None) -> Images:
    """Opens a set of images.

    Args:
      name: an `.npz` file, a folder (all images below it), an image file, or a pattern such as `out/*.png` or `val/n0*`
        (all images below matching folders).
      size: center-crop image files to this size; None leaves them as they are.

    Raises:
      FileNotFoundError: there is no such file, folder or match.
      ValueError: the images are not 8-bit RGB or not of one size.
    """
    if name.endswith(".npz"):
        if not os.path.isfile(name):
            raise FileNotFoundError(f"no file {name!r}")
        images = NpzImages(name)
        if size is not None and images.shape != (size, size, 3):
            height, width = images.shape[:2]
            raise ValueError(
                f"{name} holds images of {height} x {width} pixels, not {size}; only image files are cropped"
            )
        return images
    return FileImages(image_files(name), name, size)


def image_files(name: str) -> list[str]:
    """Returns the image files at a path, sorted: the file itself, those below a folder, or those that match a pattern.

    Raises:
      FileNotFoundError: there are no image files.
    """
    found = [name] if os.path.isdir(name) else glob.glob(name)
    below = (map(str, pathlib.Path(path).rglob("*")) if os.path.isdir(path) else [path] for path in found)
    paths = sorted({path for paths in below for path in paths if path.lower().endswith(EXTENSIONS)})
    if not paths:
        raise FileNotFoundError(f"no image in or at {name!r}; image files end in {', '.join(EXTENSIONS)}")
    return paths


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


def _stat(path: str) -> str:
    stat = os.stat(path)
    return f"{os.path.realpath(path)} {stat.st_size} {stat.st_mtime_ns}"
