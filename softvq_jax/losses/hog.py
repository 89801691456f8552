"""Histograms of oriented gradients as targets of an auxiliary decoder (MaskFeat, arXiv 2112.09133; MAETok, 2502.03444)."""

import jax
import jax.numpy as jnp
import numpy as np

NUM_BINS = 9
CELL = 8
PATCH = 16
NUM_VALUES = 3 * NUM_BINS * (PATCH // CELL) ** 2


def hog(images: jax.Array) -> jax.Array:
    """Histograms of the gradients' directions in the cells of 8 x 8 pixels.

    A pixel's vote is the gradient's magnitude, weighted by a Gaussian window around the middle of its patch. The votes of
    each cell and color have L2 norm 1.

    Args:
      images: `[B, H, W, 3]`, sides divisible by 16.

    Returns:
      `[B, N, 108]` float32 for the N patches of 16 x 16 pixels: color, bin, row of cells, column of cells, the last
      fastest.

    Raises:
      ValueError: sides that 16 does not divide.
    """
    batch, height, width, colors = images.shape
    if height % PATCH or width % PATCH:
        raise ValueError(f"images are {height} x {width}; HOG targets need sides divisible by {PATCH}")
    across, down = _gradients(images.astype(jnp.float32))
    # The order of the arguments is the release's: angles are measured from the vertical.
    bins = jnp.mod(jnp.floor(jnp.arctan2(across, down) / jnp.pi * NUM_BINS), NUM_BINS)
    votes = jnp.sqrt(across**2 + down**2) * jnp.tile(_window(), (height // PATCH, width // PATCH))[..., None]
    votes = jnp.where(bins[..., None] == jnp.arange(NUM_BINS), votes[..., None], 0.0)
    cells = votes.reshape(batch, height // CELL, CELL, width // CELL, CELL, colors, NUM_BINS).sum((2, 4))
    norms = jnp.sqrt(jnp.sum(cells**2, axis=-1, keepdims=True))
    cells = cells / jnp.maximum(norms, 1e-12)
    rows, columns, side = height // PATCH, width // PATCH, PATCH // CELL
    cells = cells.reshape(batch, rows, side, columns, side, colors, NUM_BINS)
    return cells.transpose(0, 1, 3, 5, 6, 2, 4).reshape(batch, rows * columns, -1)


def _gradients(images):
    """Sobel gradients across and down, of images reflected at the border.

    Neighbors are subtracted before anything is added: across the first and last columns, where they are mirrored, the
    gradient is exactly 0. Rounding of either sign would move a pixel's vote from the first bin to the last.
    """
    padded = jnp.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="reflect")
    across = padded[:, :, :-2] - padded[:, :, 2:]
    down = padded[:, :-2] - padded[:, 2:]
    across = across[:, :-2] + 2.0 * across[:, 1:-1] + across[:, 2:]
    down = down[:, :, :-2] + 2.0 * down[:, :, 1:-1] + down[:, :, 2:]
    return across, down


def _window():
    """Gaussian of standard deviation 8 pixels over a patch, of sum 1."""
    line = np.exp(-((np.arange(PATCH) - (PATCH - 1) / 2) ** 2) / 128)
    window = np.outer(line, line)
    return jnp.asarray(window / window.sum(), jnp.float32)
