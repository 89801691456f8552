"""HOG targets against loops over pixels in float64."""

import math

import jax
import numpy as np
import pytest

from softvq_jax.losses.hog import hog
from tests.parity import recipe

IMAGES = recipe.images(1, 32, 3).transpose(0, 2, 3, 1)


def by_loops(image):
    """`[N, 108]` of one image `[H, W, 3]`, as SPEC says it, pixel by pixel."""
    height, width, _ = image.shape
    reflect = lambda i, n: -i if i < 0 else 2 * (n - 1) - i if i >= n else i  # noqa: E731
    kernel = np.array([[1, 0, -1], [2, 0, -2], [1, 0, -1]])
    window = np.exp(-((np.arange(16) - 7.5) ** 2) / 128)
    window = np.outer(window, window) / window.sum() ** 2
    cells = np.zeros((height // 8, width // 8, 3, 9))
    for y in range(height):
        for x in range(width):
            rows = [reflect(y + d, height) for d in (-1, 0, 1)]
            columns = [reflect(x + d, width) for d in (-1, 0, 1)]
            for color in range(3):
                patch = image[np.ix_(rows, columns)][..., color].astype(np.float64)
                across, down = np.sum(patch * kernel), np.sum(patch * kernel.T)
                if x in (0, width - 1):
                    across = 0.0
                phase = math.floor(math.atan2(across, down) / math.pi * 9) % 9
                cells[y // 8, x // 8, color, phase] += math.hypot(across, down) * window[y % 16, x % 16]
    cells /= np.maximum(np.linalg.norm(cells, axis=-1, keepdims=True), 1e-12)
    patches = [cells[r : r + 2, c : c + 2] for r in range(0, height // 8, 2) for c in range(0, width // 8, 2)]
    return np.stack([patch.transpose(2, 3, 0, 1).reshape(-1) for patch in patches])


def test_equals_loops_over_pixels():
    ours = jax.jit(hog)(IMAGES)
    assert ours.shape == (1, 4, 108)
    np.testing.assert_allclose(ours[0], by_loops(IMAGES[0]), atol=2e-5)


def test_a_mirrored_image_votes_for_one_bin_at_its_border():
    """Across the first and last column the gradient is exactly 0, in either direction of the sum."""
    image = np.zeros((1, 16, 16, 3), np.float32) + np.linspace(-1, 1, 16, dtype=np.float32)[:, None, None] ** 3
    values = np.asarray(jax.jit(hog)(image)).reshape(3, 9, 4)
    # Brightness grows downwards: every pixel's direction is +-pi, which is bin 0.
    np.testing.assert_allclose(values[:, 0], 1.0, rtol=1e-6)
    assert not values[:, 1:].any()


def test_a_constant_image_has_no_direction():
    assert not np.asarray(jax.jit(hog)(np.full((1, 16, 16, 3), 0.3, np.float32))).any()


def test_refuses_other_sides():
    with pytest.raises(ValueError, match="images are 24 x 24; HOG targets need sides divisible by 16"):
        hog(np.zeros((1, 24, 24, 3), np.float32))
