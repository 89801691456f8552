"""A folder of images in ImageNet's layout: one subfolder for each class."""

import concurrent.futures
import dataclasses
import functools
import glob
import itertools
import os
import pathlib

from softvq_jax.data import source

EXTENSIONS = (".bmp", ".jpeg", ".jpg", ".png", ".webp")  # in upper or lower case
STAT_THREADS = 16


@dataclasses.dataclass(frozen=True)
class ImageFile(source.EncodedImage):
    """An image file and its class."""

    where: str
    label: int

    def load(self) -> tuple[bytes, int]:
        try:
            return pathlib.Path(self.where).read_bytes(), self.label
        except OSError as error:
            raise source.UnreadableImage(self.where, f"{type(error).__name__}: {error.strerror}") from None


class ImageFolder(source.Source):
    """All images below a folder, sorted by path.

    The class is the index of the first-level subfolder, sorted by name. In a folder without subfolders, all images have
    class 0.

    Raises:
      FileNotFoundError: the folder does not exist or contains no image.
    """

    def __init__(self, folder: str):
        self._folder = folder
        if not os.path.isdir(folder):
            raise FileNotFoundError(f"no folder {folder!r}: data.path (or data.eval_path) must be a folder of images")
        classes = sorted(
            entry.name for entry in os.scandir(folder) if entry.is_dir() and not entry.name.startswith(".")
        )
        self.class_names = tuple(classes) or ("",)
        self._files = [(name, label) for label, part in enumerate(self.class_names) for name in _images(folder, part)]
        if not self._files:
            raise FileNotFoundError(
                f"no image in {folder!r}: expected files ending in {', '.join(EXTENSIONS)}, "
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
        """The number of images per class with a digest of their names and file sizes; no image is read."""
        chunks = [self._files[start : start + 1024] for start in range(0, len(self), 1024)]
        with concurrent.futures.ThreadPoolExecutor(STAT_THREADS) as threads:  # network file systems are slow
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
        return -1  # reading the file raises UnreadableImage later


def list_images(name: str) -> list[str]:
    """Returns the image files that `name` refers to, sorted by path, without duplicates.

    Args:
      name: a file, a folder, or a glob pattern for files and folders. In folders, files with one of `EXTENSIONS` at any
        depth are listed; hidden files and folders are skipped.

    Raises:
      FileNotFoundError: there are no image files.
    """
    if os.path.isfile(name):
        return [name]
    found = [name] if os.path.isdir(name) else glob.glob(name)
    files = [path for path in found if path.lower().endswith(EXTENSIONS) and os.path.isfile(path)]
    below = (os.path.join(folder, path) for folder in found if os.path.isdir(folder) for path in _images(folder))
    if paths := sorted({*files, *below}):
        return paths
    raise FileNotFoundError(f"no image found at {name!r}; image files end in {', '.join(EXTENSIONS)}")


def _images(folder, subfolder=""):
    """Returns the sorted paths, relative to the folder, of all images below a subfolder."""
    found = []
    for parent, folders, names in os.walk(os.path.join(folder, subfolder)):
        folders[:] = [name for name in folders if not name.startswith(".")]
        relative = os.path.relpath(parent, folder)
        found += [os.path.normpath(os.path.join(relative, name)) for name in names if name.lower().endswith(EXTENSIONS)]
    return sorted(name for name in found if not os.path.basename(name).startswith("."))
