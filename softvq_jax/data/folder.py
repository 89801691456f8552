"""A folder of images, in ImageNet's layout: one subfolder a class."""

import dataclasses
import os
import pathlib

from softvq_jax.data import source

EXTENSIONS = (".bmp", ".jpeg", ".jpg", ".png", ".webp")  # in any case


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

    def fingerprint(self) -> str:
        return source.digest(name for name, _ in self._files)  # names only: to stat a million files takes minutes


def _images(folder, part):
    found = []
    for parent, folders, names in os.walk(os.path.join(folder, part)):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        relative = os.path.relpath(parent, folder)
        found += [os.path.normpath(os.path.join(relative, name)) for name in names if name.lower().endswith(EXTENSIONS)]
    return sorted(name for name in found if not os.path.basename(name).startswith("."))
