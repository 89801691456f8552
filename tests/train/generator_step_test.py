"""Training step of the generators: closed forms, and that the loss falls."""

import json

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests import programs, small_generators, small_tokenizers
from tests.small_generators import take_steps


@pytest.mark.slow
@pytest.mark.parametrize("family", ["sit", "dit", "mar"])
def test_the_loss_falls_on_a_repeated_batch(family):
    config = small_generators.config(family)
    state, logs = take_steps(config, 200)
    chex.assert_tree_all_finite(logs)
    assert int(state.step) == 200
    losses = [log["loss"] for log in logs]
    assert np.mean(losses[-40:]) < 0.9 * np.mean(losses[:10])
    assert logs[-1]["grad_norm"] > 0


@pytest.mark.slow
@pytest.mark.parametrize(("process", "slope"), [("linear", 1.0), ("cosine", (np.pi / 2) ** 2 / 2)])
def test_first_loss_of_sit_is_the_power_of_the_velocity(process, slope):
    """The output starts at zero, so the loss is `E (a' x + s' e)^2`: 2 on the linear path, pi^2 / 4 on the cosine one."""
    config = small_generators.config("sit")
    config.objective.process = process
    task = small_generators.abstract_task(config)
    batch = small_generators.batch(task, size=4096)
    state = small_generators.state_of(task)
    losses = jax.jit(task.step.gradients)(state.generator.params, batch["latents"], batch["label"], jax.random.key(0))[
        1
    ]
    np.testing.assert_allclose(losses["loss"], 2 * slope, rtol=0.02)


@pytest.mark.slow
def test_first_noise_error_of_dit_is_one():
    config = small_generators.config("dit")
    task = small_generators.abstract_task(config)
    batch = small_generators.batch(task, size=1024)
    params = small_generators.state_of(task).generator.params
    losses = jax.jit(task.step.gradients)(params, batch["latents"], batch["label"], jax.random.key(0))[1]
    np.testing.assert_allclose(losses["noise_error"], 1.0, rtol=0.02)
    np.testing.assert_allclose(losses["loss"], losses["noise_error"] + losses["variational_bound"], rtol=1e-6)


@pytest.mark.slow
def test_accumulated_gradients_are_the_mean_over_microbatches():
    config = small_generators.config("sit")
    config.optim.accumulate = 4
    task = small_generators.abstract_task(config)
    batch, key = small_generators.batch(task), jax.random.key(0)
    state, _ = take_steps(small_generators.config("sit"), 2)  # gates are zero at first, and most gradients with them
    params = state.generator.params
    ours, metrics = jax.jit(task.step.accumulate)(params, batch["latents"], batch["label"], key)
    parts = [
        jax.jit(task.step.gradients)(params, batch["latents"][i::4], batch["label"][i::4], jax.random.fold_in(key, i))
        for i in range(4)
    ]
    grads = jax.tree.map(lambda *leaves: jnp.mean(jnp.stack(leaves), axis=0), *[grads for grads, _ in parts])
    chex.assert_trees_all_close(ours, grads, rtol=1e-3, atol=1e-6)
    np.testing.assert_allclose(metrics["loss"], np.mean([losses["loss"] for _, losses in parts]), rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("family", ["sit", pytest.param("mar", marks=pytest.mark.heavy)])
def test_eight_devices_train_as_one(family):
    def run(devices):
        [output] = programs.run("generator_steps", family, devices=devices)
        return json.loads(output.splitlines()[-1])

    one, eight = run(1), run(8)
    np.testing.assert_allclose(one["losses"], eight["losses"], rtol=1e-4)
    np.testing.assert_allclose(one["norms"], eight["norms"], rtol=1e-4)


@pytest.mark.parametrize(
    ("section", "field", "value", "message"),
    [
        ("model", "family", "gan", "config.model.family is 'gan'; expected one of sit, dit, mar"),
        ("objective", "process", "square", "config.objective.process='square': expected one of 'linear', 'cosine'"),
        (
            "sampling",
            "sampler",
            "ddim",
            "config.sampling.sampler='ddim': expected one of 'sde_euler_maruyama', 'ode_euler'",
        ),
        (
            "sampling",
            "guidance_interval",
            (0.7, 0.1),
            r"config.sampling.guidance_interval=\(0.7, 0.1\): expected \(low, high\)",
        ),
        (
            "objective",
            "time_distribution",
            "beta",
            "config.objective.time_distribution='beta': expected one of 'uniform'",
        ),
    ],
)
def test_unknown_names_are_refused_at_the_start(section, field, value, message):
    config = small_generators.config("sit")
    config[section][field] = value
    with pytest.raises(ValueError, match=message):
        small_generators.abstract_task(config)


@pytest.mark.parametrize(
    ("family", "steps", "expected"), [("sit", 1, "at least 2"), ("dit", 1001, "1 to 1000"), ("mar", 9, "1 to 8")]
)
def test_numbers_of_steps_that_sampling_cannot_take_are_refused_at_the_start(family, steps, expected):
    """Not at the first evaluation."""
    config = small_generators.config(family)
    config.sampling.steps = steps
    with pytest.raises(ValueError, match=f"steps is {steps}; expected {expected} for sampler"):
        small_generators.abstract_task(config)


def test_widths_without_positions_or_hidden_channels_are_refused():
    for changes, message in (
        ({"width": 33, "num_heads": 1}, "width is 33; expected an even number"),
        ({"mlp_ratio": 0.01}, r"mlp_ratio is 0\.01; with width 32 it must be at least 0\.0312"),
    ):
        config = small_generators.config("sit")
        config.model.update(changes)
        with pytest.raises(ValueError, match=message):
            small_generators.abstract_task(config)
    with pytest.raises(ValueError, match=r"mlp_ratio is 0\.01; with width 32"):
        small_tokenizers.vit(mlp_ratio=0.01)
