"""Lists the image files below a folder, for training and for every command."""

import collections
import dataclasses
import functools
import itertools
import os
from collections.abc import Sequence

from absl import logging

from softvq_jax.data import source
from softvq_jax.data.decoding import EXTENSIONS
from softvq_jax.data.labels import LabelFile, class_names
from softvq_jax.plurals import counted
from softvq_jax.storage import listing
from softvq_jax.storage.bucket_errors import BucketError, NotFound
from softvq_jax.storage.paths import as_path, bucket_path, expand, is_remote

CLASSES = ("auto", "folders", "names", "one")
"""Where the classes of a folder's images come from; see `ImageFolder`."""
JUNK = ("__macosx", "thumbs.db", "desktop.ini", "@eadir")  # lower-cased names; hidden files and folders are junk too
OTHER_SOURCES = {".tar": "tar", ".parquet": "parquet", ".array_record": "array_record", ".tfrecord": "tfds"}


@dataclasses.dataclass(frozen=True)
class ImageFile(source.EncodedImage):
    """An image file and its class."""

    where: str
    label: int

    def load(self) -> tuple[bytes, int]:
        try:
            return as_path(self.where).read_bytes(), self.label
        except NotFound as error:
            raise source.UnreadableImage(self.where, str(error)) from None
        except BucketError:  # a fault of the server, not of this image
            raise
        except (OSError, ValueError) as error:  # ValueError: a name with a null byte
            reason = getattr(error, "strerror", None) or error
            raise source.UnreadableImage(self.where, f"{type(error).__name__}: {reason}") from None


class ImageFolder(source.Source):
    """All images below a folder, sorted by class and path. Links are followed; hidden files and other junk are not data.

    Args:
      folder: its path.
      classes: "folders": the class is the first-level subfolder, numbered among all that hold images, sorted by name;
        "names": the class is the part of the file's name before the first `_`, as in `n01440764_36.JPEG`; "one": all
        images are of one class. "auto": "folders" if all images are in subfolders, "one" if none is.
      label_file: path of a file with the class of every image; see `labels.LabelFile`.

    Raises:
      FileNotFoundError: the folder does not exist or contains no image.
      ValueError: links form a loop; or images lie beside subfolders with images, and `classes` is "auto".
    """

    def __init__(self, folder: str, classes: str = "auto", label_file: str = ""):
        folder = expand(folder)
        self._folder = folder
        if not listing.is_dir(folder):
            raise FileNotFoundError(f"no folder {folder!r}: data.path (or data.eval_path) must be a folder of images")
        found = walk(folder)
        if not found.images:
            raise FileNotFoundError(f"no image in {folder!r}: {_advice(found)}")
        found.warn(folder)
        if label_file:
            self._class_of = LabelFile(expand(label_file)).classes(found.images)
            names = class_names(self._class_of.values())
        else:
            self._class_of = _classes(folder, found.images, classes)
            names = tuple(sorted(set(self._class_of.values())))
        self.renumber(names)

    def renumber(self, class_names: tuple[str, ...]) -> None:
        """Numbers the classes by their positions in `class_names`, which must contain all of them."""
        self.class_names = class_names
        label = {name: number for number, name in enumerate(class_names)}
        files = ((name, label[of]) for name, of in self._class_of.items())
        self._files = sorted(files, key=lambda item: (item[1], item[0]))

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, i: int) -> ImageFile:
        name, label = self._files[i]
        return ImageFile(os.path.join(self._folder, name), label)

    def key(self, i: int) -> str:
        return self._files[i][0]

    @functools.cached_property
    def part_fingerprints(self) -> dict[str, str]:
        """Number of images of each class, with a digest of their names and file sizes; no image is read."""
        if is_remote(self._folder):  # by one listing
            folder = bucket_path(self._folder)
            found = {str(path.relative_to(folder)): status.st_size for path, status in folder.find()}
            sizes = [found.get(name, -1) for name, _ in self._files]
        else:  # in threads, because network file systems are slow
            chunks = [self._files[start : start + 1024] for start in range(0, len(self), 1024)]
            sizes = itertools.chain.from_iterable(listing.in_threads(self._sizes, chunks))
        described = [[] for _ in self.class_names]
        for (name, label), size in zip(self._files, sizes, strict=True):
            described[label].append(f"{name} {size}")
        named = zip(self.class_names, described, strict=True)
        return {name or ".": f"{len(files)}-{source.digest(files, 16)}" for name, files in named}

    def fingerprint(self) -> str:
        return source.digest_of_fingerprints(self.part_fingerprints)

    def _sizes(self, files):
        return [_size(os.path.join(self._folder, name)) for name, _ in files]


