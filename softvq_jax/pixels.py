"""Conversions between 8-bit images and floats in [-1, 1], for NumPy and JAX arrays alike."""

from typing import Any

import numpy as np


def from_uint8(images: Any) -> Any:
    """Levels 0 to 255 as float32 in [-1, 1], `x / 127.5 - 1`.

    Args:
      images: uint8 array of any shape, of NumPy or JAX, also inside compiled functions.
    """
    return images.astype(images.__array_namespace__().float32) / 127.5 - 1.0


def as_float(images: Any) -> Any:
    """`from_uint8` of uint8 images; float images stay as they are. Moving uint8 costs a quarter of float32's bytes."""
    return from_uint8(images) if images.dtype == np.uint8 else images


def to_uint8(images: Any) -> Any:
    """Images in [-1, 1] as uint8 levels, `round((x + 1) * 127.5)`, clipped; halves go to the even level.

    The released code rounds for evaluation and floors for saved pictures; we always round.

    Args:
      images: float array of any shape, of NumPy or JAX, also inside compiled functions.

    Raises:
      ValueError: integer images, which are not in [-1, 1]; or NaN in a NumPy array, which has no level.
    """
    xp = images.__array_namespace__()
    if images.dtype.kind in "iub":
        raise ValueError(f"images are {images.dtype}; expected floats in [-1, 1] (8-bit images need no conversion)")
    levels = xp.round((images.astype(xp.float32) + 1) * 127.5)
    if isinstance(levels, np.ndarray) and np.isnan(levels).any():
        raise ValueError(f"{np.isnan(levels).sum()} of {levels.size} pixel values are NaN; expected floats in [-1, 1]")
    return xp.clip(levels, 0, 255).astype(xp.uint8)
