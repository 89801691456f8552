import numpy as np
import pytest

from softvq_jax.evaluate.row_cache import RowCache

METADATA = {"images": "a folder", "network": "0123"}


def _rows(rng, count):
    return {
        "feature": rng.normal(size=(count, 5)).astype(np.float32),
        "psnr": rng.normal(size=count),
        "codes": rng.integers(0, 9, (count, 2, 3)).astype(np.int32),
    }


def test_rows_come_back(tmp_path):
    rng = np.random.default_rng(0)
    parts = [_rows(rng, count) for count in (3, 1, 4)]
    cache = RowCache(tmp_path, METADATA)
    for part in parts:
        cache.append(part)
    again = RowCache(tmp_path, METADATA)
    assert len(cache) == len(again) == 8 and "psnr" in again and "lpips" not in again
    for name in parts[0]:
        expected = np.concatenate([part[name] for part in parts])
        column = again[name]
        assert column.shape == expected.shape and column.dtype == expected.dtype
        np.testing.assert_array_equal(column[2:6], expected[2:6])
        np.testing.assert_array_equal(column[:], expected)
        np.testing.assert_array_equal(column[np.array([7, 0, 0])], expected[[7, 0, 0]])


def test_incomplete_rows_are_removed(tmp_path):
    rng = np.random.default_rng(0)
    rows = _rows(rng, 6)
    RowCache(tmp_path, METADATA).append({name: value[:4] for name, value in rows.items()})
    with open(tmp_path / "feature.rows", "ab") as file:
        file.write(rows["feature"][4:].tobytes())  # the other columns were not reached
    with open(tmp_path / "psnr.rows", "ab") as file:
        file.write(b"abc")
    again = RowCache(tmp_path, METADATA)
    assert len(again) == 4
    again.append({name: value[4:] for name, value in rows.items()})
    for name, value in rows.items():
        np.testing.assert_array_equal(RowCache(tmp_path, METADATA)[name], value)


def test_rows_with_other_metadata_are_refused(tmp_path):
    RowCache(tmp_path, METADATA).append(_rows(np.random.default_rng(0), 2))
    with pytest.raises(ValueError, match="its network is '0123', not '4567'"):
        RowCache(tmp_path, METADATA | {"network": "4567"})


def test_columns_need_one_row_for_each_image(tmp_path):
    with pytest.raises(ValueError, match=r"columns of \[2, 3\] rows"):
        RowCache(tmp_path, METADATA).append({"a": np.zeros(2), "b": np.zeros(3)})