def _size(path):
    try:
        return os.stat(path).st_size
    except (OSError, ValueError):
        return -1  # reading the file raises UnreadableImage later


def _classes(folder: str, images: Sequence[str], classes: str) -> dict[str, str]:
    """The class name of every image; "" if all are of one class."""
    inside = [name for name in images if os.sep in name]
    beside = [name for name in images if os.sep not in name]
    if classes == "auto":
        if inside and beside:
            folders = sorted({name.split(os.sep)[0] for name in inside})
            raise ValueError(
                f"{folder} holds {counted(len(beside), 'image')} (such as {beside[0]}) beside "
                f"{counted(len(folders), 'folder')} with {counted(len(inside), 'image')} (such as {folders[0]}): set "
                "data.classes='folders' (in commands --classes=folders) to use only those in folders, 'one' to use all as "
                "one class, or move some elsewhere"
            )
        classes = "folders" if inside else "one"
        if classes == "one":
            warn_once(
                f"{folder}: {counted(len(images), 'image')} of one class, as there are no subfolders; data.classes='names' "
                "(in commands --classes=names) takes the class from file names like n01440764_36.JPEG"
            )
    if classes == "folders":
        if not inside:
            raise ValueError(f"{folder} has no subfolders with images, which data.classes='folders' needs")
        if beside:
            warn_once(f"{folder}: {len(beside):,} images beside the folders are left out, such as {beside[0]}")
        return {name: name.split(os.sep)[0] for name in inside}
    if classes == "names":
        if without := [name for name in images if "_" not in os.path.basename(name)]:
            raise ValueError(
                f"{os.path.join(folder, without[0])} has no '_' in its name, before which data.classes='names' expects the "
                f"class ({len(without):,} of {len(images):,} images): rename it, or choose another data.classes"
            )
        return {name: os.path.basename(name).split("_")[0] for name in images}
    if classes == "one":
        return dict.fromkeys(images, "")
    raise ValueError(f"data.classes={classes!r}: expected one of {', '.join(CLASSES)}")


@dataclasses.dataclass(frozen=True)
class Listing:
    """The files at any depth below a folder, as sorted paths relative to it.

    Attributes:
      images: files with one of `EXTENSIONS`.
      others: other files, without junk.
      closed: folders that cannot be listed, with the reason.
    """

    images: list[str]
    others: list[str]
    closed: list[tuple[str, str]]

    def warn(self, folder: str) -> None:
        """Logs, once in a process, what is left out."""
        if self.others:
            warn_once(f"{folder}: {_count_by_ending(self.others)} not read; image files end in {' '.join(EXTENSIONS)}")
        for name, reason in self.closed:
            warn_once(f"{os.path.join(folder, name)} cannot be listed ({reason}): its images are left out")


