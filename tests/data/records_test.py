import json
import struct
import zlib

import numpy as np
import pytest

from softvq_jax.data import records

EXAMPLE = {
    "image": b"\xff\xd8 not really a JPEG",
    "label": np.int32(7),
    "latent": np.linspace(-1, 1, 12, dtype=np.float32).reshape(4, 3),
    "half": np.arange(3, dtype=np.float16),
    "mask": np.array([True, False]),
    "empty": b"",
    "none": np.zeros((0, 5), np.int64),
}


def test_round_trip():
    decoded = records.decode(records.encode(EXAMPLE))
    assert list(decoded) == list(EXAMPLE)
    for name, value in EXAMPLE.items():
        if isinstance(value, bytes):
            assert decoded[name] == value
        else:
            assert decoded[name].dtype == value.dtype
            np.testing.assert_array_equal(decoded[name], value)


def test_layout_is_the_documented_one():
    """The format is readable with the standard library only."""
    record = records.encode({"name": b"ab", "x": np.array([1.5, -2], np.float32)})
    version, checksum, length = struct.unpack_from("<BII", record)
    assert version == 1 and checksum == zlib.crc32(record[5:])
    assert json.loads(record[9 : 9 + length]) == {"name": ["bytes", [2]], "x": ["<f4", [2]]}
    assert record[9 + length :] == b"ab" + struct.pack("<2f", 1.5, -2)


@pytest.mark.parametrize("position", [0, 3, 7, 20, -1])
def test_a_flipped_bit_is_detected(position):
    record = bytearray(records.encode(EXAMPLE))
    record[position] ^= 4
    with pytest.raises(records.CorruptRecord):
        records.decode(bytes(record))


@pytest.mark.parametrize("length", [0, 5, 40])
def test_a_truncated_record_is_detected(length):
    with pytest.raises(records.CorruptRecord):
        records.decode(records.encode(EXAMPLE)[:length])


def test_other_types_are_refused():
    with pytest.raises(TypeError, match="'name' has type <U2: records hold bytes, booleans and numbers"):
        records.encode({"name": np.array("ab")})
