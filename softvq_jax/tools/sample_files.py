"""Output of `tools.sample`: a folder of PNG files, or one `.npz` that is assembled from parts at the end.

The settings that the images depend on are written next to them, so that only the same command resumes.
"""

import abc
import io
import os
import pathlib
import zipfile
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from PIL import Image

from softvq_jax.evaluate.image_sets import SAMPLE_GRID as GRID
from softvq_jax.metrics.npz import ArrayRows
from softvq_jax.storage import files, manifest
from softvq_jax.storage.paths import is_remote

SETTINGS = "settings.json"
CLASSES = "classes.tsv"


class Output(abc.ABC):
    """Numbered images, written in any order by several processes.

    Attributes:
      finished: whether all images are written.
      grid_path: path for a grid of the first images.
      classes_path: path for the class of each image.
    """

    finished = False
    grid_path: pathlib.Path
    classes_path: pathlib.Path

    @abc.abstractmethod
    def missing(self, indices: np.ndarray) -> np.ndarray:
        """Returns those of `indices` that must be drawn."""

    @abc.abstractmethod
    def write(self, indices: np.ndarray, images: np.ndarray) -> None:
        """Writes images, uint8 `[n, H, W, 3]`."""

    @abc.abstractmethod
    def finish(self) -> None:
        """Completes the output; called by one process after all images are written."""

    @abc.abstractmethod
    def read(self, count: int) -> np.ndarray:
        """Returns the first `count` images."""


def open_output(path: pathlib.Path, settings: Mapping, num: int, image_size: int) -> Output:
    """Opens a new or unfinished output.

    Args:
      path: a folder, or a file ending in `.npz`.
      settings: everything that the images depend on, as JSON values.
      num: number of images.
      image_size: side of the images in pixels.

    Raises:
      OtherJob: `path` holds something else, or samples with other settings, which the message names.
    """
    if path.suffix == ".npz":
        return NpzOutput(path, settings, num, image_size)
    return PngFolder(path, settings)


class PngFolder(Output):
    """A folder of `000000.png`, `000001.png`, ..."""

    def __init__(self, folder: pathlib.Path, settings: Mapping):
        self._folder, self.grid_path = folder, folder / GRID
        self._present: set[str] | None = None
        self.classes_path = folder / CLASSES
        manifest.claim(folder, SETTINGS, settings)

    def missing(self, indices: np.ndarray) -> np.ndarray:
        if self._present is None:  # one listing, because 50,000 requests to a bucket would take an hour
            self._present = {path.name for path in self._folder.iterdir()}
        return np.asarray([i for i in indices if self._path(i).name not in self._present], int)

    def write(self, indices: np.ndarray, images: np.ndarray) -> None:
        with ThreadPoolExecutor() as pool:
            list(pool.map(self._write_one, indices, images))

    def finish(self) -> None:
        pass

    def read(self, count: int) -> np.ndarray:
        return np.stack([np.asarray(Image.open(io.BytesIO(self._path(i).read_bytes()))) for i in range(count)])

    def _path(self, i):
        return self._folder / f"{i:06d}.png"

    def _write_one(self, i, image):
        # Not by storage.files, which would wait for the disk twice for each of 50,000 images.
        if is_remote(self._folder):
            content = io.BytesIO()
            Image.fromarray(image).save(content, format="PNG")
            self._path(i).write_bytes(content.getvalue())
            return
        partial = self._folder / f"{i:06d}{files.PARTIAL}"
        Image.fromarray(image).save(partial, format="PNG")
        os.replace(partial, self._path(i))


class NpzOutput(Output):
    """One `.npz` with the array `arr_0`; until it is complete, its parts are in the folder `NAME.npz.parts`."""

    def __init__(self, path: pathlib.Path, settings: Mapping, num: int, image_size: int):
        self._path, self._shape = path, (num, image_size, image_size, 3)
        self._parts, self.grid_path = path.with_name(f"{path.name}.parts"), path.with_name(f"{path.stem}_grid.png")
        self.classes_path = path.with_name(f"{path.stem}_{CLASSES}")
        self.finished = path.exists()
        settings_path = path.with_name(f"{path.name}.json")
        if settings_path.exists():
            if differing := manifest.differences(files.read_json(settings_path), settings):
                raise manifest.OtherJob(
                    f"--out={path} holds other samples: {'; '.join(differing)}. Use another name, or remove "
                    f"{settings_path.name} and the samples"
                )
        elif self.finished or self._parts.exists():
            raise manifest.OtherJob(f"--out={path} exists without {settings_path.name}: use another name, or remove it")
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            files.write_json(settings_path, settings)
        if not self.finished:
            self._parts.mkdir(exist_ok=True)

    def missing(self, indices: np.ndarray) -> np.ndarray:
        return indices[:0] if self._part(indices[0]).exists() else indices

    def write(self, indices: np.ndarray, images: np.ndarray) -> None:
        with files.replacing(self._part(indices[0])) as partial, open(partial, "wb") as file:
            np.save(file, images)

    def finish(self) -> None:
        """Streams the parts into the archive, uncompressed, so that readers can memory-map it."""
        with files.replacing(self._path) as partial:
            archive = zipfile.ZipFile(partial, "w", zipfile.ZIP_STORED)
            with archive, archive.open("arr_0.npy", "w", force_zip64=True) as file:
                header = {"descr": "|u1", "fortran_order": False, "shape": self._shape}
                np.lib.format.write_array_header_1_0(file, header)
                for part in sorted(self._parts.glob("*.npy")):
                    file.write(np.ascontiguousarray(np.load(io.BytesIO(part.read_bytes()))).data)
        files.remove_folder(self._parts)

    def read(self, count: int) -> np.ndarray:
        return ArrayRows(str(self._path), "arr_0").read(0, count)

    def _part(self, first):
        return self._parts / f"{first:08d}.npy"
