"""Where `tools.sample` puts images: a folder of PNG files, or one `.npz` that is put together from parts at the end.

What the images depend on is written beside them, so that only the same command goes on with them.
"""

import abc
import json
import os
import pathlib
import shutil
import zipfile
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from PIL import Image

from softvq_jax.metrics.npz import ArrayRows
from softvq_jax.weights import files

SETTINGS = "settings.json"


class Output(abc.ABC):
    """Images by number, written in any order, by several processes.

    Attributes:
      finished: whether all are there.
      grid_path: where a picture of the first ones belongs.
    """

    finished = False
    grid_path: pathlib.Path

    @abc.abstractmethod
    def missing(self, indices: np.ndarray) -> np.ndarray:
        """Those of `indices` that must be drawn."""

    @abc.abstractmethod
    def write(self, indices: np.ndarray, images: np.ndarray) -> None:
        """Keeps images, uint8 `[n, H, W, 3]`."""

    @abc.abstractmethod
    def finish(self) -> None:
        """Called by one process when all images are there."""

    @abc.abstractmethod
    def read(self, count: int) -> np.ndarray:
        """The first `count` images."""


def open_output(path: pathlib.Path, settings: Mapping, num: int, image_size: int) -> Output:
    """The output called `path`, new or to go on with.

    Raises:
      FileExistsError: something else is there, or samples with other settings, which the message names.
    """
    kind = NpzOutput if path.suffix == ".npz" else PngFolder
    return kind(path, json.loads(json.dumps(settings)), num, image_size)


class PngFolder(Output):
    """`000000.png`, `000001.png`, ..."""

    def __init__(self, folder: pathlib.Path, settings: Mapping, num: int, image_size: int):
        self._folder, self.grid_path = folder, folder.with_name(f"{folder.name}_grid.png")
        _claim(folder, folder / SETTINGS, settings)

    def missing(self, indices: np.ndarray) -> np.ndarray:
        return np.asarray([i for i in indices if not self._path(i).exists()], int)

    def write(self, indices: np.ndarray, images: np.ndarray) -> None:
        with ThreadPoolExecutor() as pool:
            list(pool.map(self._write_one, indices, images))

    def finish(self) -> None:
        pass

    def read(self, count: int) -> np.ndarray:
        return np.stack([np.asarray(Image.open(self._path(i))) for i in range(count)])

    def _path(self, i):
        return self._folder / f"{i:06d}.png"

    def _write_one(self, i, image):
        partial = self._folder / f"{i:06d}.partial"
        Image.fromarray(image).save(partial, format="PNG")
        os.replace(partial, self._path(i))


class NpzOutput(Output):
    """One `.npz` with the array `arr_0`; until it is whole, its parts lie in the folder `NAME.npz.parts`."""

    def __init__(self, path: pathlib.Path, settings: Mapping, num: int, image_size: int):
        self._path, self._shape = path, (num, image_size, image_size, 3)
        self._settings = path.with_name(f"{path.name}.json")
        self._parts, self.grid_path = path.with_name(f"{path.name}.parts"), path.with_name(f"{path.stem}_grid.png")
        self.finished = path.exists()
        if self.finished:
            _check(path, self._settings, settings)
        else:
            _claim(self._parts, self._settings, settings)

    def missing(self, indices: np.ndarray) -> np.ndarray:
        return indices[:0] if self._part(indices[0]).exists() else indices

    def write(self, indices: np.ndarray, images: np.ndarray) -> None:
        partial = self._part(indices[0]).with_suffix(".partial")
        with open(partial, "wb") as file:
            np.save(file, images)
        os.replace(partial, self._part(indices[0]))

    def finish(self) -> None:
        """Streams the parts into the archive, uncompressed: readers can then open it in place."""
        partial = self._path.with_name(f"{self._path.name}.partial")
        archive = zipfile.ZipFile(partial, "w", zipfile.ZIP_STORED)
        with archive, archive.open("arr_0.npy", "w", force_zip64=True) as file:
            np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": self._shape})
            for part in sorted(self._parts.glob("*.npy")):
                file.write(np.ascontiguousarray(np.load(part)).data)
        os.replace(partial, self._path)
        shutil.rmtree(self._parts)

    def read(self, count: int) -> np.ndarray:
        return ArrayRows(str(self._path), "arr_0").read(0, count)

    def _part(self, first):
        return self._parts / f"{first:08d}.npy"


def _claim(folder, settings_path, settings):
    """Makes `folder` for samples of these settings, or finds it so."""
    if settings_path.exists():
        _check(folder, settings_path, settings)
    elif folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise FileExistsError(f"--out={folder} is there and holds something else: take another, or remove it")
    else:
        folder.mkdir(parents=True, exist_ok=True)
        files.write_json(settings_path, settings)
    folder.mkdir(parents=True, exist_ok=True)


def _check(path, settings_path, settings):
    if not settings_path.exists():
        raise FileExistsError(f"--out={path} is there, and nothing says what is in it: take another, or remove it")
    found = json.loads(settings_path.read_text())
    differing = [name for name in sorted(found.keys() | settings.keys()) if found.get(name) != settings.get(name)]
    if differing:
        changes = ", ".join(f"{name} {found.get(name)!r} there, {settings.get(name)!r} now" for name in differing)
        raise FileExistsError(f"--out={path} holds other samples ({changes}): take another, or remove it")
