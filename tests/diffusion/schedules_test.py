"""Against the formulas of DDPM and improved DDPM written out anew."""

import numpy as np
import pytest

from softvq_jax.diffusion.schedules import BETAS, cosine_betas, make_schedule, space_timesteps


def test_six_steps_of_a_thousand():
    np.testing.assert_array_equal(space_timesteps(1000, 6), [0, 200, 400, 599, 799, 999])


@pytest.mark.parametrize("steps", [2, 3, 7, 100, 250, 999, 1000])
def test_spaced_steps_span_all(steps):
    chosen = space_timesteps(1000, steps)
    assert len(chosen) == steps and chosen[0] == 0 and chosen[-1] == 999
    assert set(np.diff(chosen)) <= {999 // (steps - 1), 999 // (steps - 1) + 1}


def test_cosine_betas_follow_the_squared_cosine():
    signal = np.cumprod(1 - cosine_betas(1000))
    t = np.arange(1, 1000) / 1000
    f = np.cos((t + 0.008) / 1.008 * np.pi / 2) ** 2 / np.cos(0.008 / 1.008 * np.pi / 2) ** 2
    np.testing.assert_allclose(signal[:-1], f, rtol=1e-10)


@pytest.mark.parametrize("name", BETAS)
def test_respacing_keeps_the_signal(name):
    whole, some = make_schedule(name), make_schedule(name, steps=13)
    np.testing.assert_allclose(some.signal, whole.signal[some.timesteps], rtol=1e-9)
    np.testing.assert_allclose(whole.betas, BETAS[name](1000), rtol=1e-9)


@pytest.mark.parametrize("name", BETAS)
def test_posterior_from_bayes_rule(name):
    """The posterior of `x_{t-1}` is the product of two Gaussians: `x_t` given it, and it given `x_0`."""
    s = make_schedule(name, steps=50)
    prior, likelihood = 1 / (1 - s.signal_before[1:]), (1 - s.betas[1:]) / s.betas[1:]
    np.testing.assert_allclose(s.posterior_variance[1:], 1 / (prior + likelihood), rtol=1e-10)
    # Its mean at x_0 = (x_t - sqrt(1 - signal) e) / sqrt(signal), for x_t = 0.3 and e = -1.2.
    x_t, noise = 0.3, -1.2
    x_0 = (x_t - np.sqrt(1 - s.signal[1:]) * noise) / np.sqrt(s.signal[1:])
    precision_mean = prior * np.sqrt(s.signal_before[1:]) * x_0 + likelihood * x_t / np.sqrt(1 - s.betas[1:])
    ours = s.mean_on_x[1:] * x_t - s.mean_on_noise[1:] * noise
    np.testing.assert_allclose(ours, precision_mean / (prior + likelihood), rtol=1e-7, atol=1e-9)


def test_errors():
    with pytest.raises(ValueError, match="'sigmoid'; expected one of linear, cosine"):
        make_schedule("sigmoid")
    with pytest.raises(ValueError, match="1001 steps out of 1000: expected 1 to 1000"):
        make_schedule("linear", steps=1001)
