"""Masked token generators; parity covers their numbers."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from softvq_jax.models.maskgit import MaskGITConfig
from tests import small_titok

TOKENS, LABELS = jnp.array([[0, 16, 3, 15, 16, 16], [16, 16, 1, 2, 2, 16]]), jnp.array([1, 5])
NETWORKS = {name: small_titok.functional(small_titok.generator_config(name)) for name in ("bert", "uvit")}
PARAMS = {name: small_titok.params(network) for name, network in NETWORKS.items()}


@functools.partial(jax.jit, static_argnames="name")
def run(name, tokens=TOKENS, labels=LABELS, key=None, params=None):
    return NETWORKS[name](PARAMS[name] if params is None else params)(tokens, labels, key=key)


@pytest.mark.parametrize("name", NETWORKS)
def test_tokens_and_labels_matter(name):
    logits = run(name)
    assert logits.shape == (2, 6, 16) and logits.dtype == jnp.float32
    assert not np.allclose(run(name, labels=jnp.array([2, 5]))[0], logits[0], atol=1e-3)
    np.testing.assert_allclose(run(name, labels=jnp.array([2, 5]))[1], logits[1], atol=1e-5)
    other = run(name, TOKENS.at[0, 0].set(7))
    assert not np.allclose(other[0, 5], logits[0, 5], atol=1e-3)


@pytest.mark.parametrize("name", NETWORKS)
def test_every_parameter_gets_a_gradient(name):
    grads = jax.jit(jax.grad(lambda params: jnp.sum(jnp.square(run(name, params=params)))))(PARAMS[name])
    assert all(leaf.any() for leaf in jax.tree.leaves(grads))


def test_dropout_is_drawn_from_the_key():
    first, second = run("bert", key=jax.random.key(0)), run("bert", key=jax.random.key(1))
    assert not np.allclose(first, second, atol=1e-3) and not np.allclose(first, run("bert"), atol=1e-3)
    np.testing.assert_array_equal(run("uvit", key=jax.random.key(0)), run("uvit"))


def test_published_size():
    """The generator of L-32 has 177 million parameters (TiTok, table 2)."""
    shapes = small_titok.functional(MaskGITConfig(codebook_size=4096, num_tokens=32)).shapes
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes)) / 1e6 == pytest.approx(177, rel=0.01)


def test_refusals():
    with pytest.raises(ValueError, match="'vit'; expected one of bert, uvit"):
        small_titok.generator_config("vit")
    with pytest.raises(ValueError, match="depth is 3; uvit"):
        small_titok.generator_config("uvit", depth=3)
