"""DINOv2 in each of its namings is one and the same network."""

import functools

import jax
import numpy as np
import pytest

from softvq_jax.models.functional import functional
from softvq_jax.models.vit import ViT
from softvq_jax.weights import dinov2, layout
from softvq_jax.weights.layout import WeightsError
from softvq_jax.weights.vit import vit_config_of, vit_rules
from tests.parity import recipe

WIDTH, DEPTH, PATCH, GRID = 128, 3, 4, 4
IMAGES = recipe.images(2, PATCH * GRID).transpose(0, 2, 3, 1)
# DINOv2-g: two thirds of 4 times the width, rounded up to a multiple of 8; fc1 makes both halves.
SWIGLU_HIDDEN = (int(WIDTH * 4 * 2 / 3) + 7) // 8 * 8


def original(*, registers=0, swiglu=False):
    """Tensors in the original naming."""
    shapes = {
        "cls_token": (1, 1, WIDTH),
        "pos_embed": (1, 1 + GRID**2, WIDTH),
        "mask_token": (1, WIDTH),
        "patch_embed.proj.weight": (WIDTH, 3, PATCH, PATCH),
        "patch_embed.proj.bias": (WIDTH,),
        "norm.weight": (WIDTH,),
        "norm.bias": (WIDTH,),
    }
    if registers:
        shapes["register_tokens"] = (1, registers, WIDTH)
    outer, inner = (2 * SWIGLU_HIDDEN, SWIGLU_HIDDEN) if swiglu else (4 * WIDTH, 4 * WIDTH)
    linears = {"attn.qkv": (3 * WIDTH, WIDTH), "attn.proj": (WIDTH, WIDTH)}
    linears |= {"mlp.w12" if swiglu else "mlp.fc1": (outer, WIDTH), "mlp.w3" if swiglu else "mlp.fc2": (WIDTH, inner)}
    for i in range(DEPTH):
        for name, shape in linears.items():
            shapes |= {f"blocks.{i}.{name}.weight": shape, f"blocks.{i}.{name}.bias": shape[:1]}
        for name in ("norm1.weight", "norm1.bias", "norm2.weight", "norm2.bias", "ls1.gamma", "ls2.gamma"):
            shapes[f"blocks.{i}.{name}"] = (WIDTH,)
    return recipe.state_dict({"shapes": shapes, "seed": 0})


def chunked(tensors):
    """The original's largest models: `blocks.CHUNK.INDEX`, the index counting through."""
    chunks = {"0": "0.0", "1": "0.1", "2": "1.2"}

    def name(key):
        if not key.startswith("blocks."):
            return key
        _, index, rest = key.split(".", 2)
        return f"blocks.{chunks[index]}.{rest}"

    return {name(key): tensor for key, tensor in tensors.items()}


def timm(tensors):
    """timm: the class position added to the class token, none left for registers; gated MLPs are fc1 and fc2 too."""
    renames = {"register_tokens": "reg_token", "mlp.w12": "mlp.fc1", "mlp.w3": "mlp.fc2"}
    named = {}
    for key, tensor in tensors.items():
        for theirs, ours in renames.items():
            key = key.replace(theirs, ours)
        named[key] = tensor
    if "reg_token" in named:
        named["cls_token"] = tensors["cls_token"] + tensors["pos_embed"][:, :1]
        named["pos_embed"] = tensors["pos_embed"][:, 1:]
    del named["mask_token"]
    return named


EMBEDDINGS = {
    "cls_token": "embeddings.cls_token",
    "register_tokens": "embeddings.register_tokens",
    "mask_token": "embeddings.mask_token",
    "pos_embed": "embeddings.position_embeddings",
    "patch_embed.proj": "embeddings.patch_embeddings.projection",
    "norm": "layernorm",
}
BLOCKS = {
    "norm1": "norm1",
    "norm2": "norm2",
    "mlp.fc1": "mlp.fc1",
    "mlp.fc2": "mlp.fc2",
    "mlp.w12": "mlp.weights_in",
    "mlp.w3": "mlp.weights_out",
    "ls1.gamma": "layer_scale1.lambda1",
    "ls2.gamma": "layer_scale2.lambda1",
}
OLD = {"q": "attention.attention.query", "k": "attention.attention.key", "v": "attention.attention.value"}
NEW = {"q": "attention.q_proj", "k": "attention.k_proj", "v": "attention.v_proj"}


def hugging_face(tensors, *, attention, proj, prefix=""):
    """Hugging Face: separate q, k and v."""
    named = {}
    for key, tensor in tensors.items():
        whole, _, kind = key.rpartition(".")
        if not key.startswith("blocks."):
            ours = EMBEDDINGS[key] if key in EMBEDDINGS else f"{EMBEDDINGS[whole]}.{kind}"
            named[prefix + ours] = tensor
            continue
        _, index, name = key.split(".", 2)
        layer, (module, _, kind) = f"{prefix}encoder.layer.{index}", name.rpartition(".")
        if module == "attn.qkv":
            parts = np.split(tensor, 3)
            named |= {f"{layer}.{attention[n]}.{kind}": part for n, part in zip("qkv", parts, strict=True)}
        elif module == "attn.proj":
            named[f"{layer}.{proj}.{kind}"] = tensor
        else:
            named[f"{layer}.{BLOCKS[name]}" if name in BLOCKS else f"{layer}.{BLOCKS[module]}.{kind}"] = tensor
    return named


