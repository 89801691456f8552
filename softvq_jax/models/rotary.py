"""Mixed 2-D rotary positions with learned frequencies (RoPE-Mixed, Heo et al., 2024, arXiv 2403.13298).

Queries and keys turn by an angle that is linear in the column and the row of their patch. Tokens that are not patches
have column and row 0: they do not turn.
"""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx


def patch_coordinates(grid: int, num_prefix: int = 0, num_suffix: int = 0) -> np.ndarray:
    """Column and row of each token, `[T, 2]` float32: `grid * grid` patches in reading order, and zeros around them."""
    rows, columns = np.divmod(np.arange(grid**2), grid)
    return np.pad(np.stack([columns, rows], axis=1), ((num_prefix, num_suffix), (0, 0))).astype(np.float32)


def fresh_frequencies(num_heads: int, head_dim: int, theta: float, rngs: nnx.Rngs) -> jax.Array:
    """Initial frequencies `[2, num_heads * head_dim / 2]` of columns and rows.

    Each head has a random direction: half of its pairs turn along it and half across it, at the rates
    `theta^(-4i / head_dim)`.

    Raises:
      ValueError: `head_dim` is not a multiple of 4.
    """
    if head_dim % 4:
        raise ValueError(f"heads have {head_dim} channels; rotary positions need a multiple of 4")
    rates = theta ** (-4.0 * jnp.arange(head_dim // 4) / head_dim)
    direction = jax.random.uniform(rngs.params(), (num_heads, 1), maxval=2 * jnp.pi)
    turns = jnp.concatenate([direction, direction + jnp.pi / 2], axis=1)[..., None]
    return (jnp.stack([jnp.cos(turns), jnp.sin(turns)]) * rates).reshape(2, -1)


def rotate(x: jax.Array, coordinates: jax.Array, frequencies: jax.Array) -> jax.Array:
    """Turns each pair of channels `(2i, 2i + 1)` by `column * frequencies[0] + row * frequencies[1]`, in float32.

    Args:
      x: queries or keys `[B, T, H, d]`.
      coordinates: `[T, 2]`, see `patch_coordinates`.
      frequencies: `[2, H * d / 2]`.
    """
    _, length, heads, head_dim = x.shape
    columns, rows = coordinates[:, :1], coordinates[:, 1:]
    angles = jnp.repeat(columns * frequencies[0] + rows * frequencies[1], 2, axis=1).reshape(length, heads, head_dim)
    wide = x.astype(jnp.float32)
    # Rolls rather than a reshape to pairs: an axis of length 2 would take 64 times its memory on a TPU.
    first = jnp.arange(head_dim) % 2 == 0
    partner = jnp.where(first, -jnp.roll(wide, -1, axis=-1), jnp.roll(wide, 1, axis=-1))
    return (wide * jnp.cos(angles) + partner * jnp.sin(angles)).astype(x.dtype)
