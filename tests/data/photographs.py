"""Small image files for the tests."""

import io

import numpy as np
from PIL import Image


def pixels(number: int, height: int = 20, width: int = 24) -> np.ndarray:
    """Returns noise that depends on `number`: uint8 `[height, width, 3]`."""
    return np.random.default_rng(number).integers(0, 256, (height, width, 3), np.uint8)


def png(number: int) -> bytes:
    """Returns `pixels(number)` as the bytes of a PNG file."""
    file = io.BytesIO()
    Image.fromarray(pixels(number)).save(file, "PNG")
    return file.getvalue()
