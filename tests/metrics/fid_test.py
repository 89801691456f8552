import numpy as np
import pytest
from scipy import linalg

from softvq_jax.metrics.feature_statistics import Moments
from softvq_jax.metrics.fid import frechet_distance


def _features(rng, count, dimension, scale=1.0, shift=0.0):
    mixed = rng.normal(size=(count, dimension)) @ rng.normal(size=(dimension, dimension)) / dimension**0.5
    return (np.abs(mixed) * scale + shift).astype(np.float32)


def _distance(a, b):
    a, b = Moments.from_rows(a), Moments.from_rows(b)
    return frechet_distance(a.mean, a.covariance(), b.mean, b.covariance())


def _reference(a, b):
    """The definition, with SciPy's matrix square root."""
    mu1, mu2 = a.mean(axis=0, dtype=np.float64), b.mean(axis=0, dtype=np.float64)
    sigma1, sigma2 = (np.cov(x.astype(np.float64), rowvar=False) for x in (a, b))
    root = linalg.sqrtm(sigma1 @ sigma2)
    return ((mu1 - mu2) ** 2).sum() + np.trace(sigma1) + np.trace(sigma2) - 2 * np.trace(root).real


def test_known_normals():
    mu1, mu2, s1, s2 = np.array([1.0, 2.0]), np.array([4.0, 6.0]), np.array([1.0, 9.0]), np.array([4.0, 16.0])
    expected = 25 + ((np.sqrt(s1) - np.sqrt(s2)) ** 2).sum()
    np.testing.assert_allclose(frechet_distance(mu1, np.diag(s1), mu2, np.diag(s2)), expected, rtol=1e-14)


@pytest.mark.parametrize(("real", "fake"), [(400, 300), (60, 400), (40, 30), (2, 2)])
def test_agrees_with_scipy_also_below_full_rank(real, fake):
    rng = np.random.default_rng(0)
    a, b = _features(rng, real, 64), _features(rng, fake, 64, 1.3, 0.1)
    np.testing.assert_allclose(_distance(a, b), _reference(a, b), rtol=1e-3)


def test_agrees_with_scipy_on_spectra_like_inceptions():
    rng = np.random.default_rng(0)
    scales = np.logspace(1, -6, 96).astype(np.float32)
    a, b = rng.normal(size=(50, 96)) * scales, rng.normal(size=(200, 96)) * scales[::-1]
    np.testing.assert_allclose(_distance(a, b), _reference(a, b), rtol=1e-3)


@pytest.mark.parametrize("count", [5, 100, 2000])
def test_the_distance_of_a_set_to_itself_is_zero(count):
    features = _features(np.random.default_rng(0), count, 256, 3)
    assert abs(_distance(features, features)) < 1e-8


def test_order_does_not_matter():
    rng = np.random.default_rng(0)
    a, b = _features(rng, 500, 128), _features(rng, 90, 128)
    np.testing.assert_allclose(_distance(rng.permutation(a), rng.permutation(b)), _distance(a, b), rtol=1e-9)


def test_bad_statistics_are_refused():
    mu, sigma = np.zeros(3), np.eye(3)
    with pytest.raises(ValueError, match="of the same features"):
        frechet_distance(mu, sigma, np.zeros(4), np.eye(4))
    with pytest.raises(ValueError, match="sigma2 holds 1 values that are not finite"):
        frechet_distance(mu, sigma, mu, np.where(np.eye(3) * [1, 0, 0], np.nan, 0.0))
    with pytest.raises(ValueError, match="not a covariance"):
        frechet_distance(mu, sigma, mu, np.diag([1.0, 1.0, -0.1]))
