"""Square crops of photographs, as ADM makes them ("Diffusion Models Beat GANs", Dhariwal and Nichol 2021).

Pictures are turned to 8-bit RGB as the field does: by Pillow's `convert`, so that gray is repeated, CMYK and palettes
are translated and an alpha channel is dropped; the EXIF rotation is ignored. Only 16-bit gray differs: Pillow would
clip it to white, here its high byte is kept.
"""

import math

import numpy as np
from PIL import Image

SMALLEST_KEPT_SHARE = 0.8  # of the smaller side, that a random crop keeps
LARGEST_REGION = 4  # times the crop: what `random_region` shrinks at most


def to_rgb(image: Image.Image) -> Image.Image:
    """The picture in mode RGB: see the module's docstring for what becomes of the other modes."""
    if image.mode.startswith("I"):
        image = Image.fromarray((np.asarray(image) // 256).clip(0, 255).astype(np.uint8))
    return image if image.mode == "RGB" else image.convert("RGB")


def resize_smaller_side(image: Image.Image, target: int) -> Image.Image:
    """Resizes so that the smaller side has `target` pixels: BOX halvings while twice too large, then BICUBIC."""
    while min(image.size) >= 2 * target:
        image = image.resize(tuple(side // 2 for side in image.size), Image.Resampling.BOX)
    scale = target / min(image.size)
    return image.resize(tuple(round(side * scale) for side in image.size), Image.Resampling.BICUBIC)


def largest_random_side(size: int) -> int:
    """The largest smaller side that `random_crop` resizes to before it cuts `size` pixels."""
    return math.ceil(size / SMALLEST_KEPT_SHARE)


def number_of_offsets(image: Image.Image, size: int) -> tuple[int, int]:
    """How many positions, down and across, a square of `size` pixels has in the picture."""
    width, height = image.size
    return height - size + 1, width - size + 1


def cut(image: Image.Image, size: int, top: int, left: int) -> np.ndarray:
    """The square of `size` pixels whose first row is `top` and first column `left`: uint8 [size, size, 3]."""
    return np.asarray(image.crop((left, top, left + size, top + size)))


def center_crop(image: Image.Image, size: int) -> np.ndarray:
    """ADM's evaluation crop: the smaller side resized to `size`, the centre cut out; uint8 [size, size, 3]."""
    image = resize_smaller_side(to_rgb(image), size)
    rows, columns = number_of_offsets(image, size)
    return cut(image, size, (rows - 1) // 2, (columns - 1) // 2)


def random_crop(image: Image.Image, size: int, rng: np.random.Generator) -> np.ndarray:
    """ADM's training crop: uint8 [size, size, 3].

    The smaller side is resized to a uniformly random integer of `size ... ceil(size / 0.8)`, then a square is cut at a
    uniformly random offset.
    """
    image = resize_smaller_side(to_rgb(image), int(rng.integers(size, largest_random_side(size), endpoint=True)))
    return _cut_anywhere(image, size, rng)


def random_region(image: Image.Image, size: int, rng: np.random.Generator) -> np.ndarray:
    """A random square of a large photograph, shrunk to `size`: uint8 [size, size, 3].

    For training small crops on few photographs: the square's side is uniform in `size ... 4 * size`, as far as the
    picture allows, and its place is uniform.
    """
    short = min(image.size)
    side = int(rng.integers(min(size, short), min(LARGEST_REGION * size, short), endpoint=True))
    region = Image.fromarray(_cut_anywhere(to_rgb(image), side, rng))
    return np.asarray(resize_smaller_side(region, size))


def random_flip(crop: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Mirrors left and right with probability 1/2."""
    return crop[:, ::-1] if rng.random() < 0.5 else crop


def _cut_anywhere(image, size, rng):
    rows, columns = number_of_offsets(image, size)
    return cut(image, size, int(rng.integers(rows)), int(rng.integers(columns)))