def walk(folder: str) -> Listing:
    """Lists a folder and all folders below it, following links.

    Raises:
      ValueError: a link leads to a folder that holds it.
      OSError: `folder` itself cannot be listed.
    """
    found = Listing([], [], [])
    if is_remote(folder):
        for path, _ in bucket_path(folder).find():
            name = str(path.relative_to(bucket_path(folder)))
            if not any(map(is_junk, name.split("/"))):
                (found.images if name.lower().endswith(EXTENSIONS) else found.others).append(name)
        return found
    # Folders to list, each with the real paths of the folders on the way to it.
    waiting: list[tuple[str, tuple[str, ...]]] = [("", (os.path.realpath(folder),))]
    while waiting:
        below, way = waiting.pop()
        try:
            with os.scandir(os.path.join(folder, below)) as scanned:
                entries = list(scanned)
        except OSError as error:
            if not below:
                raise
            found.closed.append((below, error.strerror or str(error)))
            continue
        for entry in entries:
            name = os.path.join(below, entry.name)
            if is_junk(entry.name):
                continue
            if _is_folder(entry):
                waiting.append((name, (*way, _real_folder(folder, name, entry, way))))
            else:
                (found.images if entry.name.lower().endswith(EXTENSIONS) else found.others).append(name)
    found.images.sort()
    found.others.sort()
    return found


def is_junk(name: str) -> bool:
    """Whether a file or folder of this name is hidden, or was left by an operating system or an archiver."""
    return name.startswith(".") or name.lower() in JUNK


def _is_folder(entry: os.DirEntry) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def _real_folder(folder, name, entry, way):
    if not entry.is_symlink():
        return os.path.join(way[-1], entry.name)
    real = os.path.realpath(entry.path)
    if any(passed == real or passed.startswith(real.rstrip(os.sep) + os.sep) for passed in way):
        raise ValueError(f"{os.path.join(folder, name)} is a link to {real}, which holds it: a loop; remove that link")
    return real


def _count_by_ending(names: Sequence[str]) -> str:
    counts = collections.Counter(os.path.splitext(name)[1].lower() or "no ending" for name in names)
    listed = ", ".join(f"{count:,} {ending}" for ending, count in counts.most_common(5))
    return f"{counted(len(names), 'file')} ({listed}, such as {names[0]})"


def _advice(found: Listing) -> str:
    """The reason why a folder has no images, and advice."""
    for name in found.others:
        if (ending := os.path.splitext(name)[1].lower()) in OTHER_SOURCES:
            return f"it holds {name}: set data.source={OTHER_SOURCES[ending]!r}"
    contents = f"it holds {_count_by_ending(found.others)}; " if found.others else ""
    return f"{contents}expected files ending in {', '.join(EXTENSIONS)}, directly in it or in one subfolder per class"


@functools.cache
def warn_once(text: str) -> None:
    """Logs a warning once in a process; a run opens its folder for training and for evaluation."""
    logging.warning("%s", text)


def list_images(name: str) -> list[str]:
    """Returns the image files that `name` refers to, sorted by path, without duplicates.

    Args:
      name: a file, whatever its ending; a folder; or a glob pattern for files and folders. In folders and among the
        matches of a pattern, files with one of `EXTENSIONS` are listed, in folders at any depth. Links are followed;
        hidden files and other junk are skipped.

    Raises:
      FileNotFoundError: there are no image files.
      ValueError: links form a loop.
    """
    name = expand(name)
    if listing.is_file(name):
        return [name]
    found = [name] if listing.is_dir(name) else listing.glob(name)
    # In a bucket, a request for each match would take minutes. So a match with the ending of an image is taken for a file.
    unsure = set(found) if not is_remote(name) else {path for path in found if not path.lower().endswith(EXTENSIONS)}
    folders = {path for path in unsure if listing.is_dir(path)}
    files = [
        path for path in found if (path not in unsure or listing.is_file(path)) and not is_junk(os.path.basename(path))
    ]
    matched = [path for path in files if path.lower().endswith(EXTENSIONS)]
    listed = {folder: walk(folder) for folder in found if folder in folders}
    below = (os.path.join(folder, path) for folder, inside in listed.items() for path in inside.images)
    if not (paths := sorted({*matched, *below})):
        raise FileNotFoundError(f"no image found at {name!r}; image files end in {', '.join(EXTENSIONS)}")
    for folder, inside in listed.items():
        inside.warn(folder)
    if left_out := sorted({*files} - {*matched}):
        warn_once(f"{name}: {_count_by_ending(left_out)} not read; image files end in {' '.join(EXTENSIONS)}")
    return paths
