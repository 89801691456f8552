import jax
import numpy as np
import pytest
from flax import nnx

from softvq_jax.models.dino_trunk import DinoTrunk
from softvq_jax.models.vit import ViTConfig

TINY = ViTConfig(width=8, depth=8, num_heads=2, patch_size=4, activation="gelu_tanh", layer_scale=None)


def norm(x, p):
    return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6) * p["scale"] + p["bias"]


def linear(x, p):
    return x @ p["kernel"] + p["bias"]


def gelu_tanh(x):
    return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


def block(x, p, heads):
    qkv = linear(norm(x, p["norm1"]), p["attn"]["qkv"]).reshape(*x.shape[:2], 3, heads, -1)
    q, k, v = qkv.transpose(2, 0, 3, 1, 4)
    logits = q @ k.swapaxes(-1, -2) / np.sqrt(q.shape[-1])
    weights = np.exp(logits - logits.max(-1, keepdims=True))
    mixed = (weights / weights.sum(-1, keepdims=True) @ v).swapaxes(1, 2).reshape(x.shape)
    x = x + linear(mixed, p["attn"]["proj"])
    return x + linear(gelu_tanh(linear(norm(x, p["norm2"]), p["mlp"]["fc1"])), p["mlp"]["fc2"])


def test_features_equal_a_vit_in_numpy():
    rng = np.random.default_rng(0)
    graphdef, state = nnx.split(nnx.eval_shape(lambda: DinoTrunk(TINY, 12, rngs=nnx.Rngs(0))))
    params = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape) / 3, nnx.to_pure_dict(state))
    images = rng.uniform(-1, 1, (2, 12, 12, 3))

    vit = params["vit"]
    pixels = ((images + 1) / 2 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    patches = pixels.reshape(2, 3, 4, 3, 4, 3).transpose(0, 1, 3, 2, 4, 5).reshape(2, 9, 48)
    tokens = np.concatenate([np.broadcast_to(vit["cls_token"], (2, 1, 8)), linear(patches, vit["patch_embed"])], 1)
    tokens = tokens + vit["pos_embed"]
    expected = [tokens[:, 1:] + tokens[:, :1]]
    for i in range(8):
        tokens = block(tokens, jax.tree.map(lambda leaf, i=i: leaf[i], vit["transformer"]["blocks"]), 2)
        if i % 2:
            expected.append(tokens[:, 1:] + tokens[:, :1])

    params, images = jax.tree.map(np.float32, (params, images))
    features = jax.jit(lambda params: nnx.merge(graphdef, params)(images))(params)
    assert features.shape == (5, 2, 9, 8)
    np.testing.assert_allclose(features, np.stack(expected), rtol=1e-3, atol=1e-3)


def test_depth_must_divide_into_quarters():
    with pytest.raises(ValueError, match="depth is 6"):
        DinoTrunk(ViTConfig(width=8, depth=6, num_heads=2), 32, rngs=nnx.Rngs(0))
