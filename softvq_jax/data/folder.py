"""A folder of images, in ImageNet's layout: one subfolder a class."""

import concurrent.futures
import dataclasses
import functools
import itertools
import os
import pathlib

from softvq_jax.data import source

EXTENSIONS = (".bmp", ".jpeg", ".jpg", ".png", ".webp")  # in any case
STAT_THREADS = 16


@dataclasses.dataclass(frozen=True)
class ImageFile(source.EncodedImage):
    """One file and its class."""

    where: str
    label: int

    def load(self) -> tuple[bytes, int]:
        try:
            return pathlib.Path(self.where).read_bytes(), self.label
        except OSError as error:
            raise source.UnreadableImage(self.where, f"{type(error).__name__}: {error.strerror}") from None


class ImageFolder:
    """All images below a folder, sorted by path.

    The class is the number of the first-level subfolder among the sorted ones; images that lie directly in a folder
    without subfolders have class 0.

    Raises:
      FileNotFoundError: for a folder that does not exist or holds no image.
    """

    def __init__(self, folder: str):
        self._folder = folder
        if not os.path.isdir(folder):
            raise FileNotFoundError(f"no folder {folder!r}: data.path (or data.eval_path) must name a folder of images")
        classes = sorted(
            entry.name for entry in os.scandir(folder) if entry.is_dir() and not entry.name.startswith(".")
        )
        self.class_names = tuple(classes) or ("",)
        self._files = [(name, label) for label, part in enumerate(self.class_names) for name in _images(folder, part)]
        if not self._files:
            raise FileNotFoundError(
                f"no image in {folder!r}: expected files ending in {', '.join(EXTENSIONS)} (in any case), "
                "directly in it or in one subfolder per class"
            )

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, i: int) -> ImageFile:
        name, label = self._files[i]
        return ImageFile(os.path.join(self._folder, name), label)

    def key(self, i: int) -> str:
        return self._files[i][0]

    @functools.cached_property
    def parts(self) -> dict[str, str]:
        """Of every class, the number of its images, and a digest of their names and sizes in bytes; nothing is read."""
        chunks = [self._files[start : start + 1024] for start in range(0, len(self), 1024)]
        with concurrent.futures.ThreadPoolExecutor(STAT_THREADS) as threads:  # a network's folders answer slowly
            sizes = itertools.chain.from_iterable(threads.map(self._sizes, chunks))
        described = [[] for _ in self.class_names]
        for (name, label), size in zip(self._files, sizes, strict=True):
            described[label].append(f"{name} {size}")
        named = zip(self.class_names, described, strict=True)
        return {name or ".": f"{len(files)}-{source.digest(files, 16)}" for name, files in named}

    def fingerprint(self) -> str:
        return source.digest_of_parts(self.parts)

    def _sizes(self, files):
        return [_size(os.path.join(self._folder, name)) for name, _ in files]


def _size(path):
    try:
        return os.stat(path).st_size
    except OSError:
        return -1  # it will be named when it cannot be read


def _images(folder, part):
    found = []
    for parent, folders, names in os.walk(os.path.join(folder, part)):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        relative = os.path.relpath(parent, folder)
        found += [os.path.normpath(os.path.join(relative, name)) for name in names if name.lower().endswith(EXTENSIONS)]
    return sorted(name for name in found if not os.path.basename(name).startswith("."))
