"""Parquet files of images, as the Hugging Face Hub stores image sets: a column of encoded images, and one of classes.

Parquet is made for sequential reading: reading an image reads its whole row group, and each process keeps a few row groups.
For many epochs over a large data set, `tools.prepare_dataset --source=parquet` writes ArrayRecord, which is faster.
"""

import contextlib
import dataclasses
import functools
import json
import os
from collections.abc import Iterator
from typing import Any

import numpy as np

from softvq_jax.data import source
from softvq_jax.data.labels import MAX_CLASSES
from softvq_jax.data.shard_files import find_shards
from softvq_jax.storage import listing
from softvq_jax.storage.buckets import file_system
from softvq_jax.storage.paths import expand, is_remote

IMAGES = ("image", "img", "jpg", "png", "webp", "picture")  # column names; the first that exists is used
LABELS = ("label", "labels", "fine_label", "class", "cls", "target")
KEPT_GROUPS = 16  # row groups in memory, in each process


@dataclasses.dataclass(frozen=True)
class ParquetImage(source.EncodedImage):
    """An image in a row group of a file."""

    file: str
    column: str
    group: int
    row: int
    label: int

    @property
    def where(self) -> str:
        return f"{self.file} row group {self.group} row {self.row}"

    def load(self) -> tuple[bytes, int]:
        try:
            value = _group(self.file, self.column, self.group)[self.row].as_py()
        except Exception as error:  # pyarrow raises many types on damaged files
            reason = str(error).splitlines()[0] if str(error) else ""
            raise source.UnreadableImage(self.where, f"{type(error).__name__}: {reason}") from None
        encoded = value.get("bytes") if isinstance(value, dict) else value
        if not isinstance(encoded, bytes):
            path = value.get("path") if isinstance(value, dict) else None
            raise source.UnreadableImage(self.where, f"no bytes of an image in it (path {path!r})")
        return encoded, self.label


class ParquetShards(source.Source):
    """All images of Parquet files, in order.

    Args:
      path: a file; a folder of files, or one that has them in a subfolder `data`, as on the Hub; or a pattern such as
        `data/train-*.parquet`.

    Raises:
      ModuleNotFoundError: the `hf` extra is not installed.
      FileNotFoundError: there are no Parquet files, or no rows in them.
      ValueError: a file is damaged, or has no column of images, or another layout than the first.
    """

    def __init__(self, path: str):
        path = expand(path)
        inner = os.path.join(path, "data")
        if listing.is_dir(inner) and not any(name.endswith(".parquet") for name in listing.names(path)):
            path = inner
        self._files = find_shards(path, (".parquet",), "Parquet file")
        shards = [_Shard(file) for file in self._files]
        if len({(shard.image, shard.label) for shard in shards}) > 1:
            raise ValueError(f"the Parquet files at {path!r} have different columns of images and labels")
        self._image = shards[0].image
        self._ends = np.cumsum([rows for shard in shards for rows in shard.groups])
        self._groups = [(number, group) for number, shard in enumerate(shards) for group in range(len(shard.groups))]
        if not len(self._ends) or not self._ends[-1]:
            raise FileNotFoundError(f"no rows in the Parquet files at {path!r}")
        filled = [shard.labels for shard in shards if len(shard.labels)]
        if len({labels.dtype.kind == "U" for labels in filled}) > 1:
            raise ValueError(f"some Parquet files at {path!r} have names as labels, others numbers: all need the same")
        labels = np.concatenate(filled)
        self._labels, self.class_names = _numbered(labels, shards[0].names, path)

    def __len__(self) -> int:
        return int(self._ends[-1])

    def __getitem__(self, i: int) -> ParquetImage:
        if not 0 <= i < len(self):
            raise IndexError(f"item {i} of {len(self)}")
        position = int(np.searchsorted(self._ends, i, side="right"))
        start = int(self._ends[position - 1]) if position else 0
        number, group = self._groups[position]
        return ParquetImage(self._files[number], self._image, group, i - start, int(self._labels[i]))

    def key(self, i: int) -> str:
        return str(i)

    def renumber(self, class_names: tuple[str, ...]) -> None:
        """Numbers the classes by their positions in `class_names`, which must contain all of them."""
        order = {name: number for number, name in enumerate(class_names)}
        self._labels = np.array([order.get(name, -1) for name in self.class_names])[self._labels]
        self.class_names = class_names

    @functools.cached_property
    def part_fingerprints(self) -> dict[str, str]:
        return source.digests_of_files(self._files)

    def fingerprint(self) -> str:
        return source.digest_of_fingerprints(self.part_fingerprints)


