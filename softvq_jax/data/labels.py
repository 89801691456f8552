"""Reads files that give the class of every image, as for ImageNet's validation images, which are all in one folder."""

import csv
import os
import re
from collections.abc import Iterable, Sequence

from softvq_jax.plurals import counted
from softvq_jax.storage.paths import as_path

MAX_CLASSES = 1_000_000
MAX_CHARACTERS = 1000  # of the name of a class
DEVKIT = "ILSVRC2012_validation_ground_truth.txt"


class LabelFile:
    """A text file with one line for each image.

    A line is the image's file name and its class, separated by a space, tab or comma: `LOC_val_solution.csv`, or Caffe's
    `val.txt`. Or it is only a class, in the order of the sorted file names: `imagenet_2012_validation_synset_labels.txt`.
    Names may be without folder and ending; a class is a name or a number.

    Raises:
      FileNotFoundError: the file does not exist.
      ValueError: the file has another form; or it is the development kit's, which numbers the classes in another order.
    """

    def __init__(self, path: str):
        self._path = path
        if os.path.basename(path) == DEVKIT:
            raise ValueError(
                f"{path}: its numbers are not in the order of the sorted class names: use LOC_val_solution.csv, or "
                "imagenet_2012_validation_synset_labels.txt of TensorFlow's ImageNet scripts"
            )
        try:
            lines = as_path(path).read_text("utf-8-sig").splitlines()
            self._words = [_words(line) for line in lines if line.strip()]
        except FileNotFoundError:
            raise FileNotFoundError(f"no label file {path!r}") from None
        except (UnicodeDecodeError, csv.Error, IsADirectoryError):
            raise ValueError(f"{path} is not a text file of image names and classes") from None
        if self._words and self._words[0][0].lower() in ("imageid", "filename", "file_name", "image", "name"):
            del self._words[0]  # a header
        if not self._words:
            raise ValueError(f"{path} is empty: expected a line with name and class for each image")

    def classes(self, images: Sequence[str]) -> dict[str, str]:
        """Returns the class of every image, by path.

        Args:
          images: sorted paths of images.

        Raises:
          ValueError: an image has no line, or lines with different classes; a class is empty or negative; or the file has
            no names, and the number of its lines is not that of the images.
        """
        if all(len(words) == 1 for words in self._words):
            if len(self._words) != len(images):
                raise ValueError(
                    f"{self._path} has {counted(len(self._words), 'line')}; expected one for each of {len(images):,} images"
                )
            return {name: self._class(words[0]) for name, words in zip(images, self._words, strict=True)}
        known: dict[str, set[str]] = {}  # by names with and without their endings
        for words in self._words:
            if len(words) < 2:
                raise ValueError(f"{self._path}: {words[0]!r:.100} has no class")
            label = self._class(words[1])
            for name in {words[0], os.path.splitext(words[0])[0]}:
                known.setdefault(name, set()).add(label)
        found, missing = {}, []
        for name in images:
            stem = os.path.splitext(name)[0]
            spellings = (name, stem, os.path.basename(name), os.path.basename(stem))
            labels = next((known[spelling] for spelling in spellings if spelling in known), set())
            if len(labels) > 1:
                raise ValueError(f"{self._path} gives {name} several classes: {', '.join(sorted(labels)[:4])}")
            missing += [] if labels else [name]
            found[name] = next(iter(labels), "")
        if missing:
            raise ValueError(f"{self._path} has no line for {missing[0]} and {len(missing) - 1:,} other images")
        return found

    def _class(self, word: str) -> str:
        if not 0 < len(word) <= MAX_CHARACTERS or re.fullmatch(r"-\d+", word):
            raise ValueError(f"{self._path} has a class {word!r:.50}; expected a name, or a number from 0 on")
        return str(int(word)) if word.isdecimal() else word


def class_names(classes: Iterable[str]) -> tuple[str, ...]:
    """Returns the class names, by label: all numbers up to the largest if all are numbers, else the sorted names."""
    present = set(classes)
    if all(name.isdecimal() for name in present) and (last := max(map(int, present))) < MAX_CLASSES:
        return tuple(map(str, range(last + 1)))
    return tuple(sorted(present))


def _words(line: str) -> list[str]:
    if "," in line:  # LOC_val_solution.csv: name,class box class box
        fields = next(csv.reader([line]))
        return [fields[0].strip(), *(fields[1].split()[:1] or [""])] if len(fields) > 1 else [fields[0].strip()]
    return line.replace("\t", " ").split()
