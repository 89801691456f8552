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
