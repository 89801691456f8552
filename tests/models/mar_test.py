"""Which inputs the output of a MAR depends on; parity cases cover its numbers."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from softvq_jax.models.diffusion_head import DiffusionHead
from softvq_jax.models.mar import MAR, MARConfig, StackConfig

TINY = MARConfig(
    num_tokens=6,
    channels=3,
    encoder=StackConfig(width=32, depth=2, num_heads=4),
    decoder=StackConfig(width=48, depth=2, num_heads=4),
    head_width=16,
    head_depth=2,
    num_classes=5,
    buffer_size=4,
)
MASKED = jnp.array([[1, 0, 1, 1, 0, 1], [0, 1, 1, 0, 1, 1]], bool)


LATENTS, LABELS = jax.random.normal(jax.random.key(0), (2, 6, 3)), jnp.array([1, 5])


GRAPHDEF, _STATE = nnx.split(nnx.eval_shape(lambda: MAR(TINY, rngs=nnx.Rngs(0))))
_RNG = np.random.default_rng(0)
PARAMS = jax.tree.map(lambda leaf: jnp.asarray(0.2 * _RNG.standard_normal(leaf.shape)), nnx.to_pure_dict(_STATE))


@functools.partial(jax.jit, static_argnames=("num_visible", "graphdef", "method"))
def run(
    latents=LATENTS,
    labels=LABELS,
    masked=MASKED,
    key=None,
    params=PARAMS,
    *,
    num_visible=2,
    graphdef=GRAPHDEF,
    method="__call__",
):
    return getattr(nnx.merge(graphdef, params), method)(latents, labels, masked, num_visible=num_visible, key=key)


def test_padding_tokens_do_not_matter():
    """The bound on visible tokens changes shapes, not values."""
    exact = run(num_visible=2)
    assert exact.shape == (2, 6, 48)
    for bound in (3, 6):
        np.testing.assert_allclose(run(num_visible=bound), exact, atol=2e-5)


def test_masked_latents_are_not_read():
    hidden_changed = jnp.where(MASKED[..., None], 9.0, LATENTS)
    np.testing.assert_allclose(run(hidden_changed), run(), atol=2e-5)
    visible_changed = jnp.where(MASKED[..., None], LATENTS, 9.0)
    assert not np.allclose(run(visible_changed), run(), atol=1e-2)


def test_encoder_order():
    """Buffer, then visible tokens by position; with blocks that add nothing, tokens are recognizable at their positions."""
    blocks = PARAMS["encoder"]["blocks"]
    silent = {
        "attn": blocks["attn"] | {"proj": jax.tree.map(jnp.zeros_like, blocks["attn"]["proj"])},
        "mlp": blocks["mlp"] | {"fc2": jax.tree.map(jnp.zeros_like, blocks["mlp"]["fc2"])},
    }
    params = PARAMS | {"encoder": PARAMS["encoder"] | {"blocks": blocks | silent}}
    encode = functools.partial(run, params=params, method="encode")
    encoded, everything = encode(), encode(masked=jnp.zeros_like(MASKED), num_visible=6)
    np.testing.assert_allclose(encoded[:, :4], everything[:, :4], atol=1e-6)
    np.testing.assert_allclose(encoded[0, 4:], everything[0, jnp.array([4 + 1, 4 + 4])], atol=1e-6)
    np.testing.assert_allclose(encoded[1, 4:], everything[1, jnp.array([4 + 0, 4 + 3])], atol=1e-6)


def test_all_masked():
    nothing_visible = functools.partial(run, masked=jnp.ones_like(MASKED))
    np.testing.assert_allclose(nothing_visible(num_visible=0), nothing_visible(num_visible=2), atol=2e-5)


@pytest.mark.slow
def test_no_class_is_one_embedding():
    """The label `num_classes` means no class."""
    assert not np.allclose(run(labels=jnp.array([4, 4])), run(labels=jnp.array([5, 5])), atol=1e-3)
    grads = jax.jit(jax.grad(lambda params: run(labels=jnp.array([5, 5]), params=params).sum()))(PARAMS)
    assert grads["no_class"].any() and not grads["class_embeddings"].any()


@pytest.mark.slow
def test_dropout_is_drawn_from_the_key():
    first, second = run(key=jax.random.key(0)), run(key=jax.random.key(1))
    assert not np.allclose(first, second, atol=1e-3) and not np.allclose(first, run(), atol=1e-3)


@pytest.mark.slow
def test_a_new_head_predicts_nothing():
    head = DiffusionHead(3, 48, 16, 2, rngs=nnx.Rngs(0))
    out = head(jnp.ones((7, 3)), jnp.arange(7), jnp.ones((7, 48)))
    assert out.shape == (7, 6) and not out.any()


def test_from_dict():
    assert MARConfig.from_dict(dataclasses.asdict(TINY)) == TINY
