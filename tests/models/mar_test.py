"""What must and must not matter to a MAR; parity covers its numbers."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

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


@pytest.fixture(scope="module")
def model():
    return MAR(TINY, rngs=nnx.Rngs(0))


@pytest.fixture(scope="module")
def inputs():
    return jax.random.normal(jax.random.key(0), (2, 6, 3)), jnp.array([1, 5])


def test_left_over_tokens_do_not_matter(model, inputs):
    """The bound on visible tokens changes shapes, not values."""
    exact = model(*inputs, MASKED, num_visible=2)
    assert exact.shape == (2, 6, 48)
    for bound in (3, 6):
        np.testing.assert_allclose(model(*inputs, MASKED, num_visible=bound), exact, atol=2e-5)


def test_masked_latents_are_not_read(model, inputs):
    latents, labels = inputs
    read = lambda latents: model(latents, labels, MASKED, num_visible=6)  # noqa: E731
    hidden_changed = jnp.where(MASKED[..., None], 9.0, latents)
    np.testing.assert_allclose(read(hidden_changed), read(latents), atol=2e-5)
    visible_changed = jnp.where(MASKED[..., None], latents, 9.0)
    assert not np.allclose(read(visible_changed), read(latents), atol=1e-2)


def test_encoder_order(model, inputs):
    """Buffer, then visible tokens by position: tokens without blocks between them are recognised at their places."""
    latents, labels = inputs
    without_blocks = MAR(
        dataclasses.replace(TINY, encoder=StackConfig(width=32, depth=1, num_heads=4)), rngs=nnx.Rngs(0)
    )
    blocks = without_blocks.encoder.blocks
    blocks.attn.proj.kernel[...] *= 0
    blocks.mlp.fc2.kernel[...] *= 0
    encoded = without_blocks.encode(latents, labels, MASKED, num_visible=2)
    everything = without_blocks.encode(latents, labels, jnp.zeros_like(MASKED), num_visible=6)
    np.testing.assert_allclose(encoded[:, :4], everything[:, :4], atol=1e-6)
    np.testing.assert_allclose(encoded[0, 4:], everything[0, jnp.array([4 + 1, 4 + 4])], atol=1e-6)
    np.testing.assert_allclose(encoded[1, 4:], everything[1, jnp.array([4 + 0, 4 + 3])], atol=1e-6)


def test_all_masked(model, inputs):
    conditions = model(*inputs, jnp.ones_like(MASKED), num_visible=1)
    assert np.isfinite(conditions).all()


def test_no_class_is_one_embedding(model, inputs):
    """Label `num_classes` is not the last class."""
    latents, _ = inputs
    z = [model(latents, jnp.full(2, label), MASKED, num_visible=2) for label in (4, 5)]
    assert not np.allclose(*z, atol=1e-3)
    unlabelled = lambda m: m(latents, jnp.full(2, 5), MASKED, num_visible=2).sum()  # noqa: E731
    grads = nnx.to_pure_dict(nnx.grad(unlabelled)(model))
    assert grads["no_class"].any() and not grads["class_embeddings"].any()


def test_dropout_only_with_a_key(model, inputs):
    evaluate = lambda key: model(*inputs, MASKED, num_visible=2, key=key)  # noqa: E731
    np.testing.assert_array_equal(evaluate(None), evaluate(None))
    assert not np.allclose(evaluate(jax.random.key(0)), evaluate(jax.random.key(1)), atol=1e-3)
    still = MAR(dataclasses.replace(TINY, dropout=0.0), rngs=nnx.Rngs(0))
    trained = still(*inputs, MASKED, num_visible=2, key=jax.random.key(0))
    np.testing.assert_allclose(trained, still(*inputs, MASKED, num_visible=2), atol=2e-5)


def test_a_new_head_predicts_nothing(model):
    out = model.head(jnp.ones((7, 3)), jnp.arange(7), jnp.ones((7, 48)))
    assert out.shape == (7, 6) and not out.any()


@pytest.mark.parametrize(("size", "millions"), [("base", 208), ("large", 479), ("huge", 943)])
def test_published_sizes(size, millions):
    """MAR, table 4 (its 256 tokens of 16 channels)."""
    config = MARConfig.preset(size, num_tokens=256, channels=16)
    state = nnx.state(nnx.eval_shape(lambda: MAR(config, rngs=nnx.Rngs(0))), nnx.Param)
    assert sum(leaf.size for leaf in jax.tree.leaves(state)) / 1e6 == pytest.approx(millions, rel=0.01)


def test_from_dict():
    assert MARConfig.from_dict(dataclasses.asdict(TINY)) == TINY
