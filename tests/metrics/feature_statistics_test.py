import numpy as np
import pytest

from softvq_jax.metrics.feature_statistics import (
    Statistics,
    has_images,
    has_statistics,
    read_statistics,
    write_statistics,
)
from softvq_jax.metrics.moments import Moments


def test_what_is_written_others_find_and_we_read(tmp_path):
    rng = np.random.default_rng(0)
    pool3, spatial = rng.normal(size=(30, 5)), rng.normal(size=(30, 7))
    path = tmp_path / "stats.npz"
    write_statistics(path, Statistics.of(Moments.of(pool3), Moments.of(spatial)))
    with np.load(path) as file:
        np.testing.assert_allclose(file["sigma_s"], np.cov(spatial, rowvar=False))
        np.testing.assert_allclose(file["mu"], pool3.mean(axis=0))
    again = read_statistics(path)
    assert again.count == 30 and again.sigma.dtype == np.float64
    assert has_statistics(path) and not has_images(path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["stats.npz"]


def test_files_of_other_programs(tmp_path):
    np.savez(tmp_path / "pool3.npz", mu=np.zeros(3, np.float32), sigma=np.eye(3, dtype=np.float32))
    found = read_statistics(tmp_path / "pool3.npz")
    assert found.mu_s is None and found.count is None and found.sigma.dtype == np.float64
    # ADM's reference batches: images and statistics in one file.
    np.savez(tmp_path / "both.npz", arr_0=np.zeros((2, 4, 4, 3), np.uint8), mu=np.zeros(3), sigma=np.eye(3))
    assert has_statistics(tmp_path / "both.npz") and has_images(tmp_path / "both.npz")
    np.savez(tmp_path / "images.npz", np.zeros((2, 4, 4, 3), np.uint8))
    assert not has_statistics(tmp_path / "images.npz") and has_images(tmp_path / "images.npz")
    assert not has_statistics(tmp_path) and has_images(tmp_path)


@pytest.mark.parametrize(
    ("arrays", "says"),
    [
        ({"mu": np.zeros(3)}, "holds mu; expected mu and sigma"),
        ({"mu": np.zeros(3), "sigma": np.eye(3), "mu_s": np.zeros(2)}, "holds mu, sigma, mu_s"),
        ({"mu": np.zeros(3), "sigma": np.eye(4)}, r"mu \(3,\) and sigma \(4, 4\) do not fit"),
        ({"other": np.zeros(3)}, "holds no statistics"),
    ],
)
def test_incomplete_files_are_refused(tmp_path, arrays, says):
    np.savez(tmp_path / "bad.npz", **arrays)
    with pytest.raises(ValueError, match=says):
        read_statistics(tmp_path / "bad.npz")
