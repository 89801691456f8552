"""Grids of images as PNG files."""

import os
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from softvq_jax.storage import files

GAP = 2  # white pixels between images
CAPTION = 14  # pixels of height of a caption
LEAST_WIDTH = 96  # pixels; narrower images are enlarged to have room for a caption


def grid(images: np.ndarray, columns: int) -> np.ndarray:
    """Arranges images `[n, H, W, 3]` uint8 row by row on a white canvas."""
    count, height, width, _ = images.shape
    rows = -(-count // columns)
    canvas = np.full((rows * (height + GAP) - GAP, columns * (width + GAP) - GAP, 3), 255, np.uint8)
    for i, image in enumerate(images):
        top, left = i // columns * (height + GAP), i % columns * (width + GAP)
        canvas[top : top + height, left : left + width] = image
    return canvas


def rows_grid(rows: Sequence[np.ndarray], per_line: int = 8) -> np.ndarray:
    """Stacks rows of images `[n, H, W, 3]`; if they are longer than `per_line` images, all rows wrap together."""
    per_line = min(per_line, len(rows[0]))
    parts = []
    for start in range(0, len(rows[0]), per_line):
        for row in rows:
            part = row[start : start + per_line]
            parts += [part, np.full((per_line - len(part), *part.shape[1:]), 255, np.uint8)]
    return grid(np.concatenate(parts), columns=per_line)


def pairs_grid(originals: np.ndarray, reconstructions: np.ndarray) -> np.ndarray:
    """Arranges originals in the first row and their reconstructions in the second."""
    return rows_grid([originals, reconstructions], per_line=len(originals))


def cells(picture: np.ndarray, height: int, width: int) -> np.ndarray:
    """Cuts a grid into its images, uint8 `[rows, columns, height, width, 3]`; the inverse of `grid`.

    Raises:
      ValueError: the picture is not a grid of images of this size.
    """
    counts = [(side + GAP) / (size + GAP) for side, size in zip(picture.shape[:2], (height, width), strict=True)]
    if not all(count.is_integer() and count >= 1 for count in counts):
        raise ValueError(
            f"a picture of {picture.shape[1]} x {picture.shape[0]} is not a grid of {width} x {height} pixels"
        )
    rows, columns = map(int, counts)
    tops, lefts = np.arange(rows) * (height + GAP), np.arange(columns) * (width + GAP)
    return np.stack([[picture[t : t + height, left : left + width] for left in lefts] for t in tops])


def captioned(images: np.ndarray, captions: Sequence[str]) -> np.ndarray:
    """Writes a caption below each image, uint8 `[n, H, W, 3] -> [n, f H + CAPTION, f W, 3]`.

    Images narrower than `LEAST_WIDTH` are enlarged by a whole factor `f` without smoothing. Captions that are too long are
    cut, and end with "...".
    """
    factor = -(-LEAST_WIDTH // images.shape[2])
    images = images.repeat(factor, axis=1).repeat(factor, axis=2)
    count, height, width, _ = images.shape
    canvas = np.full((count, height + CAPTION, width, 3), 255, np.uint8)
    canvas[:, :height] = images
    font = ImageFont.load_default(size=CAPTION - 4)
    for i, text in enumerate(captions):
        strip = Image.new("RGB", (width, CAPTION), "white")
        ImageDraw.Draw(strip).text((1, 0), _fitting(text, font, width - 2), "black", font)
        canvas[i, height:] = np.asarray(strip)
    return canvas


def _fitting(text: str, font, width: int) -> str:
    """Returns the text, cut and ended with "..." if it is wider than `width` pixels."""
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "...") > width:
        text = text[:-1]
    return text + "..."


def save_png(path: str | os.PathLike, image: np.ndarray) -> None:
    """Writes an image `[H, W, 3]` uint8 as PNG, atomically."""
    with files.replacing(path) as partial:
        Image.fromarray(image).save(partial, format="PNG")
