"""PyTorch's image resizing methods that JAX lacks, as linear maps: one small matrix for rows, one for columns."""

import jax
import jax.numpy as jnp
import numpy as np


def area_matrix(in_size: int, out_size: int) -> np.ndarray:
    """Returns the matrix `[out, in]` of PyTorch's "area": row `i` averages `floor(i*in/out) ... ceil((i+1)*in/out) - 1`."""
    matrix = np.zeros((out_size, in_size), np.float32)
    for i in range(out_size):
        start, stop = i * in_size // out_size, -(-(i + 1) * in_size // out_size)
        matrix[i, start:stop] = 1 / (stop - start)
    return matrix


def bicubic_matrix(in_size: int, out_size: int) -> np.ndarray:
    """Returns the matrix `[out, in]` of PyTorch's "bicubic" without antialiasing.

    It has a = -0.75, half-pixel centers and a clamped border.
    """
    centers = (np.arange(out_size) + 0.5) * in_size / out_size - 0.5
    taps = np.floor(centers).astype(int)[:, None] + np.arange(-1, 3)
    matrix = np.zeros((out_size, in_size))
    # Positions beyond the border are clamped to it, so an index can occur several times in a row; add.at sums them.
    np.add.at(matrix, (np.arange(out_size)[:, None], taps.clip(0, in_size - 1)), _cubic(centers[:, None] - taps))
    return matrix.astype(np.float32)


def _cubic(distance: np.ndarray, a: float = -0.75) -> np.ndarray:
    """Computes Keys' convolution kernel (Keys, 1981, equation 4, where a = -0.5)."""
    x = np.abs(distance)
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = a * (((x - 5) * x + 8) * x - 4)
    return np.where(x <= 1, near, np.where(x < 2, far, 0.0))


def area_resize(images: jax.Array, size: int) -> jax.Array:
    """Shrinks images by means over whole pixels: `[B, H, W, C] -> [B, size, size, C]`."""
    return _resample(images, *(area_matrix(side, size) for side in images.shape[1:3]))


def bicubic_resize(images: jax.Array, size: int) -> jax.Array:
    """Enlarges images bicubically, without antialiasing: `[B, H, W, C] -> [B, size, size, C]`."""
    return _resample(images, *(bicubic_matrix(side, size) for side in images.shape[1:3]))


def _resample(images, rows, columns):
    exact = jax.lax.Precision.HIGHEST
    images = jnp.einsum("oh,bhwc->bowc", rows, images, precision=exact)
    return jnp.einsum("pw,bowc->bopc", columns, images, precision=exact)
