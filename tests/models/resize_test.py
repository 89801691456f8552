import jax
import numpy as np
import pytest

from softvq_jax.models.resize import area_matrix, area_resize, bicubic_matrix, bicubic_resize

RNG = np.random.default_rng(0)


def pooled(x, size):
    """Means over PyTorch's windows, one output pixel at a time."""
    out = np.zeros((x.shape[0], size, size, x.shape[3]))
    spans = [(int(np.floor(i * x.shape[1] / size)), int(np.ceil((i + 1) * x.shape[1] / size))) for i in range(size)]
    for i, (top, bottom) in enumerate(spans):
        for j, (left, right) in enumerate(spans):
            out[:, i, j] = x[:, top:bottom, left:right].mean(axis=(1, 2))
    return out


def bicubic_1d(x, size):
    """The four weights as polynomials of the fraction t, with a = -0.75; `x` is a vector."""
    a, out = -0.75, np.zeros(size)
    for i in range(size):
        place = (i + 0.5) * len(x) / size - 0.5
        k, t = int(np.floor(place)), place - np.floor(place)
        weights = [
            a * (t**3 - 2 * t**2 + t),
            (a + 2) * t**3 - (a + 3) * t**2 + 1,
            -(a + 2) * t**3 + (2 * a + 3) * t**2 - a * t,
            a * (t**2 - t**3),
        ]
        out[i] = sum(w * x[min(max(k - 1 + n, 0), len(x) - 1)] for n, w in enumerate(weights))
    return out


@pytest.mark.parametrize(("side", "size"), [(12, 7), (16, 14), (12, 4), (9, 9), (300, 224)])
def test_area_is_the_mean_over_whole_windows(side, size):
    x = RNG.normal(size=(2, side, side, 3) if side < 100 else (1, side, side, 1)).astype(np.float32)
    np.testing.assert_allclose(area_resize(x, size), pooled(x, size), atol=1e-6)


@pytest.mark.parametrize(("side", "size"), [(5, 9), (7, 14), (10, 14), (2, 6), (14, 14), (16, 6)])
def test_bicubic_along_each_axis(side, size):
    x = RNG.normal(size=(2, side, side, 3)).astype(np.float32)
    expected = np.apply_along_axis(bicubic_1d, 2, np.apply_along_axis(bicubic_1d, 1, x, size), size)
    np.testing.assert_allclose(bicubic_resize(x, size), expected, atol=1e-5)


def test_constants_are_kept():
    np.testing.assert_allclose(area_matrix(300, 224).sum(1), 1, rtol=1e-6)
    np.testing.assert_allclose(bicubic_matrix(160, 224).sum(1), 1, rtol=1e-6)


def test_gradient_of_area_is_distributed_over_the_window():
    grad = jax.grad(lambda x: area_resize(x, 4)[0, 1, 2, 0])(np.zeros((1, 8, 8, 1), np.float32))
    expected = np.zeros((8, 8))
    expected[2:4, 4:6] = 0.25
    np.testing.assert_allclose(grad[0, :, :, 0], expected, atol=1e-7)
