"""Losses of predictions for which the loss is known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from softvq_jax.diffusion import objectives
from softvq_jax.diffusion.guidance import drop_labels, guided
from softvq_jax.diffusion.paths import PATHS
from softvq_jax.diffusion.schedules import make_schedule


@pytest.mark.parametrize("name", PATHS)
def test_sit_loss_of_the_true_velocity_is_zero(name):
    """For constant data, the noise and so the velocity can be computed from `x_t`."""
    path, x = PATHS[name], jnp.full((64, 3, 2), 0.5)

    def velocity(x_t, t):
        t = t[:, None, None]
        noise = (x_t - path.alpha(t) * x) / path.sigma(t)
        return path.velocity(x, noise, t)

    losses = objectives.sit_loss(velocity, x, jax.random.key(0), path=path, time_distribution="lognormal")
    assert losses.shape == (64,)
    np.testing.assert_allclose(losses, 0, atol=1e-6)


def test_sit_loss_of_a_zero_prediction_is_the_power_of_the_velocity():
    """On the linear path `v = e - x`; predicting 0 costs `1 + x^2`."""
    x = jnp.full((512, 8, 4), 2.0)
    options = {"path": PATHS["linear"], "time_distribution": "uniform"}
    losses = objectives.sit_loss(lambda x, t: jnp.zeros_like(x), x, jax.random.key(0), **options)
    assert losses.mean() == pytest.approx(5.0, abs=0.05)


def test_dit_loss_passes_the_timestep_to_the_network():
    """A network that inverts the forward process at its timestep has no error left."""
    schedule, x = make_schedule("linear"), jnp.full((64, 3, 2), 0.5)
    signal = jnp.asarray(schedule.signal, jnp.float32)

    def network(x_t, t):
        a = signal[t][:, None, None]
        return jnp.concatenate([(x_t - jnp.sqrt(a) * x) / jnp.sqrt(1 - a), -jnp.ones_like(x)], axis=-1)

    losses = objectives.dit_loss(network, x, jax.random.key(0), schedule=schedule)
    np.testing.assert_allclose(losses.mse, 0, atol=1e-6)
    np.testing.assert_allclose(losses.vb, 0, atol=1e-4)


@pytest.mark.slow
def test_mar_loss_uses_only_masked_tokens():
    schedule, shape = make_schedule("cosine"), (4, 6, 2)
    x, z = jax.random.normal(jax.random.key(0), shape), jax.random.normal(jax.random.key(1), (4, 6, 3))
    mask = jnp.arange(6) < jnp.array([[2], [3], [6], [1]])
    head = lambda x, t, z: jnp.concatenate([x * z[:, :1], z[:, 1:]], axis=-1)  # noqa: E731

    def loss(x, z, key=3):
        return objectives.mar_loss(head, x, z, mask, jax.random.key(key), schedule=schedule, repeats=2)

    assert loss(x, z).shape == (4,)
    changed = jnp.where(mask[..., None], x, 7.0)
    np.testing.assert_allclose(loss(changed, jnp.where(mask[..., None], z, 7.0)), loss(x, z), rtol=1e-6)
    grads = jax.grad(lambda z: loss(x, z).sum())(z)
    np.testing.assert_array_equal((grads != 0).any(-1), mask)


def test_masked_mean():
    losses = jnp.array([[1.0, 2.0, 4.0], [5.0, 7.0, 9.0]])
    mask = jnp.array([[True, False, True], [False, True, False]])
    np.testing.assert_allclose(objectives.masked_mean(losses, mask), [2.5, 7.0])


def test_label_dropping():
    labels = jnp.arange(10_000) % 1000
    dropped = drop_labels(labels, 1000, 0.1, jax.random.key(0))
    assert (dropped == 1000).mean() == pytest.approx(0.1, abs=0.01)
    assert ((dropped == labels) | (dropped == 1000)).all()


def test_guidance():
    """`u + s (c - u)` on the first channels, the class's own variance on the others."""
    x, t = jnp.arange(12.0).reshape(2, 3, 2), jnp.array([0.5, 0.25])

    def pair(x, t):
        assert x.shape == (4, 3, 2) and t.shape == (4,)
        half = jnp.array([1.0, 1.0, -1.0, -1.0])[:, None, None]
        return jnp.concatenate([x + half, 10 * half * jnp.ones_like(x)], axis=-1)

    out = guided(pair, 3.0, 2)(x, t)
    np.testing.assert_allclose(out[..., :2], (x - 1) + 3.0 * 2.0)
    np.testing.assert_allclose(out[..., 2:], 10.0)
