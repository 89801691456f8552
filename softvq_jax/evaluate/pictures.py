"""Grids of images as PNG files."""

import os

import numpy as np
from PIL import Image

GAP = 2  # white pixels between images


def grid(images: np.ndarray, columns: int) -> np.ndarray:
    """Images `[n, H, W, 3]` uint8 as one, in reading order on white."""
    count, height, width, _ = images.shape
    rows = -(-count // columns)
    canvas = np.full((rows * (height + GAP) - GAP, columns * (width + GAP) - GAP, 3), 255, np.uint8)
    for i, image in enumerate(images):
        top, left = i // columns * (height + GAP), i % columns * (width + GAP)
        canvas[top : top + height, left : left + width] = image
    return canvas


def pairs_grid(originals: np.ndarray, reconstructions: np.ndarray) -> np.ndarray:
    """Originals in the first row, their reconstructions under them."""
    return grid(np.concatenate([originals, reconstructions]), columns=len(originals))


def save_png(path: str | os.PathLike, image: np.ndarray) -> None:
    """Writes uint8 `[H, W, 3]`."""
    Image.fromarray(image).save(path)
