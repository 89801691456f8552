"""Attention: every implementation against a float64 reference, and which one each platform gets."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from softvq_jax.models import attention, attention_tpu
from softvq_jax.parallel.mesh import make_mesh

# 65 tokens are SiT's and a class, 321 the tokenizers' at 256 pixels, 785 DINO's with patches of 8, 1,088 some at 512.
LENGTHS = (65, *(pytest.param(length, marks=pytest.mark.slow) for length in (321, 785, 1088)))
TOLERANCES = [(jnp.float32, 5e-6), (jnp.bfloat16, 1.5e-2)]


def reference(qkv, cotangent, num_heads):
    """Attention and the cotangent of `qkv` in float64, one head of one image at a time."""
    batch, length, width = cotangent.shape
    qkv, cotangent = (np.asarray(x, np.float64) for x in (qkv, cotangent))
    shape = (batch, length, num_heads, width // num_heads)
    out, gradient = np.empty(shape), np.empty((batch, length, 3, *shape[2:]))
    heads, d_out = qkv.reshape(gradient.shape), cotangent.reshape(shape)
    scale = shape[-1] ** -0.5
    for image in range(batch):
        for head in range(num_heads):
            q, k, v = heads[image, :, :, head].transpose(1, 0, 2)
            logits = scale * q @ k.T
            weights = np.exp(logits - logits.max(-1, keepdims=True))
            weights /= weights.sum(-1, keepdims=True)
            g = d_out[image, :, head]
            out[image, :, head] = weights @ v
            d_weights = g @ v.T
            d_logits = weights * (d_weights - (weights * d_weights).sum(-1, keepdims=True))
            parts = (scale * d_logits @ k, scale * d_logits.T @ q, weights.T @ g)
            gradient[image, :, :, head] = np.stack(parts, axis=1)
    return out.reshape(cotangent.shape), gradient.reshape(qkv.shape)


def inputs(length, dtype=jnp.float32, batch=2, num_heads=2, head=64):
    """`qkv` whose logits differ by several units, and a cotangent."""
    keys = jax.random.split(jax.random.key(length))
    width = num_heads * head
    qkv = 1.5 * jax.random.normal(keys[0], (batch, length, 3 * width))
    return qkv.astype(dtype), jax.random.normal(keys[1], (batch, length, width)).astype(dtype)


def assert_close(found, expected, tolerance):
    error = np.asarray(found, np.float64) - expected
    assert np.sqrt(np.mean(error**2)) <= tolerance * np.sqrt(np.mean(expected**2))
    assert np.max(np.abs(error)) <= 10 * tolerance * np.max(np.abs(expected))


def test_the_reference_has_the_gradient_of_its_values():
    qkv, cotangent = (np.asarray(x, np.float64) for x in inputs(17, batch=1, head=4))
    direction = np.random.default_rng(0).standard_normal(qkv.shape)
    values = [np.sum(cotangent * reference(qkv + step * direction, cotangent, 2)[0]) for step in (1e-5, -1e-5)]
    slope = np.sum(direction * reference(qkv, cotangent, 2)[1])
    np.testing.assert_allclose((values[0] - values[1]) / 2e-5, slope, rtol=1e-7)


@pytest.mark.parametrize(("dtype", "tolerance"), TOLERANCES)
@pytest.mark.parametrize("length", LENGTHS)
def test_values_and_gradients_on_this_platform_are_those_of_the_reference(length, dtype, tolerance):
    qkv, cotangent = inputs(length, dtype)
    out, pullback = jax.vjp(jax.jit(lambda qkv: attention.attention(qkv, 2)), qkv)
    (gradient,) = pullback(cotangent)
    assert out.dtype == gradient.dtype == dtype
    expected, expected_gradient = reference(qkv, cotangent, 2)
    assert_close(out, expected, tolerance)
    assert_close(gradient, expected_gradient, tolerance)


@pytest.mark.parametrize(("dtype", "tolerance"), TOLERANCES)
def test_xla_values_and_gradients_are_those_of_the_reference(dtype, tolerance):
    qkv, cotangent = inputs(65, dtype)
    expected, expected_gradient = reference(qkv, cotangent, 2)
    forward, backward = attention.implementations(qkv, 2)["default"]
    assert_close(forward(qkv, 2), expected, tolerance)
    assert_close(backward(qkv, cotangent, 2), expected_gradient, tolerance)


@pytest.mark.parametrize(("dtype", "tolerance"), TOLERANCES)
@pytest.mark.parametrize("length", LENGTHS)
def test_the_interpreted_kernel_gives_the_reference(length, dtype, tolerance):
    qkv, cotangent = inputs(length, dtype)
    expected, expected_gradient = reference(qkv, cotangent, 2)
    interpret = functools.partial(jax.jit, static_argnames=("num_heads", "interpret"))
    assert_close(interpret(attention_tpu.forward)(qkv, num_heads=2, interpret=True), expected, tolerance)
    gradient = interpret(attention_tpu.backward)(qkv, cotangent, num_heads=2, interpret=True)
    assert_close(gradient, expected_gradient, tolerance)


@pytest.mark.slow
@pytest.mark.parametrize(("num_heads", "head"), [(4, 32), (4, 64), (2, 128), (2, 256)])
def test_the_interpreted_kernel_takes_heads_of_many_widths(num_heads, head):
    assert attention_tpu.supports(num_heads * head, num_heads)
    qkv, cotangent = inputs(33, batch=1, num_heads=num_heads, head=head)
    expected, expected_gradient = reference(qkv, cotangent, num_heads)
    assert_close(attention_tpu.forward(qkv, num_heads, interpret=True), expected, 5e-6)
    assert_close(attention_tpu.backward(qkv, cotangent, num_heads, interpret=True), expected_gradient, 5e-6)


@pytest.mark.parametrize("width", [1152, 192])  # 16 heads of 72 (SiT-XL), and 3 of 64
def test_the_kernel_does_not_take_heads_that_do_not_fill_blocks(width):
    assert not attention_tpu.supports(width, 16 if width == 1152 else 3)


def lowered(platform, length, dtype=jnp.bfloat16, batch=2, num_heads=2, mesh=None):
    """The program of the value and the gradient for a platform, as text."""
    qkv = jax.ShapeDtypeStruct((batch, length, 3 * 64 * num_heads), dtype)
    function = jax.value_and_grad(lambda qkv: jnp.sum(attention.attention(qkv, num_heads).astype(jnp.float32)))
    with jax.set_mesh(mesh or make_mesh(devices=jax.devices()[:1])):
        return jax.jit(function).trace(qkv).lower(lowering_platforms=(platform,)).as_text()


def test_tpus_get_the_kernel_from_a_length_on():
    assert lowered("tpu", attention.PALLAS_LENGTH).count("tpu_custom_call") == 2
    assert "tpu_custom_call" not in lowered("tpu", attention.PALLAS_LENGTH - 1)
    assert "tpu_custom_call" not in lowered("tpu", attention.PALLAS_LENGTH, num_heads=3)
    assert "custom_call" not in lowered("cpu", attention.PALLAS_LENGTH).replace("custom_call @Sharding", "")


@pytest.fixture
def cuda(monkeypatch):
    """A process with an H100, as far as tracing and lowering can tell."""
    from jax._src.cudnn import fused_attention_stablehlo

    monkeypatch.setattr(attention, "_cuda_capabilities", lambda: [9.0])
    monkeypatch.setattr(fused_attention_stablehlo, "check_cudnn_version", lambda: 91100)


@pytest.mark.usefixtures("cuda")
def test_gpus_get_cudnn_for_16_bit_types():
    text = lowered("cuda", 321)
    assert "__cudnn$fmhaSoftmax(" in text and "__cudnn$fmhaSoftmaxBackward(" in text
    assert "__cudnn" in lowered("cuda", 321, jnp.float16)
    assert "__cudnn" not in lowered("cuda", 321, jnp.float32)
    assert "__cudnn" not in lowered("cpu", 321) + lowered("tpu", 321)


@pytest.mark.usefixtures("cuda")
def test_gpus_get_xla_where_a_head_is_too_wide_or_a_device_too_old(monkeypatch):
    qkv = jnp.zeros((1, 8, 3 * 256), jnp.bfloat16)
    assert "cuda" in attention.implementations(qkv, 2) and "cuda" not in attention.implementations(qkv, 1)
    monkeypatch.setattr(attention, "_cuda_capabilities", lambda: [9.0, 7.5])
    assert "cuda" not in attention.implementations(qkv, 2)


def test_without_a_gpu_cudnn_is_not_traced():
    if jax.default_backend() == "gpu":
        pytest.skip("there is a GPU")
    assert attention._cuda_capabilities() == []
    assert "__cudnn" not in lowered("cuda", 321)


def test_an_image_does_not_depend_on_the_others():
    qkv, _ = inputs(65, batch=3)
    together = attention.attention(qkv, 2)
    for image in range(3):
        np.testing.assert_allclose(attention.attention(qkv[image : image + 1], 2)[0], together[image], atol=1e-5)


def test_attention_in_shard_map():
    """All platforms' branches have results that vary over the mesh; a mesh of one device shows it."""
    qkv = jax.random.normal(jax.random.key(0), (2, 5, 24))
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:1]), ("data",))
    spec = jax.sharding.PartitionSpec("data")
    per_device = jax.shard_map(lambda qkv: attention.attention(qkv, 2), mesh=mesh, in_specs=spec, out_specs=spec)
    value, gradient = jax.jit(jax.value_and_grad(lambda qkv: jnp.sum(per_device(qkv) ** 2)))(qkv)
    expected = jax.value_and_grad(lambda qkv: jnp.sum(attention.attention(qkv, 2) ** 2))(qkv)
    np.testing.assert_allclose(value, expected[0], rtol=1e-6)
    np.testing.assert_allclose(gradient, expected[1], rtol=1e-5, atol=1e-6)
