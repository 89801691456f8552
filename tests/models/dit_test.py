"""The transformer against a float64 NumPy version written from the published naming, and what must not change it."""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from scipy import special

from softvq_jax.generators.transformer import weight_rules
from softvq_jax.models.dit import DiT, DiTConfig, sincos_positions
from softvq_jax.weights import layout

TINY = DiTConfig(num_tokens=5, channels=3, width=32, depth=2, num_heads=4, num_classes=7, qk_norm=True)


def _random(config):
    """A network with every parameter random (a new one is zero by design), and its tensors as PyTorch names them."""
    graphdef, state = nnx.split(nnx.eval_shape(lambda: DiT(config, rngs=nnx.Rngs(0))))
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda leaf: 0.3 * rng.standard_normal(leaf.shape, np.float32), nnx.to_pure_dict(state))
    return graphdef, params, layout.write(weight_rules(config), params)


def _inputs(config):
    x = jax.random.normal(jax.random.key(1), (3, config.num_tokens, config.channels))
    return x, jnp.array([0.1, 0.5, 900.0]), jnp.array([0, 6, 7])


def _graphdef(config):
    return nnx.split(nnx.eval_shape(lambda: DiT(config, rngs=nnx.Rngs(0))))[0]


@functools.partial(jax.jit, static_argnums=0)
def _run(graphdef, params, *inputs):
    return nnx.merge(graphdef, params)(*inputs)


class Reference:
    """The forward pass in float64, one example at a time."""

    def __init__(self, tensors, num_heads):
        self.w = {key: np.float64(value) for key, value in tensors.items()}
        self.num_heads = num_heads

    def linear(self, name, x):
        return x @ self.w[f"{name}.weight"].T + self.w[f"{name}.bias"]

    @staticmethod
    def norm(x):
        return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)

    def attention(self, name, x):
        q, k, v = np.split(self.linear(f"{name}.qkv", x), 3, axis=-1)
        heads = []
        for head in range(self.num_heads):
            size = x.shape[-1] // self.num_heads
            part = slice(head * size, (head + 1) * size)
            q_, k_ = (
                self.norm(y[:, part]) * self.w[f"{name}.{n}.weight"] + self.w[f"{name}.{n}.bias"]
                for y, n in ((q, "q_norm"), (k, "k_norm"))
            )
            heads.append(special.softmax(q_ @ k_.T / math.sqrt(size), axis=-1) @ v[:, part])
        return self.linear(f"{name}.proj", np.concatenate(heads, axis=-1))

    def __call__(self, x, t, label):
        silu = lambda x: x * special.expit(x)  # noqa: E731
        gelu = lambda x: 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))  # noqa: E731
        angles = t * 10000 ** (-np.arange(128) / 128)
        time = np.concatenate([np.cos(angles), np.sin(angles)])
        time = self.linear("t_embedder.mlp.2", silu(self.linear("t_embedder.mlp.0", time)))
        c = silu(time + self.w["y_embedder.embedding_table.weight"][label])
        x = self.linear("x_embedder", x) + self.w["pos_embed"][0]
        for i in range(2):
            name = f"blocks.{i}"
            shift1, scale1, gate1, shift2, scale2, gate2 = np.split(self.linear(f"{name}.adaLN_modulation.1", c), 6)
            x = x + gate1 * self.attention(f"{name}.attn", self.norm(x) * (1 + scale1) + shift1)
            hidden = gelu(self.linear(f"{name}.mlp.fc1", self.norm(x) * (1 + scale2) + shift2))
            x = x + gate2 * self.linear(f"{name}.mlp.fc2", hidden)
        shift, scale = np.split(self.linear("final_layer.adaLN_modulation.1", c), 2)
        return self.linear("final_layer.linear", self.norm(x) * (1 + scale) + shift)


@pytest.mark.parametrize("learn_sigma", [False, True])
def test_against_numpy(learn_sigma):
    config = dataclasses.replace(TINY, learn_sigma=learn_sigma)
    graphdef, params, tensors = _random(config)
    x, t, labels = _inputs(config)
    reference = Reference(tensors, config.num_heads)
    expected = np.stack([reference(np.float64(a), float(b), int(c)) for a, b, c in zip(x, t, labels, strict=True)])
    with jax.default_matmul_precision("highest"):
        ours = _run(graphdef, params, x, t, labels)
    # cos(900 f) in float32 is right to 900 * 2^-23 only.
    np.testing.assert_allclose(ours, expected, rtol=1e-3, atol=2e-3)
    np.testing.assert_allclose(ours[:2], expected[:2], rtol=1e-4, atol=1e-4)


def test_a_new_network_predicts_nothing():
    """adaLN-Zero: gates and last layer start at zero, and its first gradient reaches only the last layer."""
    params = jax.jit(lambda: nnx.to_pure_dict(nnx.state(DiT(TINY, rngs=nnx.Rngs(0)))))()
    assert not _run(_graphdef(TINY), params, *_inputs(TINY)).any()
    kernel = params["blocks"]["attn"]["qkv"]["kernel"]
    assert kernel.std() == pytest.approx(math.sqrt(2 / (32 + 96)), rel=0.05)  # Xavier uniform
    assert not np.allclose(kernel[0], kernel[1])
    assert params["label_embeddings"].std() == pytest.approx(0.02, rel=0.2)


def test_positions_are_kept_but_not_trained():
    params = nnx.to_pure_dict(nnx.state(nnx.eval_shape(lambda: DiT(TINY, rngs=nnx.Rngs(0))), nnx.Param))
    assert "pos_embed" not in params and "blocks" in params
    positions = sincos_positions(6, 8)
    for place in range(6):
        for channel in range(8):
            wave = math.cos if channel % 2 else math.sin
            assert positions[place, channel] == pytest.approx(wave(place / 10000 ** (channel // 2 * 2 / 8)), abs=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("remat", ["dots", "attention", "full"])
def test_remat_changes_nothing(remat):
    graphdef, params, _ = _random(TINY)
    again = _graphdef(dataclasses.replace(TINY, remat=remat))
    inputs = _inputs(TINY)
    loss = lambda graphdef: jax.jit(jax.grad(lambda params: (nnx.merge(graphdef, params)(*inputs) ** 2).sum()))  # noqa: E731
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4), loss(graphdef)(params), loss(again)(params)
    )


def test_bfloat16_is_close():
    graphdef, params, _ = _random(TINY)
    half = _graphdef(dataclasses.replace(TINY, dtype="bfloat16"))
    exact, rounded = (_run(g, params, *_inputs(TINY)) for g in (graphdef, half))
    assert rounded.dtype == jnp.float32
    assert 0 < np.linalg.norm(rounded - exact) / np.linalg.norm(exact) < 0.05
