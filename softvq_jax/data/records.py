"""Encoding of one example as an ArrayRecord record: named arrays and byte strings, with a checksum.

The format is our own and not msgpack, so that data sets of all versions stay readable with one format.

A record is

    version     1 byte, now 1
    checksum    4 bytes, little-endian CRC-32 of all following bytes
    length      4 bytes, little-endian length of the header
    header      JSON: {name: [type, shape]}, in the order of the data; type is "bytes" or NumPy's, such as "<f4"
    data        the concatenated bytes of all fields, arrays in C order

The fields of an image are `image` (the encoded file, "bytes"), `label` (int32) and `name` ("bytes").
"""

import json
import math
import struct
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np

VERSION = 1
PREFIX = struct.Struct("<BII")
CHECKED_FROM = 5  # the checksum covers everything after the version and the checksum


class CorruptRecord(ValueError):
    """A record is damaged."""


def encode(example: Mapping[str, np.ndarray | np.generic | bytes]) -> bytes:
    """Returns the record of an example; raises TypeError for arrays other than booleans and numbers."""
    header, data = {}, []
    for name, value in example.items():
        if isinstance(value, bytes):
            header[name] = ["bytes", [len(value)]]
            data.append(value)
        else:
            array = np.asarray(value)
            if array.dtype.kind not in "biuf":
                raise TypeError(f"field {name!r} has type {array.dtype}: records hold bytes, booleans and numbers")
            header[name] = [array.dtype.str, array.shape]
            data.append(array.tobytes())
    encoded = json.dumps(header, separators=(",", ":")).encode()
    checked = b"".join([struct.pack("<I", len(encoded)), encoded, *data])
    return struct.pack("<BI", VERSION, zlib.crc32(checked)) + checked


def decode(record: bytes) -> dict[str, Any]:
    """Returns the example in a record, with read-only arrays; raises CorruptRecord if the record is damaged."""
    if len(record) < PREFIX.size or record[0] != VERSION:
        raise CorruptRecord(f"not a record of version {VERSION}: it starts with {bytes(record[:1])!r}")
    _, checksum, length = PREFIX.unpack_from(record)
    if zlib.crc32(memoryview(record)[CHECKED_FROM:]) != checksum:
        raise CorruptRecord("the checksum does not match the content")
    example, start = {}, PREFIX.size + length
    for name, (kind, shape) in json.loads(record[PREFIX.size : start]).items():
        dtype = np.dtype(np.uint8 if kind == "bytes" else kind)
        array = np.frombuffer(record, dtype, math.prod(shape), start).reshape(shape)
        example[name] = array.tobytes() if kind == "bytes" else array
        start += array.nbytes
    return example
