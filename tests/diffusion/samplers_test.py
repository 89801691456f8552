"""Samplers on Gaussian data, whose velocity and noise prediction are known in closed form."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from softvq_jax.diffusion import samplers
from softvq_jax.diffusion.guidance import guided
from softvq_jax.diffusion.paths import COSINE, LINEAR, PATHS
from softvq_jax.diffusion.samplers import Model
from softvq_jax.diffusion.schedules import make_schedule

MEAN, STD = 0.8, 0.4


def _velocity(path):
    """The best velocity for data N(MEAN, STD^2), as a sampler takes it."""

    def velocity(x, t):
        t = t.reshape(-1, *[1] * (x.ndim - 1))
        alpha, sigma = path.alpha(t), path.sigma(t)
        from_mean = (x - alpha * MEAN) / (alpha**2 * STD**2 + sigma**2)
        expected_x, expected_noise = MEAN + alpha * STD**2 * from_mean, sigma * from_mean
        return path.alpha_rate(t) * expected_x + path.sigma_rate(t) * expected_noise

    return velocity


def _noise_fn(shape, seed=1):
    return samplers.noise_from_keys(jax.random.split(jax.random.key(seed), shape[0]), shape[1:])


@pytest.mark.parametrize(("sampler", "order"), [(samplers.ode_euler, 1), (samplers.ode_heun, 2)])
@pytest.mark.parametrize("name", PATHS)
def test_order_of_convergence(sampler, order, name):
    """The flow of Gaussian data is `MEAN + STD * noise`; the error falls as `steps ** -order`."""
    x = jnp.linspace(-2, 2, 16).reshape(2, 8)
    exact = MEAN + STD * x
    errors = [jnp.abs(sampler(Model(_velocity(PATHS[name])), x, steps) - exact).max() for steps in (16, 32)]
    assert np.log2(errors[0] / errors[1]) == pytest.approx(order, abs=0.25)


@pytest.mark.parametrize("path", [LINEAR, COSINE])
def test_sde_samples_the_data(path):
    shape = (8, 1000)
    x = jax.random.normal(jax.random.key(0), shape)
    samples = samplers.sde_euler_maruyama(Model(_velocity(path)), x, 250, path=path, noise_fn=_noise_fn(shape))
    assert samples.mean() == pytest.approx(MEAN, abs=0.02)
    assert samples.std() == pytest.approx(STD, rel=0.05)
    # The probability flow maps every start to one sample (correlation 1); here the noise on the way decides as well.
    assert np.corrcoef(x.ravel(), samples.ravel())[0, 1] < 0.6


def test_ddpm_samples_the_data():
    schedule = make_schedule("linear", steps=200)
    signal = jnp.asarray(np.cumprod(1 - np.linspace(1e-4, 0.02, 1000)), jnp.float32)

    def noise_and_variance(x, t):
        a = signal[t.astype(int)][:, None, None]
        noise = jnp.sqrt(1 - a) * (x - jnp.sqrt(a) * MEAN) / (a * STD**2 + 1 - a)
        return jnp.concatenate([noise, jnp.ones_like(x)], axis=-1)  # the larger of the two variances

    shape = (8, 500, 2)
    x = jax.random.normal(jax.random.key(0), shape)
    samples = samplers.ddpm(Model(noise_and_variance), x, schedule, noise_fn=_noise_fn(shape))
    assert samples.mean() == pytest.approx(MEAN, abs=0.02)
    assert samples.std() == pytest.approx(STD, rel=0.05)
    colder = samplers.ddpm(Model(noise_and_variance), x, schedule, noise_fn=_noise_fn(shape), temperature=0.5)
    assert colder.std() < 0.8 * STD


@pytest.mark.parametrize("path", [LINEAR, COSINE])
def test_sde_against_a_float64_loop(path):
    """Guided inside the interval, noise given: the same steps in NumPy, with the score from the paper's formula."""
    steps, scale, low, high = 9, 2.5, 0.2, 0.6
    rng = np.random.default_rng(0)
    x, noises = rng.standard_normal((2, 3)), rng.standard_normal((steps - 1, 2, 3))
    network = lambda x, t: 0.3 * x - t[:, None]  # noqa: E731
    guided_network = lambda x, t: scale * (0.3 * x - t[:, None])  # noqa: E731

    times = np.append(np.linspace(1, 0.04, steps), 0)
    expected = x
    for i, (t, dt) in enumerate(zip(times, np.diff(times), strict=False)):
        v = (guided_network if low <= t <= high else network)(expected, np.full(2, t))
        ratio = path.alpha(t[None]) / path.alpha_rate(t[None])
        sigma = path.sigma(t[None])
        score = (ratio * v - expected) / (sigma**2 - ratio * path.sigma_rate(t[None]) * sigma)
        expected = expected + dt * (v - t * score)
        if i < steps - 1:
            expected = expected + np.sqrt(2 * t) * np.sqrt(abs(dt)) * noises[i]

    noises = jnp.asarray(noises, jnp.float32)
    model = Model(network, guided_network, low, high)
    ours = samplers.sde_euler_maruyama(
        model, jnp.asarray(x, jnp.float32), steps, path=path, noise_fn=lambda step: noises[step]
    )
    np.testing.assert_allclose(ours, expected, rtol=1e-5, atol=1e-5)


