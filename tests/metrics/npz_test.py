"""Damaged `.npz` files of statistics and images: named, never another error, and never other pixels."""

import collections
import random

import numpy as np
import pytest

from softvq_jax.evaluate.image_sets import NpzImages
from softvq_jax.metrics.feature_statistics import FeatureStatistics, has_statistics, read_statistics, write_statistics


def damaged(content: bytes, rng: random.Random) -> bytes:
    """Cut, with flipped bits anywhere or in the directory at the end, or with a range of other bytes."""
    changed, kind = bytearray(content), rng.randrange(4)
    if kind == 0:
        del changed[rng.randrange(len(changed)) :]
    elif kind == 1:
        changed[-rng.randrange(1, 300)] ^= 1 << rng.randrange(8)
    elif kind == 2:
        for _ in range(3):
            changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    else:
        start = rng.randrange(len(changed) - 40)
        changed[start : start + 40] = rng.randbytes(40)
    return bytes(changed)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_damaged_images(save, tmp_path):
    images, path, found = np.random.default_rng(0).integers(0, 256, (6, 4, 4, 3), np.uint8), tmp_path / "a.npz", set()
    save(path, images)
    content, rng = path.read_bytes(), random.Random(0)
    for _ in range(200):
        path.write_bytes(damaged(content, rng))
        try:
            opened = NpzImages(str(path))
            read = np.concatenate([opened.read(start, start + 2) for start in range(0, len(opened), 2)])
        except ValueError as error:
            assert str(path) in str(error) and "\n" not in str(error)
            found.add("named")
        else:
            np.testing.assert_array_equal(read, images)  # the damage is where nothing is read
            found.add("read")
    assert found == {"named", "read"}


def test_a_second_reading_is_checked_as_well(tmp_path):
    images, path = np.arange(6 * 48, dtype=np.uint8).reshape(6, 4, 4, 3), tmp_path / "a.npz"
    np.savez(path, images)
    opened = NpzImages(str(path))
    for _ in range(2):
        assert opened.read(0, 3).shape == opened.read(3, 6).shape
        np.testing.assert_array_equal(opened.read(4, 5), images[4:5])
    with path.open("r+b") as file:
        file.seek(path.read_bytes().index(images[5].tobytes()))
        file.write(b"\xff")
    opened = NpzImages(str(path))
    opened.read(0, 3)
    with pytest.raises(ValueError, match=rf"{path} is damaged: its checksum differs"):
        opened.read(3, 6)


def test_damaged_statistics(tmp_path):
    path, counts = tmp_path / "a.npz", collections.Counter()
    statistics = FeatureStatistics(np.arange(6.0), np.eye(6), np.zeros(3), np.eye(3), 9)
    write_statistics(path, statistics)
    content, rng = path.read_bytes(), random.Random(0)
    for _ in range(300):
        path.write_bytes(damaged(content, rng))
        try:
            read = read_statistics(path) if has_statistics(path) else None
        except ValueError as error:
            assert str(path) in str(error) and "\n" not in str(error)
            counts["named"] += 1
        else:
            for name in vars(read) if read else ():
                if getattr(read, name) is not None:  # a directory at the end that names fewer arrays
                    np.testing.assert_array_equal(getattr(read, name), getattr(statistics, name))
            counts["read"] += 1
    assert min(counts.values()) > 10


@pytest.mark.parametrize(
    ("arrays", "says"),
    [
        ({"mu": np.array([None])}, "pickle"),
        ({"mu": np.array(["a"])}, "mu is of type <U1; expected real numbers"),
        ({"mu": np.zeros(2, complex)}, "mu is of type complex128"),
        ({"count": np.zeros(2, int)}, r"count is \[0 0\]; expected the number of images"),
        ({"count": -1}, "count is -1"),
        ({"count": np.nan}, "count is of type float64"),
        ({"count": "5"}, "count is of type <U1"),
        ({"mu": 1.0, "sigma": 1.0}, "do not match"),
        ({"sigma": -np.eye(2)}, "sigma has negative variances"),
    ],
)
def test_other_statistics_are_named(arrays, says, tmp_path):
    path = tmp_path / "a.npz"
    np.savez(path, **({"mu": np.zeros(2), "sigma": np.eye(2)} | arrays))
    with pytest.raises(ValueError, match=says) as caught:
        read_statistics(path)
    assert str(path) in str(caught.value)