old_hugging_face = functools.partial(hugging_face, attention=OLD, proj="attention.output.dense")
NAMINGS = {
    "chunked": chunked,
    "wrapped": lambda tensors: {f"module.backbone.{key}": tensor for key, tensor in tensors.items()},
    "timm": timm,
    "old hugging face": old_hugging_face,
    "old hugging face in a model": functools.partial(old_hugging_face, prefix="dinov2_with_registers."),
    "new hugging face": functools.partial(hugging_face, attention=NEW, proj="attention.o_proj", prefix="model."),
}
KINDS = {"plain": {}, "registers": {"registers": 4}, "giant": {"registers": 4, "swiglu": True}}


@functools.cache
def network(config, size=PATCH * GRID):
    net = functional(ViT, config, size)
    return net, jax.jit(lambda params, images: net(params)(images))


def features(tensors):
    """All tokens that the network of these tensors makes of the images."""
    canonical = dinov2.canonical(tensors, "test")
    config = vit_config_of(canonical, patch_size=PATCH)
    net, run = network(config)
    return config, run(layout.read(vit_rules(config), canonical, net.shapes, source="test"), IMAGES)


@pytest.mark.parametrize("kind", KINDS)
def test_all_namings_are_one_network(kind):
    tensors = original(**KINDS[kind])
    config, expected = features(tensors)
    assert (config.width, config.depth, config.num_heads) == (WIDTH, DEPTH, WIDTH // 64)
    assert config.num_registers == KINDS[kind].get("registers", 0)
    assert config.activation == ("swiglu" if kind == "giant" else "gelu")
    assert expected.shape == (2, 1 + config.num_registers + GRID**2, WIDTH)
    for name, rename in NAMINGS.items():
        again, tokens = features(rename(tensors))
        assert again == config, name
        np.testing.assert_allclose(tokens, expected, rtol=1e-6, atol=1e-6, err_msg=name)


def test_gated_mlp():
    """`w3(silu(a) * b)` with `[a, b] = w12(x)`, in float64."""
    tensors = original(swiglu=True)
    canonical = dinov2.canonical(tensors, "test")
    config = vit_config_of(canonical, patch_size=PATCH)
    net, _ = network(config)
    params = layout.read(vit_rules(config), canonical, net.shapes, source="test")
    w = {key: np.float64(tensors[f"blocks.0.mlp.{key}"]) for key in ("w12.weight", "w12.bias", "w3.weight", "w3.bias")}
    x = np.random.default_rng(0).standard_normal((5, WIDTH))
    a, b = np.split(x @ w["w12.weight"].T + w["w12.bias"], 2, axis=-1)
    expected = (a / (1 + np.exp(-a)) * b) @ w["w3.weight"].T + w["w3.bias"]
    first = jax.jit(lambda params, x: jax.tree.map(lambda leaf: leaf[0], net(params).transformer.blocks.mlp)(x))
    with jax.default_matmul_precision("highest"):
        np.testing.assert_allclose(first(params, np.float32(x)), expected, rtol=1e-4, atol=1e-4)


def test_timm_keeps_positions_for_patches_only():
    tensors = timm(original(registers=4))
    assert tensors["pos_embed"].shape[1] == GRID**2
    positions = dinov2.canonical(tensors, "test")["pos_embed"]
    assert not positions[:, 0].any()
    np.testing.assert_array_equal(positions[:, 1:], tensors["pos_embed"])


def test_resampled_to_another_patch_and_size():
    canonical = dinov2.canonical(original(), "test")
    moved = dinov2.resampled(canonical, patch_size=5, image_size=30)
    assert moved["pos_embed"].shape == (1, 1 + 36, WIDTH) and moved["patch_embed.proj.weight"].shape == (WIDTH, 3, 5, 5)
    assert {key for key in moved if moved[key] is not canonical[key]} == {"pos_embed", "patch_embed.proj.weight"}
    theirs = dinov2.resampled(canonical, patch_size=5, image_size=30, positions="hf")
    assert np.abs(theirs["pos_embed"] - moved["pos_embed"]).max() > 1e-2
    same = dinov2.resampled(canonical, patch_size=PATCH, image_size=PATCH * GRID)
    for key, tensor in canonical.items():
        np.testing.assert_array_equal(same[key], tensor)


@pytest.mark.parametrize("missing", ["cls_token", "patch_embed.proj.weight", "blocks.0.mlp.fc1.weight"])
def test_other_weights_are_refused(missing):
    tensors = original()
    del tensors[missing]
    with pytest.raises(
        WeightsError, match=f"some.pth has no '{missing}' in any known naming: not the weights of a DINOv2"
    ):
        dinov2.canonical(tensors, "some.pth")
