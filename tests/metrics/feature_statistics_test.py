import numpy as np
import pytest

from softvq_jax.metrics.feature_statistics import (
    FeatureStatistics,
    Moments,
    has_images,
    has_statistics,
    read_statistics,
    write_statistics,
)
from softvq_jax.metrics.metric import TooFewImages


def test_written_statistics_are_read_by_us_and_by_other_code(tmp_path):
    rng = np.random.default_rng(0)
    pool3, spatial = rng.normal(size=(30, 5)), rng.normal(size=(30, 7))
    path = tmp_path / "stats.npz"
    write_statistics(path, FeatureStatistics.from_moments(Moments.from_rows(pool3), Moments.from_rows(spatial)))
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
        ({"mu": np.zeros(3), "sigma": np.eye(4)}, r"mu \(3,\) and sigma \(4, 4\) do not match"),
        ({"other": np.zeros(3)}, "holds no statistics"),
    ],
)
def test_incomplete_files_are_refused(tmp_path, arrays, says):
    np.savez(tmp_path / "bad.npz", **arrays)
    with pytest.raises(ValueError, match=says):
        read_statistics(tmp_path / "bad.npz")


@pytest.fixture
def features():
    rng = np.random.default_rng(0)
    # A mean far from 0, where a sum of squares would lose precision.
    return (1e3 + rng.normal(size=(5000, 12)) @ rng.normal(size=(12, 12))).astype(np.float32)


def test_moments_equal_numpys(features):
    moments = Moments.from_rows(features)
    np.testing.assert_allclose(moments.mean, features.astype(np.float64).mean(axis=0), rtol=1e-13)
    np.testing.assert_allclose(moments.covariance(), np.cov(features.astype(np.float64), rowvar=False), rtol=1e-9)
    np.testing.assert_allclose(
        moments.covariance(ddof=0), np.cov(features.astype(np.float64), rowvar=False, ddof=0), rtol=1e-9
    )


def test_batches_order_and_devices_do_not_matter(features):
    whole = Moments.from_rows(features)
    order = np.random.default_rng(1).permutation(len(features))
    parts = [Moments(12) for _ in range(3)]
    for i, batch in enumerate(np.array_split(features[order], 41)):
        parts[i % 2].update(batch)  # the third one gets no rows
    together = Moments(12)
    for part in parts:
        together.merge(part)
    assert together.count == whole.count
    np.testing.assert_allclose(together.mean, whole.mean, rtol=1e-13)
    np.testing.assert_allclose(together.covariance(), whole.covariance(), rtol=1e-9)


def test_features_that_are_not_finite_are_named(features):
    moments = Moments(12)
    moments.update(features[:100])
    features[103, 4] = np.nan
    with pytest.raises(ValueError, match="features of image 103 are not finite"):
        moments.update(features[100:200])


def test_one_image_has_no_covariance(features):
    with pytest.raises(TooFewImages, match="at least 2 images, and there are 1"):
        Moments.from_rows(features[:1]).covariance()
