"""Conversions between 8-bit images and floats in [-1, 1], for NumPy and JAX arrays."""

from typing import Any

import numpy as np


def from_uint8(images: Any) -> Any:
    """Converts uint8 images to float32 in [-1, 1], `x / 127.5 - 1`.

    Args:
      images: uint8 array of any shape, NumPy or JAX; may be traced.
    """
    return images.astype(images.__array_namespace__().float32) / 127.5 - 1.0


def as_float(images: Any) -> Any:
    """Converts uint8 images by `from_uint8`; returns float images unchanged. A uint8 copy has a quarter of the bytes."""
    return from_uint8(images) if images.dtype == np.uint8 else images


def to_uint8(images: Any) -> Any:
    """Converts images in [-1, 1] to uint8, `round((x + 1) * 127.5)`, clipped; halves are rounded to even.

    The released code rounds for evaluation and floors for saved pictures; we always round.

    Args:
      images: float array of any shape, NumPy or JAX; may be traced.

    Raises:
      ValueError: the images are integers, or a NumPy array contains NaN.
    """
    xp = images.__array_namespace__()
    if images.dtype.kind in "iub":
        raise ValueError(f"images are {images.dtype}; expected floats in [-1, 1] (8-bit images need no conversion)")
    levels = xp.round((images.astype(xp.float32) + 1) * 127.5)
    if isinstance(levels, np.ndarray) and np.isnan(levels).any():
        raise ValueError(f"{np.isnan(levels).sum()} of {levels.size} pixel values are NaN; expected floats in [-1, 1]")
    return xp.clip(levels, 0, 255).astype(xp.uint8)
