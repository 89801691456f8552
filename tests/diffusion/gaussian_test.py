"""Gaussian diffusion against textbook formulas in float64: through x_0, both posteriors, and distribution functions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from softvq_jax.diffusion import gaussian
from softvq_jax.diffusion.schedules import BETAS, make_schedule

rng = np.random.default_rng(0)


def _posterior_mean(s, x_0, x_t, i):
    """DDPM, equation 7."""
    signal, before, beta = s.signal[i], s.signal_before[i], s.betas[i]
    return (np.sqrt(before) * beta * x_0 + np.sqrt(1 - beta) * (1 - before) * x_t) / (1 - signal)


def _log_variance(s, v, i):
    fraction = (v + 1) / 2
    return fraction * np.log(s.betas[i]) + (1 - fraction) * np.log(s.posterior_variance[i])


def _bound(s, output, x, noise, i):
    """The variational bound's term in bits, per element, float64."""
    predicted, v = np.split(output, 2, axis=-1)
    x_t = np.sqrt(s.signal[i]) * x + np.sqrt(1 - s.signal[i]) * noise
    x_0 = (x_t - np.sqrt(1 - s.signal[i]) * predicted) / np.sqrt(s.signal[i])
    mean, log_variance = _posterior_mean(s, x_0, x_t, i), _log_variance(s, v, i)
    if i > 0:
        true_mean, true_log_variance = _posterior_mean(s, x, x_t, i), np.log(s.posterior_variance[i])
        ratio = np.exp(true_log_variance - log_variance)
        kl = log_variance - true_log_variance + ratio + (true_mean - mean) ** 2 * np.exp(-log_variance) - 1
        return 0.5 * kl / np.log(2)

    def cdf(q):
        return 0.5 * (1 + np.tanh(np.sqrt(2 / np.pi) * (q + 0.044715 * q**3)))

    plus, minus = (cdf((x - mean + half) * np.exp(-0.5 * log_variance)) for half in (1 / 255, -1 / 255))
    probability = np.where(x < -0.999, plus, np.where(x > 0.999, 1 - minus, plus - minus))
    return -np.log2(np.maximum(probability, 1e-12))


@pytest.mark.parametrize("name", BETAS)
@pytest.mark.parametrize("index", [0, 1, 37, 500, 999])
@pytest.mark.parametrize("skill", [1.0, 0.01])
def test_hybrid_loss(name, index, skill):
    """With `skill` 0.01 the prediction is nearly right, which is where float32 could cancel."""
    s = make_schedule(name)
    x, noise, error = rng.uniform(-1.2, 1.2, (3, 2, 40, 8))
    v = rng.uniform(-1.0, 1.0, x.shape)
    output = np.concatenate([noise + skill * error, v], axis=-1)
    ours = gaussian.hybrid_loss(s, *(jnp.asarray(a, jnp.float32) for a in (output, x, noise)), jnp.full(2, index))
    mse, bound = (skill * error) ** 2, _bound(s, output, x, noise, index)
    np.testing.assert_allclose(ours.mse, mse.mean((1, 2)), rtol=1e-4)
    np.testing.assert_allclose(ours.vb, bound.mean((1, 2)), rtol=1e-4)
    np.testing.assert_allclose(ours.total, (mse + bound).mean((1, 2)), rtol=1e-4)


def test_the_bound_trains_only_the_variance():
    s, x = make_schedule("linear"), jnp.ones((1, 2, 3))
    for index in (0, 400):
        vb = lambda output, index=index: gaussian.hybrid_loss(s, output, x, 0.1 * x, jnp.array([index])).vb.sum()  # noqa: E731
        mean_grad, variance_grad = jnp.split(jax.grad(vb)(jnp.full((1, 2, 6), 0.2)), 2, axis=-1)
        assert not mean_grad.any() and (variance_grad != 0).all()


@pytest.mark.parametrize("name", BETAS)
def test_ancestral_step(name):
    s = make_schedule(name, steps=25)
    index = np.array([1, 12, 24])
    x_t, noise, predicted, v = rng.standard_normal((4, 3, 5, 2))
    output = jnp.asarray(np.concatenate([predicted, v], axis=-1), jnp.float32)
    mean, std = np.empty_like(x_t), np.empty_like(x_t)
    for b, i in enumerate(index):
        x_0 = (x_t[b] - np.sqrt(1 - s.signal[i]) * predicted[b]) / np.sqrt(s.signal[i])
        mean[b], std[b] = _posterior_mean(s, x_0, x_t[b], i), np.exp(0.5 * _log_variance(s, v[b], i))
    single = [jnp.asarray(a, jnp.float32) for a in (x_t, noise)]
    step = lambda noise, *rest: gaussian.ancestral_step(s, output, single[0], jnp.asarray(index), noise, *rest)  # noqa: E731
    np.testing.assert_allclose(step(None), mean, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(step(single[1], 0.5), mean + 0.5 * std * noise, rtol=1e-4, atol=1e-4)


def test_add_noise_has_the_marginal_of_single_steps():
    """In `n` single steps, the signal is multiplied by all `sqrt(1 - beta)`, and the variances of the noise add up."""
    s = make_schedule("linear")
    signal, variance = 1.0, 0.0
    for beta in s.betas[:300]:
        signal, variance = signal * np.sqrt(1 - beta), variance * (1 - beta) + beta
    one, zero, index = jnp.ones((1, 1)), jnp.zeros((1, 1)), jnp.array([299])
    np.testing.assert_allclose(gaussian.add_noise(s, one, zero, index), [[signal]], rtol=1e-6)
    np.testing.assert_allclose(gaussian.add_noise(s, zero, one, index), [[np.sqrt(variance)]], rtol=1e-6)