class _Shard:
    """Layout and labels of one file."""

    def __init__(self, file: str):
        with _reading(file):
            parquet = _open(file)
        schema = parquet.schema_arrow
        features = _features(schema.metadata)
        images = [name for name, value in features.items() if isinstance(value, dict) and value.get("_type") == "Image"]
        image = next((name for name in (*images, *IMAGES) if name in schema.names), None)
        if image is None:
            raise ValueError(f"{file} has the columns {', '.join(schema.names)}; expected images in one of {IMAGES}")
        self.image: str = image
        self.label = next((name for name in LABELS if name in schema.names), None)
        feature = features.get(self.label or "")
        self.names = tuple(feature.get("names") or ()) if isinstance(feature, dict) else ()
        self.groups = [parquet.metadata.row_group(i).num_rows for i in range(parquet.num_row_groups)]
        rows = sum(self.groups)
        with _reading(file):
            self.labels = np.full(rows, "") if self.label is None else _column(parquet, self.label)
        if self.labels.shape != (rows,):
            raise ValueError(f"{file}: the column {self.label!r} does not hold one class for each of its {rows:,} rows")


@contextlib.contextmanager
def _reading(file: str) -> Iterator[None]:
    """Converts pyarrow's errors for damaged files, which have many types, to a ValueError that names the file."""
    try:
        yield
    except (FileNotFoundError, PermissionError, ImportError):
        raise
    except Exception as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ValueError(f"{file} is not a complete Parquet file ({reason}): copy it again") from None


def _column(parquet, name: str) -> np.ndarray:
    values = parquet.read(columns=[name]).column(0).to_pylist()
    if any(isinstance(value, list | dict) for value in values):
        raise ValueError(f"the column {name!r} holds lists or structures; expected one class a row")
    return np.asarray(values)


def _numbered(labels: np.ndarray, names: tuple[str, ...], path: str) -> tuple[np.ndarray, tuple[str, ...]]:
    """Labels as numbers, and the names of the classes."""
    if labels.dtype.kind == "U":
        found, numbers = np.unique(labels, return_inverse=True)
        return numbers, tuple(map(str, found))
    if labels.dtype.kind not in "iu" or labels.min() < 0 or labels.max() >= (len(names) or MAX_CLASSES):
        wrong = [value for value in labels[:100_000].tolist() if not isinstance(value, int) or value < 0]
        raise ValueError(
            f"labels in {path} such as {(wrong or [labels.max().item()])[0]!r}: expected class numbers from 0 to "
            f"{(len(names) or MAX_CLASSES) - 1:,}"
        )
    return labels, names or tuple(map(str, range(int(labels.max()) + 1)))


def _features(metadata: dict[bytes, bytes] | None) -> dict[str, Any]:
    """The features that Hugging Face's `datasets` writes into a file, by column; empty if there are none."""
    try:
        return json.loads((metadata or {})[b"huggingface"])["info"]["features"]
    except (KeyError, ValueError, TypeError):
        return {}


@functools.lru_cache(maxsize=KEPT_GROUPS)
def _group(file: str, column: str, group: int):
    return _open(file, memory_map=True).read_row_group(group, columns=[column]).column(0)


def _open(file: str, **options):
    """Opens a file; checksums of pages, where the file has them, are checked when the pages are read."""
    if is_remote(file):  # by ranges
        opened = file_system(file.partition("://")[0]).open(file, "rb")
        return _parquet().ParquetFile(opened, page_checksum_verification=True)
    return _parquet().ParquetFile(file, page_checksum_verification=True, **options)


def _parquet():
    try:
        import pyarrow.parquet
    except ImportError as error:
        raise ModuleNotFoundError("data.source='parquet' needs the hf extra: pip install 'softvq-jax[hf]'") from error
    return pyarrow.parquet
