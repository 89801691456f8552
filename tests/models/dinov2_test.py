"""Moving DINOv2 to another patch and image size, against Pillow's resize and the defining properties."""

import jax
import numpy as np
import pytest
from PIL import Image

from softvq_jax.models import dinov2
from softvq_jax.models.functional import functional
from softvq_jax.models.resize import bicubic_matrix
from softvq_jax.models.vit import ViT, ViTConfig

RNG = np.random.default_rng(0)


def pillow_resize(image, size):
    """Bicubic with a = -0.5 and antialiasing, as Pillow does it; `[n, n]`."""
    return np.asarray(Image.fromarray(np.float32(image)).resize((size, size), Image.Resampling.BICUBIC))


@pytest.mark.parametrize(("side", "grid"), [(37, 16), (37, 32), (8, 12), (5, 5)])
def test_positions(side, grid):
    positions = RNG.standard_normal((1 + side**2, 3), np.float32)
    resampled = dinov2.resample_positions(positions, grid)
    np.testing.assert_array_equal(resampled[0], positions[0])
    for channel in range(3):
        expected = pillow_resize(positions[1:, channel].reshape(side, side), grid)
        np.testing.assert_allclose(resampled[1:, channel], expected.reshape(-1), atol=2e-6)


@pytest.mark.parametrize(("side", "grid"), [(37, 16), (6, 9)])
def test_positions_as_hugging_face_does(side, grid):
    """Not antialiased: one 2-D map, the product of the two 1-D ones."""
    positions = RNG.standard_normal((1 + side**2, 3), np.float32)
    resampled = dinov2.interpolate_positions_hf(positions, grid)
    np.testing.assert_array_equal(resampled[0], positions[0])
    matrix = np.float64(bicubic_matrix(side, grid))
    np.testing.assert_allclose(resampled[1:], np.kron(matrix, matrix) @ positions[1:], atol=1e-5)
    if grid < side:
        assert np.abs(resampled - dinov2.resample_positions(positions, grid)).max() > 0.1


def test_positions_that_are_not_a_square():
    with pytest.raises(ValueError, match="there are 18 positions; expected 1 for the class token plus a square number"):
        dinov2.resample_positions(np.zeros((18, 3), np.float32), 2)


@pytest.mark.parametrize(("old", "new"), [(14, 16), (7, 8)])
def test_larger_patch_kernel_embeds_an_enlarged_patch_equally(old, new):
    """FlexiViT's condition: the embedding of a patch does not change when patch and kernel are resized together."""
    kernel, patch = RNG.standard_normal((4, 3, old, old), np.float32), RNG.standard_normal((3, old, old), np.float32)
    resampled = dinov2.resample_patch_kernel(kernel, new)
    assert resampled.shape == (4, 3, new, new)
    enlarged = np.stack([pillow_resize(channel, new) for channel in patch])
    before, after = (np.einsum("ocij,cij->o", *pair) for pair in ((kernel, patch), (resampled, enlarged)))
    np.testing.assert_allclose(after, before, atol=1e-3)


def test_smaller_patch_kernel_is_the_least_squares_solution():
    """`new = old @ pinv(R)`; R has more columns than rows, so `new @ R` is the projection of `old` on R's rows."""
    kernel = RNG.standard_normal((2, 3, 8, 8), np.float32)
    resize = np.stack([pillow_resize(x.reshape(8, 8), 6).reshape(-1) for x in np.eye(64)], axis=1)  # [36, 64]
    expected, *_ = np.linalg.lstsq(np.float64(resize.T), np.float64(kernel.reshape(6, 64).T))
    resampled = dinov2.resample_patch_kernel(kernel, 6)
    np.testing.assert_allclose(resampled.reshape(6, 36), expected.T, atol=1e-3)


def test_nothing_to_resample():
    positions, kernel = np.zeros((1 + 16, 3), np.float32), np.zeros((4, 3, 8, 8), np.float32)
    assert dinov2.resample_positions(positions, 4) is positions
    assert dinov2.resample_patch_kernel(kernel, 8) is kernel


def test_imagenet_normalize():
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    images = np.stack([mean, mean + std, np.zeros(3)])[:, None, None] * 2 - 1
    expected = [np.zeros(3), np.ones(3), -mean / std]
    np.testing.assert_allclose(dinov2.imagenet_normalize(images)[:, 0, 0], expected, atol=1e-5)


def test_tokens_are_class_registers_patches():
    """The class token and the patches have a position, registers have none."""
    config = ViTConfig(width=8, depth=1, num_heads=2, patch_size=4, num_registers=3)
    net = functional(ViT, config, 8)
    params = jax.tree.map(lambda leaf: RNG.standard_normal(leaf.shape, np.float32), net.shapes)
    images, positions = RNG.standard_normal((2, 8, 8, 3), np.float32), params["pos_embed"]
    with jax.default_matmul_precision("highest"):
        tokens = np.asarray(jax.jit(lambda params, images: net(params).embed(images))(params, images))
    np.testing.assert_allclose(tokens[:, 0], (params["cls_token"] + positions[:1]).repeat(2, 0))
    np.testing.assert_array_equal(tokens[:, 1:4], [params["registers"]] * 2)
    patches = images.reshape(2, 2, 4, 2, 4, 3).swapaxes(2, 3).reshape(2, 4, 48)
    expected = patches @ params["patch_embed"]["kernel"] + params["patch_embed"]["bias"] + positions[1:]
    np.testing.assert_allclose(tokens[:, config.num_prefix_tokens :], expected, atol=1e-4)
