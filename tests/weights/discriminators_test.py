import jax
import numpy as np
import pytest
from flax import nnx

from softvq_jax.models.dino_trunk import DinoTrunk
from softvq_jax.models.discriminators import DinoDiscriminator, PatchGAN
from softvq_jax.models.lpips import LPIPS
from softvq_jax.models.vit import ViTConfig
from softvq_jax.weights import dino, discriminators, layout
from softvq_jax.weights import lpips as lpips_weights

TINY = ViTConfig(width=8, depth=4, num_heads=2, patch_size=4, activation="gelu_tanh", layer_scale=None)
RNG = np.random.default_rng(0)


def shapes(make, variables=nnx.Param):
    return nnx.to_pure_dict(nnx.state(nnx.eval_shape(lambda: make(nnx.Rngs(0))), variables))


def filled(tree):
    return jax.tree.map(lambda leaf: RNG.standard_normal(leaf.shape, np.float32), tree)


def assert_equal(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


BUFFERS = nnx.Not(nnx.Param)
FAMILIES = {
    "dino": (lambda r: DinoTrunk(TINY, 8, rngs=r), nnx.Param, dino.dino_rules(TINY)),
    "heads": (lambda r: DinoDiscriminator(6, rngs=r), nnx.Param, discriminators.head_rules()),
    "head buffers": (lambda r: DinoDiscriminator(6, rngs=r), BUFFERS, discriminators.head_buffer_rules()),
    "patchgan": (lambda r: PatchGAN(4, 2, rngs=r), nnx.Param, discriminators.patchgan_rules(2)),
    "patchgan buffers": (lambda r: PatchGAN(4, 2, rngs=r), BUFFERS, discriminators.patchgan_buffer_rules(2)),
}


@pytest.mark.parametrize("family", FAMILIES)
def test_rules_work_in_both_directions(family):
    make, variables, rules = FAMILIES[family]
    params = filled(shapes(make, variables))
    tensors = layout.write(rules, params)
    assert_equal(layout.read(rules, tensors, params, source="test"), params)


def test_spectral_vector_belongs_to_its_kernel():
    """v lies along the flattened kernel in both layouts: u^T W v is the same number."""
    params = filled(shapes(FAMILIES["heads"][0]))
    buffers = filled(shapes(FAMILIES["heads"][0], BUFFERS))
    tensors = layout.write(discriminators.head_rules(), params) | layout.write(
        discriminators.head_buffer_rules(), buffers
    )
    key, ours = "heads.3.1.fn.0", lambda tree: tree["heads"]["circular"]["conv"]
    theirs = tensors[f"{key}.weight_u"] @ tensors[f"{key}.weight_orig"].reshape(6, -1) @ tensors[f"{key}.weight_v"]
    kernel, u, v = ours(params)["kernel"][3], ours(buffers)["u"][3], ours(buffers)["v"][3]
    np.testing.assert_allclose(np.einsum("o,kio,ki->", u, kernel, v), theirs, rtol=1e-5)


@pytest.fixture(scope="module")
def lpips():
    """The shapes that LPIPS expects, and tensors of which no two are equal."""
    expected = shapes(lambda r: LPIPS(rngs=r))
    leaves, tree = jax.tree.flatten(expected)
    params = jax.tree.unflatten(tree, [np.full(leaf.shape, i, np.float32) for i, leaf in enumerate(leaves)])
    return expected, layout.write(lpips_weights.lpips_rules(), params)


SLICES = {0: 1, 2: 1, 5: 2, 7: 2, 10: 3, 12: 3, 14: 3, 17: 4, 19: 4, 21: 4, 24: 5, 26: 5, 28: 5}


def _in_package(key):
    """Where the `lpips` package's whole model keeps a tensor."""
    if key.startswith("lin"):
        return key
    _, index, part = key.split(".")
    return f"net.slice{SLICES[int(index)]}.{index}.{part}"


def test_lpips_namings(lpips):
    expected, tensors = lpips
    assert {key.split(".")[1] for key in tensors if key.startswith("features")} == {str(i) for i in SLICES}
    bare = lpips_weights.read_lpips(tensors, expected, source="vgg16.pth and lpips.pth")
    torchvision = tensors | {"classifier.0.weight": np.zeros((2, 2)), "classifier.0.bias": np.zeros(2)}
    package = {_in_package(key): tensor for key, tensor in tensors.items()}
    package |= {f"lins.{k}.model.1.weight": tensors[f"lin{k}.model.1.weight"] for k in range(5)}
    package["scaling_layer.shift"] = np.zeros((1, 3, 1, 1))
    for named in (torchvision, package, {f"module.{key}": tensor for key, tensor in tensors.items()}):
        assert_equal(lpips_weights.read_lpips(named, expected, source="test"), bare)


def test_lpips_without_its_heads(lpips):
    expected, tensors = lpips
    trunk_only = {key: tensor for key, tensor in tensors.items() if key.startswith("features")}
    with pytest.raises(layout.WeightsError, match=r"vgg16\.safetensors has no tensor 'lin0\.model\.1\.weight'"):
        lpips_weights.read_lpips(trunk_only, expected, source="vgg16.safetensors")


@pytest.mark.parametrize("prefix", ["", "module.", "dino.", "module.backbone.", "model."])
def test_dino_namings_and_key_bias(prefix):
    expected = shapes(FAMILIES["dino"][0])
    params = filled(expected)
    tensors = layout.write(dino.dino_rules(TINY), params)
    named = {prefix + key: tensor for key, tensor in tensors.items()} | {"head.mlp.0.weight": np.zeros(3)}
    given = {key: tensor.copy() for key, tensor in named.items()}
    ours = dino.read_dino(named, expected, source="test", config=TINY)
    bias = ours["vit"]["transformer"]["blocks"]["attn"]["qkv"]["bias"]
    assert bias.shape == (4, 24) and not bias[:, 8:16].any()
    bias[:, 8:16] = params["vit"]["transformer"]["blocks"]["attn"]["qkv"]["bias"][:, 8:16]
    assert_equal(ours, params)
    assert_equal(named, given)  # the file's tensors are not written to


def test_dino_of_another_patch_size():
    expected = shapes(FAMILIES["dino"][0])
    tensors = layout.write(dino.dino_rules(TINY), filled(shapes(lambda r: DinoTrunk(TINY, 16, rngs=r))))
    with pytest.raises(layout.WeightsError, match=r"pos_embed.*\(1, 17, 8\).*\(1, 5, 8\)"):
        dino.read_dino(tensors, expected, source="test", config=TINY)
