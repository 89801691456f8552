"""Reads the ArrayRecord shards of labeled images and the `dataset.json` that `tools.prepare_dataset` writes."""

import bisect
import dataclasses
import functools
import itertools
import json
import os
import pathlib

from softvq_jax.data import records, source

INDEX = "dataset.json"
MAX_OPEN_SHARDS = 512  # in one process: systems commonly allow 1,024 open files


@dataclasses.dataclass(frozen=True)
class RecordedImage(source.EncodedImage):
    """One record of a shard."""

    shard: str
    position: int

    @property
    def where(self) -> str:
        return f"{self.shard} record {self.position}"

    def load(self) -> tuple[bytes, int]:
        try:
            example = read_record(self.shard, self.position)
            return example["image"], int(example["label"])
        except (records.CorruptRecord, KeyError, RuntimeError, IndexError) as error:  # Riegeli's are RuntimeErrors
            raise source.UnreadableImage(self.where, f"{type(error).__name__}: {error}") from None


class ArrayRecordShards(source.Source):
    """The records of all shards of a folder, in order.

    Raises:
      FileNotFoundError: `dataset.json` or a shard is missing.
      ValueError: the size of a shard differs from `dataset.json`.
    """

    record = RecordedImage

    def __init__(self, folder: str):
        index = pathlib.Path(folder, INDEX)
        if not index.exists():
            raise FileNotFoundError(
                f"no {index}: data.source='array_record' reads a folder that was written completely by "
                "`python -m softvq_jax.tools.prepare_dataset`"
            )
        self._index = json.loads(index.read_text())
        self._shards = [os.path.join(folder, shard["file"]) for shard in self._index["shards"]]
        for path, shard in zip(self._shards, self._index["shards"], strict=True):
            _check_size(path, shard["bytes"])
        self._ends = list(itertools.accumulate(shard["records"] for shard in self._index["shards"]))
        self.class_names = tuple(self._index["class_names"])

    def __len__(self) -> int:
        return self._ends[-1]

    def __getitem__(self, i: int) -> source.Reference:
        if not 0 <= i < len(self):
            raise IndexError(f"item {i} of {len(self)}")
        shard = bisect.bisect_right(self._ends, i)
        return self.record(self._shards[shard], i - (self._ends[shard - 1] if shard else 0))

    def key(self, i: int) -> str:
        return str(i)

    @functools.cached_property
    def parts(self) -> dict[str, str]:
        return {os.path.basename(shard): source.digest_of_file(shard) for shard in self._shards}

    def fingerprint(self) -> str:
        return source.digest_of_parts(self.parts)


def read_record(shard: str, position: int) -> dict:
    """Returns the decoded example at a position of a shard."""
    (record,) = _reader(shard).read([position])
    return records.decode(record)


def _check_size(path, size):
    if not os.path.exists(path):
        raise FileNotFoundError(f"{path} is missing, but {INDEX} lists it: copy it again")
    if os.path.getsize(path) != size:
        raise ValueError(
            f"{path} has {os.path.getsize(path):,} bytes, {INDEX} says {size:,}: the shard was truncated or replaced; "
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
    # Samples are read in random order, so reading ahead is useless.
    return ArrayRecordReader(shard, "readahead_buffer_size:0")
