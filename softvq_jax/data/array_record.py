"""Reads the ArrayRecord shards of labeled images and the `dataset.json` that `tools.prepare_dataset` writes."""

import bisect
import dataclasses
import functools
import itertools
import json
import os
import pathlib
import threading
from typing import Any

from softvq_jax.data import record_ranges, records, source
from softvq_jax.plurals import counted
from softvq_jax.storage import listing, mirror
from softvq_jax.storage.paths import as_path, bucket_path, expand, is_remote

INDEX = "dataset.json"
LATENTS = "latents"  # section of `dataset.json`, where the records hold latents
SHARD_FIELDS = {"file": str, "records": int, "bytes": int}
MAX_OPEN_SHARDS = 512  # in one process: systems commonly allow 1,024 open files
_starting_copies = threading.Lock()


@dataclasses.dataclass(frozen=True)
class RecordedImage(source.EncodedImage):
    """One record of a shard; `classes` is the number of classes of the data set."""

    shard: str
    position: int
    classes: int

    @property
    def where(self) -> str:
        return f"{self.shard} record {self.position}"

    def load(self) -> tuple[bytes, int]:
        try:
            example = read_record(self.shard, self.position)
            return example["image"], class_in(example, self.classes)
        except (records.CorruptRecord, KeyError, RuntimeError, IndexError) as error:  # Riegeli's are RuntimeErrors
            raise source.UnreadableImage(self.where, f"{type(error).__name__}: {error}") from None


class ArrayRecordShards(source.Source):
    """The records of all shards of a folder, in order.

    Raises:
      FileNotFoundError: `dataset.json` or a shard is missing.
      ValueError: the size of a shard differs from `dataset.json`.
    """

    record = RecordedImage
    latents = False  # whether the records hold latents
    _copying = False  # whether copies of the shards have been started

    def __init__(self, folder: str):
        folder = expand(folder)
        path = as_path(folder) / INDEX
        if not path.exists():
            raise FileNotFoundError(
                f"no {path}: data.source='array_record' reads a folder that was written completely by "
                "`python -m softvq_jax.tools.prepare_dataset`"
            )
        index = read_index(path)
        if self.latents != (LATENTS in index):
            kinds = ("array_record", "latents")
            raise ValueError(
                f"{folder} holds {'latents' if LATENTS in index else 'images'}: data.source={kinds[self.latents]!r} cannot "
                f"read them, data.source={kinds[not self.latents]!r} can"
            )
        shards = index["shards"]
        self._shards = [os.path.join(folder, shard["file"]) for shard in shards]
        sizes = listing.sizes(folder)
        for name, shard in zip(self._shards, shards, strict=True):
            _check_size(name, sizes.get(shard["file"]), shard["bytes"])
        self._to_copy: tuple[tuple[str, str], ...] = ()  # shards in a bucket, and their SHA-256
        if is_remote(folder):
            digests = (shard.get("sha256", "") for shard in shards)
            self._to_copy = tuple(zip(self._shards, digests, strict=True))
        self._ends = list(itertools.accumulate(shard["records"] for shard in shards))
        if not self._ends or not self._ends[-1]:
            raise ValueError(f"{path} lists no images")
        self.class_names = tuple(index["class_names"])

    @property
    def files(self) -> tuple[str, ...]:
        """Paths of the shards."""
        return tuple(self._shards)

    def __len__(self) -> int:
        return self._ends[-1]

    def __getitem__(self, i: int) -> source.Reference:
        if not 0 <= i < len(self):
            raise IndexError(f"item {i} of {len(self)}")
        shard = bisect.bisect_right(self._ends, i)
        if self._to_copy and not self._copying:
            copy_ahead(self._to_copy)
            self._copying = True
        return self.record(self._shards[shard], i - (self._ends[shard - 1] if shard else 0), len(self.class_names))

    def key(self, i: int) -> str:
        return str(i)

    @functools.cached_property
    def part_fingerprints(self) -> dict[str, str]:
        return source.digests_of_files(self._shards)

    def fingerprint(self) -> str:
        return source.digest_of_fingerprints(self.part_fingerprints)


def read_index(path: pathlib.Path) -> dict[str, Any]:
    """Reads a `dataset.json`.

    Raises:
      ValueError: it is damaged, or was not written by `prepare_dataset` or `encode_latents`.
    """
    try:
        index = json.loads(path.read_bytes().decode())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is damaged ({error}): copy it again, or write the data set again") from None
    names = index.get("class_names") if isinstance(index, dict) else None
    shards = index.get("shards") if isinstance(index, dict) else None
    if not _are_names(names) or not isinstance(shards, list) or not all(map(_is_shard, shards)):
        raise ValueError(
            f"{path} was not written by prepare_dataset or encode_latents: expected an object with class_names, all text, "
            f"and shards with {', '.join(SHARD_FIELDS)}; got {type(index).__name__}{_listed(index)}"
        )
    return index


def _listed(index: Any) -> str:
    """The first fields or items of a JSON value, for messages."""
    return f" of {', '.join(sorted(map(str, index))[:5])}" if isinstance(index, dict | list) and index else ", empty"


def _are_names(names: Any) -> bool:
    return isinstance(names, list) and all(isinstance(name, str) for name in names)


def _is_shard(entry: Any) -> bool:
    return (
        isinstance(entry, dict)
        and all(type(entry.get(name)) is kind for name, kind in SHARD_FIELDS.items())
        and entry["records"] >= 0
        and os.path.basename(entry["file"]) == entry["file"] != ""
    )


def class_in(example: dict[str, Any], classes: int) -> int:
    """Returns the class of an example; raises IndexError if it is not among `classes` classes."""
    label = int(example["label"])
    if not 0 <= label < classes:
        raise IndexError(f"its class is {label}, and {INDEX} names {counted(classes, 'class', 'classes')}")
    return label


def read_record(shard: str, position: int) -> dict:
    """Returns the decoded example at a position of a shard."""
    (record,) = _reader(shard).read([position])
    return records.decode(record)


def copy_ahead(shards: tuple[tuple[str, str], ...]) -> mirror.BackgroundCopies:
    """Starts copying shards to the local disk in the background, once in a process.

    Args:
      shards: path in a bucket and SHA-256 ("" if unknown) of each shard.
    """
    with _starting_copies:  # the threads that read ahead call this at the same time
        return _copies(shards)


@functools.cache
def _copies(shards):
    paths = [bucket_path(shard) for shard, _ in shards]
    statuses = listing.in_threads(lambda path: path.stat(), paths)
    digests = (sha256 for _, sha256 in shards)
    return mirror.BackgroundCopies([*zip(paths, statuses, digests, strict=True)])


def _check_size(path, found, size):
    if found is None:
        raise FileNotFoundError(f"{path} is missing, but {INDEX} lists it: copy it again")
    if found != size:
        raise ValueError(
            f"{path} has {found:,} bytes, {INDEX} says {size:,}: the shard was truncated or replaced; "
            "copy it again, or write the folder again"
        )


@functools.lru_cache(maxsize=MAX_OPEN_SHARDS)  # a process keeps its shards open
def _reader(shard):
    try:
        from array_record.python.array_record_module import ArrayRecordReader
    except ImportError as error:
        raise ModuleNotFoundError(
            "ArrayRecord files need the package array_record: pip install array_record"
        ) from error
    if is_remote(shard):
        return record_ranges.BucketShard(str(shard))
    # Samples are read in random order, so reading ahead is useless.
    return ArrayRecordReader(shard, "readahead_buffer_size:0")
