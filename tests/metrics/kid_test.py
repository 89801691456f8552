import numpy as np
import pytest

from softvq_jax.metrics.kid import kernel_distance, squared_mmd
from softvq_jax.metrics.metric import TooFewImages


def test_the_definition():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(5, 3)), rng.normal(size=(4, 3)) + 1

    def kernel(a, b):
        return (a @ b / 3 + 1) ** 3

    within_x = np.mean([kernel(x[i], x[j]) for i in range(5) for j in range(5) if i != j])
    within_y = np.mean([kernel(y[i], y[j]) for i in range(4) for j in range(4) if i != j])
    between = np.mean([kernel(a, b) for a in x for b in y])
    np.testing.assert_allclose(squared_mmd(x, y), within_x + within_y - 2 * between, rtol=1e-12)


def test_subsets_of_full_size_give_the_full_distance():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(40, 6)), rng.normal(size=(40, 6)) * 1.5
    mean, std = kernel_distance(x, y, subsets=3, subset_size=40)
    np.testing.assert_allclose([mean, std], [squared_mmd(x, y), 0], atol=1e-12)


def test_the_draws_equal_torch_fidelitys():
    rng = np.random.default_rng(0)
    real, fake = rng.normal(size=(50, 6)), rng.normal(size=(37, 6)) + 0.5
    # The package's loop: input 1 are generated images, input 2 real ones, and one random generator draws from both in turn.
    draws, estimates = np.random.RandomState(2020), []
    for _ in range(4):
        one, two = (rows[draws.choice(len(rows), 20, replace=False)] for rows in (fake, real))
        k11, k22, k12 = ((np.matmul(a, b.T) * (1 / 6) + 1) ** 3 for a, b in ((one, one), (two, two), (one, two)))
        within = sum((k.sum(axis=1) - np.diagonal(k)).sum() for k in (k11, k22)) / (20 * 19)
        estimates.append(within - 2 * k12.sum(axis=0).sum() / 20**2)
    expected = np.mean(estimates), np.std(estimates)
    np.testing.assert_allclose(kernel_distance(real, fake, subsets=4, subset_size=20), expected, rtol=1e-9)
    assert abs(kernel_distance(fake, real, subsets=4, subset_size=20)[0] - expected[0]) > 1e-3  # the order shows


def test_equal_distributions_are_near_zero_and_others_are_not():
    rng = np.random.default_rng(0)
    x, same, other = (rng.normal(size=(600, 8)) + shift for shift in (0, 0, 0.7))
    near, far = kernel_distance(x, same, subset_size=200)[0], kernel_distance(x, other, subset_size=200)[0]
    assert abs(near) < 0.05 < 0.5 < far


def test_bad_features_are_refused():
    x = np.zeros((10, 4))
    with pytest.raises(TooFewImages, match="subsets of 1000 needs at least 1000 images, and there are 10"):
        kernel_distance(x, x)
    with pytest.raises(ValueError, match="not all finite"):
        kernel_distance(x, np.full((10, 4), np.inf), subset_size=5, subsets=2)
