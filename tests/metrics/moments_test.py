import numpy as np
import pytest

from softvq_jax.metrics.moments import Moments, merged
from softvq_jax.metrics.sample_size import TooFewImages


@pytest.fixture
def features():
    rng = np.random.default_rng(0)
    # A mean far from 0: what a sum of squares would lose.
    return (1e3 + rng.normal(size=(5000, 12)) @ rng.normal(size=(12, 12))).astype(np.float32)


def test_moments_are_numpys(features):
    moments = Moments.of(features)
    np.testing.assert_allclose(moments.mean, features.astype(np.float64).mean(axis=0), rtol=1e-13)
    np.testing.assert_allclose(moments.covariance(), np.cov(features.astype(np.float64), rowvar=False), rtol=1e-9)
    np.testing.assert_allclose(
        moments.covariance(ddof=0), np.cov(features.astype(np.float64), rowvar=False, ddof=0), rtol=1e-9
    )


def test_batches_order_and_devices_do_not_matter(features):
    whole = Moments.of(features)
    order = np.random.default_rng(1).permutation(len(features))
    parts = [Moments(12) for _ in range(3)]
    for i, batch in enumerate(np.array_split(features[order], 41)):
        parts[i % 2].update(batch)  # the third sees nothing
    together = merged(parts)
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
        Moments.of(features[:1]).covariance()
