import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from softvq_jax.models.lpips import LPIPS

VGG = [64, 64, "pool", 128, 128, "pool", 256, 256, 256, "pool", 512, 512, 512, "pool", 512, 512, 512]
TAPS = [1, 3, 6, 9, 12]  # convolutions after which features are read, counted from 0


def abstract(dtype=None):
    return nnx.split(nnx.eval_shape(lambda: LPIPS(dtype=dtype, rngs=nnx.Rngs(0))))


@pytest.fixture(scope="module")
def params():
    """Kernels that keep the activations' size, heads in [0, 1)."""
    rng = np.random.default_rng(1)

    def fill(leaf):
        if len(leaf.shape) == 4:
            return rng.standard_normal(leaf.shape, np.float32) * np.sqrt(2 / np.prod(leaf.shape[:3]), dtype=np.float32)
        return rng.random(leaf.shape, np.float32)

    return jax.tree.map(fill, nnx.to_pure_dict(abstract()[1]))


@jax.jit
def distances(params, a, b):
    return nnx.merge(abstract()[0], params)(a, b)


def images(seed, size=20, count=2):
    return np.tanh(np.random.default_rng(seed).normal(size=(count, size, size, 3))).astype(np.float32)


def convolve(x, kernel, bias):
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(1, 2))
    return np.einsum("bhwcij,ijco->bhwo", windows, kernel, optimize=True) + bias


def reference(params, a, b):
    """LPIPS in float64 numpy."""
    convs = [params[name] for name in sorted(params) if name.startswith("conv")]

    def features(x):
        x = (x - np.array([-0.030, -0.088, -0.188])) / np.array([0.458, 0.448, 0.450])
        taps, index = [], 0
        for layer in VGG:
            if layer == "pool":
                half = x.shape[1] // 2
                x = x[:, : 2 * half, : 2 * half].reshape(len(x), half, 2, half, 2, -1).max(axis=(2, 4))
                continue
            x = np.maximum(convolve(x, np.float64(convs[index]["kernel"]), np.float64(convs[index]["bias"])), 0)
            assert x.shape[-1] == layer
            if index in TAPS:
                taps.append(x / (np.sqrt((x**2).sum(-1, keepdims=True)) + 1e-10))
            index += 1
        return taps

    total = 0
    for stage, (x, y) in enumerate(zip(features(a), features(b), strict=True), 1):
        total += ((x - y) ** 2 @ np.float64(params[f"head{stage}"])).mean(axis=(1, 2))
    return total


@pytest.mark.parametrize("size", [16, 20])
def test_equals_numpy(params, size):
    a, b = images(2, size), images(3, size)
    np.testing.assert_allclose(distances(params, a, b), reference(params, a, b), rtol=1e-5)


def test_is_zero_for_equal_images_and_symmetric(params):
    a, b = images(4), images(5)
    np.testing.assert_allclose(distances(params, a, a), 0, atol=1e-12)
    np.testing.assert_allclose(distances(params, a, b), distances(params, b, a), rtol=1e-6)


def test_gradient_is_finite_where_all_features_are_zero(params):
    dead = params | {"conv1_2": {"kernel": np.zeros((3, 3, 64, 64), np.float32), "bias": -np.ones(64, np.float32)}}
    total = jax.value_and_grad(lambda b: distances(dead, images(6), b).sum())
    value, grad = total(images(7))
    assert np.isfinite(value)
    assert np.isfinite(grad).all()


def test_target_is_not_differentiated(params):
    """13 convolutions forward for each image, 13 backward for one of them and none for the weights."""
    model = nnx.merge(abstract()[0], params)
    jaxpr = jax.make_jaxpr(jax.grad(lambda b, a: model(a, b).sum()))(images(8), images(9))
    assert str(jaxpr).count("conv_general_dilated[") == 39


@pytest.mark.slow
def test_bfloat16_convolutions(params):
    coarse = nnx.merge(abstract(jnp.bfloat16)[0], params)
    low = jax.jit(lambda a, b: coarse(a, b))(images(10), images(11))
    assert low.dtype == jnp.float32
    np.testing.assert_allclose(low, distances(params, images(10), images(11)), rtol=2e-2)
