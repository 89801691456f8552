"""Optimization against closed forms, and against the release's rule applied to published tensor names."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

from softvq_jax.config.tokenizer import tokenizer_config
from softvq_jax.models.tokenizer import TokenizerConfig
from softvq_jax.models.vit import ViTConfig
from softvq_jax.tokenizer import abstract_params
from softvq_jax.train import optim
from softvq_jax.weights.tokenizer import tokenizer_rules


@pytest.mark.parametrize("bottleneck", ["softvq", "vq", "simvq", "kl"])
def test_decay_follows_the_release_rule(bottleneck):
    """Decayed: tensors of two dimensions or more in the published layout, whose name is not a bias."""
    vit = ViTConfig(width=64, depth=2, num_heads=1, patch_size=8)
    config = TokenizerConfig(vit, vit, image_size=16, num_latent_tokens=4, bottleneck=bottleneck, codebook_size=16)
    shapes = abstract_params(config)
    ours = traverse_util.flatten_dict(optim.decay_mask(shapes), sep="/")
    flat = traverse_util.flatten_dict(shapes, sep="/")
    for rule in tokenizer_rules(config):
        shape = flat[rule.path].shape[1 if rule.count else 0 :]
        theirs = rule.layout.to_torch(np.zeros(shape))
        assert ours[rule.path] == (theirs.ndim >= 2 and not rule.key.endswith("bias")), rule.path


def test_cosine_schedule():
    section = tokenizer_config().optim
    rate = optim.learning_rate(section, "cosine", batch_size=512, steps_per_epoch=100, num_steps=1100)
    peak = 1e-4 * 512 / 256
    np.testing.assert_allclose(rate(0), peak / 100, rtol=1e-6)
    np.testing.assert_allclose(rate(99), peak, rtol=1e-6)
    np.testing.assert_allclose(rate(600), peak * (0.1 + 0.9 * 0.5), rtol=1e-5)
    np.testing.assert_allclose(rate(1100), 0.1 * peak, rtol=1e-5)


def test_unknown_schedule_is_refused():
    with pytest.raises(ValueError, match="'linear'; expected 'cosine' or 'constant'"):
        optim.learning_rate(tokenizer_config().optim, "linear", batch_size=1, steps_per_epoch=1, num_steps=1)


def test_adamw_is_the_textbook_update():
    section = tokenizer_config().optim
    section.weight_decay = 0.1
    optimizer = optim.adamw(section, {"constant": lambda count: 0.01}, lambda path: "constant")
    params = {"kernel": jnp.array([1.0, -2.0]), "bias": jnp.array([3.0])}
    grads = [
        {"kernel": jnp.array([0.5, 0.1]), "bias": jnp.array([-1.0])},
        {"kernel": jnp.array([-0.2, 0.3]), "bias": jnp.array([2.0])},
    ]
    state, expected = optimizer.init(params), {name: np.float64(value) for name, value in params.items()}
    m = {name: 0.0 for name in params}
    v = {name: 0.0 for name in params}
    for count, grad in enumerate(grads, 1):
        updates, state = optimizer.update(grad, state, params)
        params = jax.tree.map(jnp.add, params, updates)
        for name, g in grad.items():
            g = np.float64(g)
            m[name] = 0.9 * m[name] + 0.1 * g
            v[name] = 0.95 * v[name] + 0.05 * g * g
            step = m[name] / (1 - 0.9**count) / (np.sqrt(v[name] / (1 - 0.95**count)) + 1e-8)
            decay = 0.1 * expected[name] if name == "kernel" else 0.0
            expected[name] = expected[name] - 0.01 * (step + decay)
    for name in params:
        np.testing.assert_allclose(params[name], expected[name], rtol=1e-5)


def test_frozen_parameters_have_no_state_and_do_not_move():
    optimizer = optim.adamw(
        tokenizer_config().optim, {"main": lambda count: 0.1}, lambda path: "frozen" if path == "a" else "main"
    )
    params = {"a": jnp.ones(3), "b": jnp.ones(3)}
    state = optimizer.init(params)
    updates, _ = optimizer.update({"a": jnp.ones(3), "b": jnp.ones(3)}, state, params)
    assert not np.any(updates["a"]) and np.all(updates["b"] != 0)
    assert sum(leaf.size for leaf in jax.tree.leaves(state)) <= 2 * 3 + 2  # two moments of b, and counts


def test_clipping_equals_pytorchs():
    grads = {"a": jnp.array([3.0]), "b": jnp.array([4.0])}
    clipped, norm = optim.clip_by_global_norm(grads, 1.0)
    assert norm == 5.0
    np.testing.assert_allclose(clipped["a"], 3.0 / (5.0 + 1e-6), rtol=1e-6)
    unclipped, _ = optim.clip_by_global_norm(grads, 10.0)
    np.testing.assert_array_equal(unclipped["b"], grads["b"])


@pytest.mark.parametrize("num_microbatches", [1, 2, 4])
def test_accumulated_gradients_are_the_mean_over_the_batch(num_microbatches):
    """And the carry goes from one microbatch to the next."""
    batch = {"x": jnp.arange(8.0), "y": jnp.arange(8.0) ** 2}

    def gradients(carry, batch, key):
        grads = jax.grad(lambda w: jnp.mean(batch["x"] * w + batch["y"] * w**2))(3.0)
        return {"w": grads}, carry + jnp.sum(batch["x"]), {"y": jnp.mean(batch["y"])}

    grads, carry, metrics = optim.accumulate_gradients(gradients, num_microbatches, 0.0, batch, jax.random.key(0))
    np.testing.assert_allclose(grads["w"], np.mean(batch["x"] + 6 * batch["y"]), rtol=1e-6)
    np.testing.assert_allclose(metrics["y"], np.mean(batch["y"]), rtol=1e-6)
    assert carry == 28


def test_accumulation_gives_each_microbatch_its_own_samples_and_key():
    def gradients(carry, batch, key):
        sample = jax.random.uniform(key)
        return sample, carry.at[batch].set(sample), {}

    key = jax.random.key(3)
    mean, samples, _ = jax.jit(optim.accumulate_gradients, static_argnums=(0, 1))(
        gradients, 2, jnp.zeros(6), jnp.arange(6), key
    )
    expected = [float(jax.random.uniform(jax.random.fold_in(key, i))) for i in range(2)]
    np.testing.assert_allclose(samples, np.tile(expected, 3), rtol=1e-6)
    np.testing.assert_allclose(mean, np.mean(expected), rtol=1e-6)


def test_ema_keeps_a_constant_exactly():
    constant = jnp.float32(0.1)
    assert optim.ema_update(constant, constant, 0.9999) == constant
    np.testing.assert_allclose(optim.ema_update(jnp.float32(1.0), jnp.float32(2.0), 0.9), 1.1, rtol=1e-6)


def muon_section(**fields):
    section = tokenizer_config().optim
    section.update(dict(optimizer="muon", learning_rate=0.01, muon_learning_rate=0.2, weight_decay=0.0) | fields)
    return section


def test_muon_sets_the_singular_values_of_each_kernel_to_about_one():
    """The update has the singular vectors of the gradient; Newton-Schulz leaves singular values between 0.6 and 1.3."""
    optimizer = optim.optimizer(muon_section(), {"main": lambda count: 0.01}, lambda path: "main")
    rng = np.random.default_rng(0)
    grads = {
        "blocks": {
            "kernel": np.float32(rng.standard_normal((3, 6, 24))),
            "bias": np.float32(rng.standard_normal((3, 24))),
        },
        "pos_embed": np.float32(rng.standard_normal((5, 6))),
        "kernel": np.float32(rng.standard_normal((24, 6))),
    }
    params = jax.tree.map(jnp.ones_like, grads)
    updates, _ = jax.jit(optimizer.update)(grads, optimizer.init(params), params)
    stack = [(grads["blocks"]["kernel"][i], updates["blocks"]["kernel"][i], 2.0) for i in range(3)]  # (24 / 6)^0.5
    for grad, update, scale in [*stack, (grads["kernel"], updates["kernel"], 1.0)]:
        left, _, right = np.linalg.svd(np.float64(grad), full_matrices=False)
        core = left.T @ np.float64(update) @ right.T / (-0.2 * scale)
        assert np.all((np.diag(core) > 0.6) & (np.diag(core) < 1.3))
        np.testing.assert_allclose(core - np.diag(np.diag(core)), 0, atol=1e-3)
    # Adam's first step is the learning rate, against the sign of the gradient.
    for grad, update in (
        (grads["blocks"]["bias"], updates["blocks"]["bias"]),
        (grads["pos_embed"], updates["pos_embed"]),
    ):
        np.testing.assert_allclose(update, -0.01 * np.sign(grad), rtol=1e-4)


def test_muon_decays_kernels_by_its_own_rate_and_follows_the_schedule():
    section = muon_section(weight_decay=0.1)
    optimizer = optim.optimizer(section, {"main": lambda count: 0.01 / (1 + count)}, lambda path: "main")
    params = {"kernel": jnp.full((2, 2), 3.0), "bias": jnp.full(2, 3.0)}
    zero, state = jax.tree.map(jnp.zeros_like, params), optimizer.init(params)
    for count in range(3):
        updates, state = optimizer.update(zero, state, params)
        np.testing.assert_allclose(updates["kernel"], -0.2 / (1 + count) * 0.1 * 3.0, rtol=1e-5)
        np.testing.assert_allclose(updates["bias"], 0.0)


def test_muon_leaves_frozen_parameters():
    optimizer = optim.optimizer(
        muon_section(), {"main": lambda count: 0.1}, lambda path: "frozen" if path.startswith("a") else "main"
    )
    params = {"a": {"kernel": jnp.ones((3, 3))}, "b": {"kernel": jnp.eye(3)}}
    state = optimizer.init(params)
    updates, _ = optimizer.update(params, state, params)
    assert not np.any(updates["a"]["kernel"]) and np.any(updates["b"]["kernel"])
    assert sum(leaf.size for leaf in jax.tree.leaves(state)) < 2 * 9 + 20  # no momentum of a
