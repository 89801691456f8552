"""Where the images to measure come from: arrays, `.npz` files, folders and files, read by row number."""

import concurrent.futures
import glob
import os
import pathlib
import struct
import zipfile
from collections.abc import Sequence
from typing import BinaryIO, Protocol

import numpy as np

from softvq_jax.data import crops, source
from softvq_jax.data.folder import EXTENSIONS, ImageFile


class Images(Protocol):
    """A set of 8-bit RGB images of one size, in a fixed order."""

    name: str
    shape: tuple[int, int, int]  # of one image

    def __len__(self) -> int: ...

    def read(self, start: int, stop: int) -> np.ndarray:
        """Images `start ... stop - 1`: uint8 `[stop - start, H, W, 3]`."""

    def version(self) -> str:
        """Changes when the images do, without reading them: resuming compares it."""

    def crop(self) -> str:
        """What was done to their size, in words."""


class ArrayImages:
    """Images in memory: uint8 `[N, H, W, 3]`."""

    def __init__(self, images: np.ndarray, name: str = "array"):
        check_images(images.dtype, images.shape, name)
        self.name, self.shape, self._images = name, images.shape[1:], images

    def __len__(self) -> int:
        return len(self._images)

    def read(self, start: int, stop: int) -> np.ndarray:
        return self._images[start:stop]

    def version(self) -> str:
        return source.digest([self._images.tobytes().hex()])

    def crop(self) -> str:
        return "none"


class NpzImages:
    """The images of an `.npz` file (`arr_0`, or its only array), a few at a time whatever their number.

    Raises:
      ValueError: no such array, or not uint8 `[N, H, W, 3]`.
    """

    def __init__(self, path: str):
        self.name = path
        with zipfile.ZipFile(path) as archive:
            names = [name.removesuffix(".npy") for name in archive.namelist()]
        key = "arr_0" if "arr_0" in names else names[0]
        if key != "arr_0" and len(names) > 1:
            raise ValueError(
                f"{path} holds {', '.join(names)}; expected images in arr_0, or mu and sigma of statistics"
            )
        self._rows = _open_member(path, f"{key}.npy")
        version = np.lib.format.read_magic(self._rows)
        header = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}[version]
        shape, fortran_order, dtype = header(self._rows)
        if fortran_order:
            raise ValueError(f"{path}: {key} is stored column by column; save np.ascontiguousarray(images)")
        check_images(dtype, shape, f"{path}: {key}")
        self._begin, self._count, self.shape = self._rows.tell(), shape[0], tuple(shape[1:])

    def __len__(self) -> int:
        return self._count

    def read(self, start: int, stop: int) -> np.ndarray:
        size = int(np.prod(self.shape))
        self._rows.seek(self._begin + start * size)
        content = self._rows.read((stop - start) * size)
        if len(content) < (stop - start) * size:
            raise ValueError(f"{self.name} is cut short after image {start + len(content) // size} of {self._count}")
        return np.frombuffer(content, np.uint8).reshape(-1, *self.shape)

    def version(self) -> str:
        return source.digest([_stat(self.name)])

    def crop(self) -> str:
        return "none"


class FileImages:
    """Image files, decoded by threads; with a `size`, centre-cropped to it as ADM does.

    Raises:
      ValueError: without a `size`, for the first image whose size or mode differs from the first one's, on reading.
    """

    def __init__(self, paths: Sequence[str], name: str, size: int | None = None):
        self.name, self._paths, self._size = name, list(paths), size
        self._pool = concurrent.futures.ThreadPoolExecutor(os.cpu_count())
        self.shape = self._load(self._paths[0], None).shape

    def __len__(self) -> int:
        return len(self._paths)

    @property
    def stems(self) -> list[str]:
        """File names without ending: what pairs one set with another."""
        return [pathlib.Path(path).stem for path in self._paths]

    def read(self, start: int, stop: int) -> np.ndarray:
        paths = self._paths[start:stop]
        return np.stack(list(self._pool.map(self._load, paths, [self.shape] * len(paths))))

    def version(self) -> str:
        return source.digest([str(self._size), *map(_stat, self._paths)])

    def crop(self) -> str:
        return "none" if self._size is None else f"ADM centre crop to {self._size}"

    def _load(self, path, expected):
        image, _ = ImageFile(path, 0).read()
        if self._size is not None:
            return crops.center_crop(image, self._size)
        hint = "give --image_size to convert to RGB and centre-crop all to one size"
        if image.mode != "RGB":
            raise ValueError(f"{path} has mode {image.mode}; expected 8-bit RGB: {hint}")
        if expected is not None and (image.height, image.width, 3) != tuple(expected):
            raise ValueError(
                f"{path} is {image.height} x {image.width}, but {self._paths[0]} is {expected[0]} x {expected[1]} "
                f"(height x width): {hint}"
            )
        return np.asarray(image)


def open_images(name: str, size: int | None = None) -> Images:
    """Opens an `.npz` file, a folder (all images below it), one image file, or a pattern such as `out/*.png`.

    Args:
      name: what to open.
      size: centre-crop image files to this size; None takes them as they are.

    Raises:
      FileNotFoundError: nothing there.
      ValueError: not 8-bit RGB images of one size.
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
    found = map(str, pathlib.Path(name).rglob("*")) if os.path.isdir(name) else glob.glob(name)
    paths = sorted(path for path in found if path.lower().endswith(EXTENSIONS))
    if not paths:
        raise FileNotFoundError(f"no image in or at {name!r}; image files end in {', '.join(EXTENSIONS)}")
    return FileImages(paths, name, size)


def check_images(dtype: np.dtype, shape: Sequence[int], name: str) -> None:
    """Raises ValueError where an array is not uint8 `[N, H, W, 3]`."""
    if dtype != np.uint8:
        raise ValueError(
            f"{name} is {dtype}; expected uint8 images in 0..255: from floats in [-1, 1], save round((x + 1) * 127.5)"
        )
    if len(shape) != 4 or shape[-1] != 3 or not shape[0]:
        raise ValueError(f"{name} has shape {tuple(shape)}; expected [N, H, W, 3] with at least one image")


def _open_member(path: str, name: str) -> BinaryIO:
    """A file in a zip archive; one stored uncompressed is opened in place, where seeking costs nothing."""
    archive = zipfile.ZipFile(path)
    member = archive.getinfo(name)
    if member.compress_type != zipfile.ZIP_STORED:
        return archive.open(name)
    archive.close()
    file = open(path, "rb")
    file.seek(member.header_offset + 26)  # the lengths of what lies between the local header and the content
    name_length, extra_length = struct.unpack("<HH", file.read(4))
    file.seek(name_length + extra_length, os.SEEK_CUR)
    return file


def _stat(path: str) -> str:
    stat = os.stat(path)
    return f"{os.path.realpath(path)} {stat.st_size} {stat.st_mtime_ns}"
