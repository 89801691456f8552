"""Reads records of ArrayRecord shards in a bucket: each record by one range request, or from a local copy if there is one.

The `array_record` library reads only local files. A shard is a Riegeli file:

- blocks of 64 KiB, each beginning with a header of 24 bytes;
- in the blocks, chunks: a header of 40 bytes (hash, size of the data, hash of the data, kind and number of records, decoded
  size), then the data;
- in the last block, the position of the chunk that lists all others.

Only chunks of uncompressed records are read here, as `tools.prepare_dataset` and `tools.encode_latents` write them. Shards
with other chunks are copied to the local disk, at the latest when a record in such a chunk is read. `records.decode` checks
the checksum of each record.
"""

import struct
import time
from collections.abc import Iterator, Sequence
from typing import Any

from softvq_jax.storage import mirror
from softvq_jax.storage.bucket_errors import translating
from softvq_jax.storage.buckets import BucketPath
from softvq_jax.storage.paths import bucket_path

BLOCK, BLOCK_HEADER = 1 << 16, 24
CHUNK_HEADER = struct.Struct("<QQQQQ")
SIMPLE, UNCOMPRESSED = ord("r"), 0
MAGIC = 0x71930E704FDAE05E  # in the last record of a shard
CHECK_SECONDS = 20.0  # between two checks for a local copy


class Compressed(ValueError):
    """The records of a shard cannot be read by ranges."""


class BucketShard:
    """One shard in a bucket, with the method `read` of the library's reader.

    Raises:
      FileNotFoundError: the object does not exist.
      RuntimeError: it is not an ArrayRecord file, or is damaged.
    """

    def __init__(self, path: str):
        self._path = bucket_path(path)
        self._local: Any = None  # the library's reader of the local copy
        self._checked_at = 0.0  # when the local copy was last looked for; 0 for never
        status = self._path.stat()
        self._copy = mirror.copy_of(self._path, status)
        if self._open_copy():
            return
        try:
            self._offsets = read_offsets(self._path, status.st_size)
        except Compressed:
            self._make_copy()

    def read(self, positions: Sequence[int]) -> list[bytes]:
        """Returns the records at positions.

        Raises:
          IndexError: a position is not in the shard.
          RuntimeError: the shard is damaged.
        """
        if self._open_copy():
            return self._local.read(positions)
        try:
            return [self._read_one(position) for position in positions]
        except Compressed:
            self._make_copy()
            return self._local.read(positions)

    def _read_one(self, position):
        if not 0 <= position < len(self._offsets) - 1:
            raise IndexError(f"record {position} of {len(self._offsets) - 1}")
        start, stop = self._offsets[position : position + 2]
        (record,) = chunk_records(self._path.read_range(start, stop), start, str(self._path))
        return record

    def _make_copy(self) -> None:
        mirror.local_file(self._path, limited=True)
        self._checked_at = 0.0
        if not self._open_copy():
            raise RuntimeError(f"{self._path} was replaced while it was read: start the same command again")

    def _open_copy(self) -> bool:
        """Opens the local copy if it exists; returns whether it is open."""
        now = time.monotonic()
        if self._local is None and (not self._checked_at or now - self._checked_at > CHECK_SECONDS):
            self._checked_at = now
            if self._copy.exists():
                from array_record.python.array_record_module import ArrayRecordReader

                with translating(str(self._path), "read"):
                    self._local = ArrayRecordReader(str(self._copy), "readahead_buffer_size:0")
        return self._local is not None


def read_offsets(path: BucketPath, size: int) -> list[int]:
    """Returns the position at which each record of a shard begins, and the end of the last one, by three requests.

    Raises:
      Compressed: the records are compressed, or several are in one chunk.
      RuntimeError: it is not an ArrayRecord file, or is damaged.
    """
    if size < BLOCK or size % BLOCK:
        raise RuntimeError(f"{path} has {size:,} bytes, which is not the size of an ArrayRecord file")
    last = chunk_records(path.read_range(size - BLOCK, size), size - BLOCK, str(path))
    fields = dict(_fields(last[0]))
    if fields.get(2) != MAGIC or not 0 < fields.get(1, 0) < size:
        raise RuntimeError(f"{path} is not an ArrayRecord file, or its end is damaged")
    start = fields[1]
    _, *footers = chunk_records(path.read_range(start, size - BLOCK), start, str(path))
    entries = [dict(_fields(footer)) for footer in footers]
    if any(entry.get(3) != 1 for entry in entries):
        raise Compressed(f"{path} has several records in a chunk")
    offsets = [entry.get(1, 0) for entry in entries] + [start]
    if offsets != sorted(offsets):
        raise RuntimeError(f"{path}: its list of records is damaged")
    if len(offsets) > 1:
        chunk_records(path.read_range(offsets[0], offsets[1]), offsets[0], str(path))  # raises Compressed
    return offsets


def chunk_records(content: bytes, start: int, source: str) -> list[bytes]:
    """Returns the records of a chunk.

    Args:
      content: bytes of the file, from the beginning of the chunk on.
      start: position of the chunk in the file.
      source: the file's path, for messages.

    Raises:
      Compressed: the records are compressed.
      RuntimeError: the chunk is damaged.
    """
    data = _without_block_headers(content, start)
    if len(data) < CHUNK_HEADER.size:
        raise RuntimeError(f"{source} is cut short at byte {start}")
    _, size, _, kind, decoded = CHUNK_HEADER.unpack_from(data)
    kind, count = kind & 0xFF, kind >> 8
    data = memoryview(data)[CHUNK_HEADER.size : CHUNK_HEADER.size + size]
    if kind != SIMPLE or not len(data) or data[0] != UNCOMPRESSED:
        raise Compressed(f"{source} holds compressed records")
    length, position = _varint(data, 1)
    sizes, end = [], position + length
    while position < end:
        number, position = _varint(data, position)
        sizes.append(number)
    if len(sizes) != count or sum(sizes) != decoded or end + decoded != len(data):
        raise RuntimeError(f"{source} is damaged at byte {start}: the sizes of its records do not add up")
    records = []
    for number in sizes:
        records.append(bytes(data[end : end + number]))
        end += number
    return records


def _without_block_headers(content: bytes, start: int) -> bytes:
    parts, position = [], 0
    while position < len(content):
        within = (start + position) % BLOCK
        if within < BLOCK_HEADER:
            position += BLOCK_HEADER - within
            within = BLOCK_HEADER
        parts.append(content[position : position + BLOCK - within])
        position += BLOCK - within
    return b"".join(parts)


def _varint(data: Any, position: int) -> tuple[int, int]:
    """Reads a base-128 number; returns it and the position after it."""
    value = shift = 0
    while True:
        if position >= len(data) or shift > 63:
            raise RuntimeError("a number in the file is damaged")
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
        shift += 7


def _fields(message: bytes) -> Iterator[tuple[int, int]]:
    """Yields number and value of the integer fields of a protocol buffer."""
    position = 0
    while position < len(message):
        tag, position = _varint(message, position)
        if tag & 7 == 0:
            value, position = _varint(message, position)
            yield tag >> 3, value
        elif tag & 7 == 2:
            length, position = _varint(message, position)
            position += length
        else:
            raise RuntimeError("the list of records in the file is damaged")