def test_heun_against_a_float64_loop():
    """The correction is guided by the step's current time, and the last step has none."""
    steps, low, high = 10, 0.1, 0.7  # grid times equal both ends: they count as inside
    network, guided_network = (lambda x, t, s=s: s * np.float32(1) * x + t[:, None] for s in (0.4, 1.1))
    times = np.linspace(1, 0, steps + 1)
    expected = np.array([[0.3, -1.0]])
    guided_steps = (1, 2, 3, 4, 5, 6, 7)  # steps from the end: times 0.1 to 0.7
    for i in range(steps):
        fn = guided_network if steps - i in guided_steps else network
        t, dt = times[i], times[i + 1] - times[i]
        v = fn(expected, np.array([t]))
        if i < steps - 1:
            v = (v + fn(expected + dt * v, np.array([t + dt]))) / 2
        expected = expected + dt * v
    ours = samplers.ode_heun(Model(network, guided_network, low, high), jnp.array([[0.3, -1.0]]), steps)
    np.testing.assert_allclose(ours, expected, rtol=1e-5)


class Counter:
    """Networks that count the evaluations of single examples that a run makes."""

    def __init__(self):
        self.examples = 0

    def __call__(self, x, t):
        def count(batch):
            self.examples += int(batch)

        jax.debug.callback(count, x.shape[0])
        return x


@pytest.mark.parametrize(
    ("sampler", "plain", "doubled"),
    [
        # 20 steps; times 0.3 to 0.7 are 9 of them. Heun evaluates twice but in the last step.
        (samplers.ode_euler, 11, 9),
        (samplers.ode_heun, 21, 18),
    ],
)
def test_unguided_steps_cost_one_evaluation(sampler, plain, doubled):
    counter = Counter()
    model = Model(counter, guided(counter, 1.5, 4), 0.3, 0.7)
    jax.block_until_ready(jax.jit(lambda x: sampler(model, x, 20))(jnp.ones((3, 2, 4))))
    jax.effects_barrier()
    assert counter.examples == 3 * (plain + 2 * doubled)


def test_one_program_without_host_steps():
    """Steps do not unroll: the program of 500 steps is as long as that of 50, and is traced once."""
    model = Model(lambda x, t: jnp.sin(x), lambda x, t: jnp.cos(x), 0.0, 0.7)

    def sample(x, steps):
        return samplers.sde_euler_maruyama(model, x, steps, path=LINEAR, noise_fn=_noise_fn(x.shape))

    x = jnp.ones((2, 3))
    equations = [len(jax.make_jaxpr(sample, static_argnums=1)(x, steps).jaxpr.eqns) for steps in (50, 500)]
    assert equations[0] == equations[1]
    traced_once = jax.jit(chex.assert_max_traces(lambda x: sample(x, 50), n=1))
    traced_once(x)
    traced_once(2 * x)


def test_noise_is_the_examples_own():
    keys = jax.random.split(jax.random.key(0), 4)
    whole = samplers.noise_from_keys(keys, (5, 2))(3)
    np.testing.assert_array_equal(whole[1:3], samplers.noise_from_keys(keys[1:3], (5, 2))(3))
    assert not np.allclose(whole, samplers.noise_from_keys(keys, (5, 2))(4))


def test_too_few_steps():
    with pytest.raises(ValueError, match="0 sampling steps; this sampler takes at least 1"):
        samplers.ode_heun(Model(lambda x, t: x), jnp.ones((1, 2)), 0)
