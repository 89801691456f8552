"""Against closed forms: derivatives by differences, and data that are Gaussian."""

import jax
import numpy as np
import pytest
from scipy import stats

from softvq_jax.diffusion.paths import PATHS, draw_times

TIMES = np.linspace(0.05, 0.95, 7)


@pytest.mark.parametrize("name", PATHS)
def test_rates_are_derivatives(name):
    path, h = PATHS[name], 1e-6
    for value, rate in ((path.alpha, path.alpha_rate), (path.sigma, path.sigma_rate)):
        np.testing.assert_allclose(rate(TIMES), (value(TIMES + h) - value(TIMES - h)) / (2 * h), atol=1e-8)


@pytest.mark.parametrize("name", PATHS)
def test_ends_are_data_and_noise(name):
    path = PATHS[name]
    ends = np.array([0.0, 1.0])
    np.testing.assert_allclose(path.alpha(ends), [1, 0], atol=1e-15)
    np.testing.assert_allclose(path.sigma(ends), [0, 1], atol=1e-15)


@pytest.mark.parametrize("name", PATHS)
def test_score_of_gaussian_data(name):
    """For data N(m, s^2), `x_t` is Gaussian, and so the best velocity and the score are known."""
    path, mean, variance, x = PATHS[name], 0.7, 0.3, 1.9
    alpha, sigma = path.alpha(TIMES), path.sigma(TIMES)
    variance_t = alpha**2 * variance + sigma**2
    from_mean = x - alpha * mean
    expected_x = mean + alpha * variance / variance_t * from_mean
    expected_noise = sigma / variance_t * from_mean
    velocity = path.alpha_rate(TIMES) * expected_x + path.sigma_rate(TIMES) * expected_noise
    on_velocity, on_x = path.score_coefficients(TIMES)
    np.testing.assert_allclose(on_velocity * velocity + on_x * x, -from_mean / variance_t, rtol=1e-12)


@pytest.mark.parametrize("name", PATHS)
def test_training_pairs_are_on_the_path(name):
    path = PATHS[name]
    x, noise = jax.random.normal(jax.random.key(0), (2, 4, 3, 2))
    t = jax.random.uniform(jax.random.key(1), (4, 1, 1))
    # The velocity is the derivative of the interpolation along t.
    _, velocity = jax.jvp(lambda t: path.interpolate(x, noise, t), (t,), (jax.numpy.ones_like(t),))
    np.testing.assert_allclose(path.velocity(x, noise, t), velocity, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", PATHS)
def test_lognormal_times(name):
    """`log(sigma / alpha)` of the times is standard normal."""
    path = PATHS[name]
    t = np.float64(draw_times(path, "lognormal", 4000, jax.random.key(2)))
    assert stats.kstest(np.log(path.sigma(t) / path.alpha(t)), "norm").pvalue > 0.01


def test_uniform_times():
    t = np.asarray(draw_times(PATHS["linear"], "uniform", 4000, jax.random.key(3)))
    assert stats.kstest(t, "uniform").pvalue > 0.01


def test_unknown_distribution():
    with pytest.raises(ValueError, match="'logit'; expected one of uniform, lognormal"):
        draw_times(PATHS["linear"], "logit", 4, jax.random.key(0))
