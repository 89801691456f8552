"""DINOv2 (arXiv 2304.07193): input normalization, and resampling of its weights to another patch and image size."""

import jax
import jax.numpy as jnp
import numpy as np

from softvq_jax.models.resize import bicubic_matrix
from softvq_jax.models.vit import ViT

IMAGENET_MEAN = np.array([0.485, 0.456, 0.406], np.float32)
IMAGENET_STD = np.array([0.229, 0.224, 0.225], np.float32)


def imagenet_normalize(images: jax.Array) -> jax.Array:
    """Normalizes images in [-1, 1] by the mean and standard deviation of ImageNet's channels."""
    return ((images + 1.0) / 2.0 - IMAGENET_MEAN) / IMAGENET_STD


def antialiased_resize(array: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Resizes bicubically (a = -0.5), within 1e-7 of PyTorch's `interpolate(mode="bicubic", antialias=True)`."""
    with jax.default_matmul_precision("highest"):
        return np.asarray(jax.image.resize(jnp.asarray(array, jnp.float32), shape, "cubic", antialias=True))


def resample_positions(pos_embed: np.ndarray, grid: int, *, class_position: bool = True) -> np.ndarray:
    """Resamples position embeddings to `grid * grid` patches, as timm does.

    Args:
      pos_embed: `[1 + n*n, width]`, the class token's first, which is unchanged.
      grid: number of patches along a side.
      class_position: whether the class token has a position; without, `pos_embed` is `[n*n, width]`.
    """
    first, positions = _square(pos_embed, int(class_position))
    if positions.shape[0] == grid:
        return pos_embed
    resized = antialiased_resize(positions, (grid, grid, positions.shape[-1]))
    return np.concatenate([first, resized.reshape(grid * grid, -1)])


def interpolate_positions_hf(pos_embed: np.ndarray, grid: int) -> np.ndarray:
    """Resamples as `resample_positions`, but as Hugging Face's model does: a = -0.75, not antialiased."""
    first, positions = _square(pos_embed)
    matrix = bicubic_matrix(positions.shape[0], grid)
    resized = np.einsum("ij,kl,jlw->ikw", matrix, matrix, positions, optimize=True).astype(np.float32)
    return np.concatenate([first, resized.reshape(grid * grid, -1)])


def _square(pos_embed, num_class=1):
    side = round((pos_embed.shape[0] - num_class) ** 0.5)
    if side * side != pos_embed.shape[0] - num_class:
        expected = "1 for the class token plus a square number" if num_class else "a square number"
        raise ValueError(f"there are {pos_embed.shape[0]} positions; expected {expected}")
    return pos_embed[:num_class], pos_embed[num_class:].reshape(side, side, -1)


def resample_patch_kernel(kernel: np.ndarray, patch: int) -> np.ndarray:
    """Resamples a patch kernel `[width, 3, p, p]` to another patch size (FlexiViT, arXiv 2212.08013, section 3.4).

    The new kernel embeds a resized patch as the old kernel embeds the original patch: `new = old @ pinv(R)`, where the
    matrix `R` resizes a flattened patch.
    """
    width, channels, old, _ = kernel.shape
    if old == patch:
        return kernel
    basis = np.eye(old * old, dtype=np.float32).reshape(old * old, old, old)
    resize = antialiased_resize(basis, (old * old, patch, patch)).reshape(old * old, patch * patch).T
    inverse = np.linalg.pinv(resize.astype(np.float64))
    resampled = kernel.reshape(width, channels, old * old).astype(np.float64) @ inverse
    return resampled.reshape(width, channels, patch, patch).astype(np.float32)


def patch_features(vit: ViT, images: jax.Array) -> jax.Array:
    """Returns a ViT's patch tokens `[B, N, width]` of images `[B, H, W, 3]` in [-1, 1], without its other tokens."""
    return vit(imagenet_normalize(images))[:, vit.num_prefix_tokens :]
