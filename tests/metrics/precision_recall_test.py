import numpy as np
import pytest
from scipy.spatial.distance import cdist

from softvq_jax.metrics import precision_recall as pr
from softvq_jax.metrics.metric import TooFewImages


def _inside(points, manifold, neighbors):
    """Share of points inside the manifold, by the definition and all distances at once."""
    own = np.sort(cdist(manifold, manifold), axis=1)[:, neighbors]  # column 0 is the point itself
    return (cdist(points, manifold) <= own).any(axis=1).mean()


@pytest.mark.parametrize("block", [7, 64, 4096])
@pytest.mark.parametrize("neighbors", [1, 3, 5])
def test_the_definition_in_blocks_of_any_size(monkeypatch, block, neighbors):
    monkeypatch.setattr(pr, "BLOCK", block)
    rng = np.random.default_rng(0)
    real, fake = rng.normal(size=(150, 6)).astype(np.float32), 1.2 * rng.normal(size=(110, 6)).astype(np.float32) + 0.5
    expected = _inside(fake, real, neighbors), _inside(real, fake, neighbors)
    np.testing.assert_allclose(pr.precision_recall(real, fake, neighbors), expected)
    assert min(expected) > 0.05 and max(expected) < 1


def test_far_and_equal_sets():
    real = np.random.default_rng(0).normal(size=(50, 4))
    assert pr.precision_recall(real, real + 100) == (0, 0)
    assert pr.precision_recall(real, real) == (1, 1)
    assert pr.f_score(0, 0) == 0
    np.testing.assert_allclose(pr.f_score(0.5, 1), 2 / 3)


def test_near_features_far_from_the_origin_keep_their_distances():
    rng = np.random.default_rng(0)
    x = (1000 + rng.normal(size=(20, 8)) * 1e-2).astype(np.float32)
    exact = cdist(x.astype(np.float64), x.astype(np.float64), "sqeuclidean")
    np.testing.assert_allclose(pr.squared_distances(x.astype(np.float64), x.astype(np.float64)), exact, atol=1e-7)


def test_bad_features_are_refused():
    real = np.random.default_rng(0).normal(size=(10, 4))
    with pytest.raises(TooFewImages, match="3 neighbors needs at least 4 images, and there are 3"):
        pr.precision_recall(real, real[:3])
    with pytest.raises(ValueError, match="features of 4 and 3 numbers"):
        pr.precision_recall(real, real[:, :3])
    with pytest.raises(ValueError, match="not all finite"):
        pr.precision_recall(real, np.where(np.arange(4) == 2, np.nan, real))
