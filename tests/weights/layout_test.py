"""Layouts against PyTorch's computations, and reading and writing by rules."""

import jax
import numpy as np
import pytest

from softvq_jax.models.vit import patchify
from softvq_jax.weights import layout
from softvq_jax.weights.layout import Rule, WeightsError

RNG = np.random.default_rng(0)


def normal(*shape):
    return RNG.standard_normal(shape, np.float32)


def convolved(x, kernel):
    """PyTorch's convolution without padding, `[C, *spatial]` with `[O, C, *window]`, one position at a time."""
    window = kernel.shape[2:]
    out = np.zeros((kernel.shape[0], *(n - k + 1 for n, k in zip(x.shape[1:], window, strict=True))))
    for place in np.ndindex(out.shape[1:]):
        part = x[(slice(None), *(slice(i, i + k) for i, k in zip(place, window, strict=True)))]
        out[(slice(None), *place)] = (kernel * part).reshape(len(kernel), -1).sum(-1)
    return out


LAYOUTS = {
    "same": (layout.SAME, (3, 4)),
    "linear": (layout.LINEAR, (3, 4)),
    "conv1d": (layout.CONV1D, (4, 3, 5)),
    "conv2d": (layout.CONV2D, (4, 3, 5, 2)),
    "conv1x1": (layout.CONV1X1, (4, 3, 1, 1)),
    "patch": (layout.PATCH, (4, 3, 2, 2)),
    "leading one": (layout.LEADING_ONE, (1, 4, 3)),
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_round_trip(name):
    kind, shape = LAYOUTS[name]
    theirs = normal(*shape)
    np.testing.assert_array_equal(kind.to_torch(kind.to_ours(theirs)), theirs)


def test_linear_is_a_product_from_the_left():
    weight, x = normal(3, 4), normal(4)
    np.testing.assert_allclose(x @ layout.LINEAR.to_ours(weight), weight @ x, rtol=1e-5)


@pytest.mark.parametrize(("kind", "spatial"), [(layout.CONV1D, (7,)), (layout.CONV2D, (6, 5))])
def test_convolutions(kind, spatial):
    kernel, x = normal(4, 3, *(3, 2)[: len(spatial)]), normal(3, *spatial)
    names = ("NWC", "WIO", "NWC") if len(spatial) == 1 else ("NHWC", "HWIO", "NHWC")
    ours = jax.lax.conv_general_dilated(
        np.moveaxis(x, 0, -1)[None], kind.to_ours(kernel), (1,) * len(spatial), "VALID", dimension_numbers=names
    )
    np.testing.assert_allclose(np.moveaxis(ours[0], -1, 0), convolved(x, kernel), atol=1e-4)


def test_patch_embedding_is_a_strided_convolution():
    kernel, image = normal(4, 3, 2, 2), normal(3, 6, 6)
    expected = convolved(image, kernel)[:, ::2, ::2].reshape(4, 9).T
    ours = patchify(image.transpose(1, 2, 0)[None], 2)[0] @ layout.PATCH.to_ours(kernel)
    np.testing.assert_allclose(ours, expected, atol=1e-4)


RULES = [
    *layout.linear("blocks/fc", "layer.{i}.fc", 2),
    *layout.norm("norm", "ln"),
    *layout.linear("head", "head", bias=False),
    Rule("token", "token", layout.LEADING_ONE),
]
PARAMS = {
    "blocks": {"fc": {"kernel": normal(2, 3, 4), "bias": normal(2, 4)}},
    "norm": {"scale": normal(4), "bias": normal(4)},
    "head": {"kernel": normal(4, 5)},
    "token": normal(1, 4),
}


def test_write_names_everything_as_pytorch_does():
    tensors = layout.write(RULES, PARAMS)
    assert {key: tensor.shape for key, tensor in tensors.items()} == {
        "layer.0.fc.weight": (4, 3),
        "layer.0.fc.bias": (4,),
        "layer.1.fc.weight": (4, 3),
        "layer.1.fc.bias": (4,),
        "ln.weight": (4,),
        "ln.bias": (4,),
        "head.weight": (5, 4),
        "token": (1, 1, 4),
    }
    np.testing.assert_array_equal(tensors["layer.1.fc.weight"], PARAMS["blocks"]["fc"]["kernel"][1].T)
    assert all(tensor.flags.c_contiguous for tensor in tensors.values())


def test_read_is_the_inverse_and_leaves_other_keys_alone():
    tensors = layout.write(RULES, PARAMS) | {"ema.decay": np.float32(0.9)}
    jax.tree.map(np.testing.assert_array_equal, layout.read(RULES, tensors, PARAMS, source="test"), PARAMS)


def test_missing_tensor():
    tensors = layout.write(RULES, PARAMS)
    del tensors["layer.1.fc.weight"], tensors["ln.bias"]
    message = r"a\.safetensors has no tensor 'layer\.1\.fc\.weight'.*\(3, 4\) \(blocks/fc/kernel\)"
    with pytest.raises(WeightsError, match=message):
        layout.read(RULES, tensors, PARAMS, source="a.safetensors")


def test_tensor_of_another_shape():
    """The first key that does not fit, and both shapes as PyTorch has them."""
    tensors = layout.write(RULES, PARAMS)
    tensors |= {"layer.1.fc.bias": normal(7), "ln.weight": normal(7)}
    message = r"a\.safetensors: 'layer\.1\.fc\.bias' has shape \(7,\), but this network's is \(4,\) \(blocks/fc/bias\)"
    with pytest.raises(WeightsError, match=message):
        layout.read(RULES, tensors, PARAMS, source="a.safetensors")


def test_incomplete_rules_are_an_error():
    with pytest.raises(AssertionError, match=r"no rule fills \['token'\]"):
        layout.read(RULES[:-1], layout.write(RULES, PARAMS), PARAMS, source="test")


@pytest.mark.parametrize("count", [None, 2])
def test_joined_tensors(count):
    """Queries and keys are one leaf here and two tensors there, for instance."""
    index, parts = ("" if count is None else "{i}."), ("q", "k")
    rules = [Rule("qk", f"{index}{{part}}.weight", layout.LINEAR, count, joined=parts)]
    params = {"qk": normal(*([] if count is None else [count]), 4, 6)}
    tensors = layout.write(rules, params)
    if count is None:
        assert list(tensors) == ["q.weight", "k.weight"]
        np.testing.assert_array_equal(tensors["k.weight"], params["qk"][:, 3:].T)
    else:
        assert list(tensors) == ["0.q.weight", "0.k.weight", "1.q.weight", "1.k.weight"]
        np.testing.assert_array_equal(tensors["1.q.weight"], params["qk"][1, :, :3].T)
    np.testing.assert_array_equal(layout.read(rules, tensors, params, source="test")["qk"], params["qk"])
    tensors[next(iter(tensors))] = normal(2, 4)
    with pytest.raises(WeightsError, match=r"has shape \(2, 4\), but this network's is \(3, 4\)"):
        layout.read(rules, tensors, params, source="test")


@pytest.mark.parametrize(
    ("tensor", "message"),
    [
        (np.ones((4, 3), np.int8), r"'layer\.1\.fc\.weight' is int8, quantized; expected float32"),
        (np.ones((4, 3), bool), r"is bool, quantized; expected float32"),
        (np.ones((4, 3), np.complex64), r"is complex64, quantized; expected float32"),
        (np.full((4, 3), np.nan, np.float32), r"12 of the 12 values of 'layer\.1\.fc\.weight' are NaN or infinite"),
        (np.float32([[1, 2, np.inf]] * 4), r"4 of the 12 values of"),
    ],
)
def test_tensors_that_hold_no_parameters(tensor, message):
    tensors = layout.write(RULES, PARAMS) | {"layer.1.fc.weight": tensor}
    with pytest.raises(WeightsError, match=rf"a\.safetensors: .*{message}"):
        layout.read(RULES, tensors, PARAMS, source="a.safetensors")


def test_scales_of_a_quantized_tensor():
    tensors = layout.write(RULES, PARAMS) | {"head.weight_scale": np.float32(3)}
    with pytest.raises(WeightsError, match=r"'head\.weight' is float32, quantized; .*without scales"):
        layout.read(RULES, tensors, PARAMS, source="a.safetensors")


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float8_e4m3fn", "float8_e5m2", "float64"])
def test_all_floats_become_float32(dtype):
    tensors = {key: tensor.astype(dtype) for key, tensor in layout.write(RULES, PARAMS).items()}
    params = layout.read(RULES, tensors, PARAMS, source="test")
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {np.dtype(np.float32)}
    np.testing.assert_array_equal(params["norm"]["scale"], np.float32(tensors["ln.weight"]))


def test_first_half():
    """Of a tensor with twice the rows; the rest comes back with `unused_rows`."""
    rules = [Rule("out", "out", layout.LINEAR, first_half=True)]
    tensor = normal(10, 4)
    params = layout.read(rules, {"out": tensor}, {"out": np.zeros((4, 5))}, source="test")
    np.testing.assert_array_equal(params["out"], tensor[:5].T)
    rest = layout.unused_rows(rules, {"out": tensor}, params)
    np.testing.assert_array_equal(np.concatenate([layout.write(rules, params)["out"], rest["out"]]), tensor)
    assert not layout.unused_rows(rules, {"out": tensor[:5]}, params)
    with pytest.raises(WeightsError, match=r"has shape \(9, 4\)"):
        layout.read(rules, {"out": tensor[:9]}, {"out": np.zeros((4, 5))}, source="test")


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["blocks.0.w", "blocks.999999999.w"], r"there is 'blocks\.999999999\.w', but no tensor of block 1"),
        (["blocks.0.w", "blocks.x.w"], r"'blocks\.x\.w' should have the number of a block in place of 'x'"),
        (["blocks.1.w"], r"there is 'blocks\.1\.w', but no tensor of block 0"),
        (["blocks.-1.w"], "should have the number of a block"),
        (["other"], "no tensor of block 0"),
    ],
)
def test_blocks_that_cannot_be_counted(names, message):
    with pytest.raises(WeightsError, match=message):
        layout.count_blocks(names, "blocks.")


def test_count_blocks():
    assert layout.count_blocks(["blocks.1.w", "blocks.0.w", "blocks.0.b", "norm.w"], "blocks.") == 2


def test_blocks_and_registers_are_not_left_out():
    layout.check_unused(["head.weight", "mask_token", "blocks.0.w"], {"blocks.0.w"}, source="a.pth")
    for name in ("blocks.1.w", "encoder.model.blocks.0.ls1.gamma", "register_tokens", "encoder.model.reg_token"):
        with pytest.raises(WeightsError, match=rf"a\.pth has '{name}', which this network does not use"):
            layout.check_unused([name], {"blocks.0.w"}, source="a.pth")
