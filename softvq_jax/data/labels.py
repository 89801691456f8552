"""Files that name the class of every image, such as those of ImageNet's validation images, which lie in one folder."""

import csv
import os
import pathlib
from collections.abc import Iterable, Sequence

MAX_CLASSES = 1_000_000
DEVKIT = "ILSVRC2012_validation_ground_truth.txt"


class LabelFile:
    """A text file with one line for each image.

    A line is the image's file name and its class, separated by a space, tab or comma: `LOC_val_solution.csv`, or Caffe's
    `val.txt`. Or it is only a class, in the order of the sorted file names: `imagenet_2012_validation_synset_labels.txt`.
    Names may lack their folders and their endings; a class is a name or a number.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: it is the development kit's, whose numbers have an order of their own; or it is not such a file.
    """

    def __init__(self, path: str):
        self._path = path
        if os.path.basename(path) == DEVKIT:
            raise ValueError(
                f"{path}: its numbers are not in the order of the sorted class names: use LOC_val_solution.csv, or "
                "imagenet_2012_validation_synset_labels.txt of TensorFlow's ImageNet scripts"
            )
        try:
            lines = pathlib.Path(path).read_text().splitlines()
        except FileNotFoundError:
            raise FileNotFoundError(f"no label file {path!r}") from None
        except UnicodeDecodeError:
            raise ValueError(f"{path} is not a text file of image names and classes") from None
        self._words = [_words(line) for line in lines if line.strip()]
        if self._words and self._words[0][0].lower() in ("imageid", "filename", "file_name", "image", "name"):
            del self._words[0]  # a header
        if not self._words:
            raise ValueError(f"{path} is empty: expected a line with name and class for each image")

    def classes(self, images: Sequence[str]) -> dict[str, str]:
        """The class of every image.

        Args:
          images: paths of images, sorted.

        Raises:
          ValueError: an image has no line, or the number of lines without names is another.
        """
        if all(len(words) == 1 for words in self._words):
            if len(self._words) != len(images):
                raise ValueError(f"{self._path} has {len(self._words):,} lines, and there are {len(images):,} images")
            return {name: _class(words[0]) for name, words in zip(images, self._words, strict=True)}
        known = {}
        for number, words in enumerate(self._words, 1):
            if len(words) < 2:
                raise ValueError(f"{self._path} line {number}: {words[0]!r} has no class")
            known[os.path.splitext(words[0])[0]] = _class(words[1])
        found, missing = {}, []
        for name in images:
            stem = os.path.splitext(name)[0]
            of = known.get(stem, known.get(os.path.basename(stem)))
            missing += [name] if of is None else []
            found[name] = of
        if missing:
            raise ValueError(f"{self._path} has no line for {missing[0]} and {len(missing) - 1:,} other images")
        return found


def class_names(classes: Iterable[str]) -> tuple[str, ...]:
    """The names of all classes by label: numbers from 0 on if all are numbers, else the sorted names."""
    present = set(classes)
    if all(name.isdecimal() for name in present) and (last := max(map(int, present))) < MAX_CLASSES:
        return tuple(map(str, range(last + 1)))
    return tuple(sorted(present))


def _words(line: str) -> list[str]:
    if "," in line:  # LOC_val_solution.csv: name,class box class box
        fields = next(csv.reader([line]))
        return [fields[0].strip(), *fields[1].split()[:1]] if len(fields) > 1 else [fields[0].strip()]
    return line.replace("\t", " ").split()


def _class(word: str) -> str:
    return str(int(word)) if word.isdecimal() else word
