"""Square crops of images, as in ADM ("Diffusion Models Beat GANs", Dhariwal and Nichol 2021).

Images are converted to 8-bit RGB as in ADM's code, by Pillow's `convert`: gray is repeated, CMYK and palettes are
converted, an alpha channel is dropped, and the EXIF rotation is ignored. The exception is 16-bit gray, of which the high
byte is kept; Pillow would clip it to white.
"""

import math

import numpy as np
from PIL import Image

MIN_CROP_SHARE = 0.8  # smallest share of the smaller side that a random crop keeps
MAX_REGION_SCALE = 4  # largest side of `random_region`, as a multiple of the crop's side


def to_rgb(image: Image.Image) -> Image.Image:
    """Returns the image in mode RGB; see the module's docstring for other modes."""
    if image.mode.startswith("I"):
        image = Image.fromarray((np.asarray(image) // 256).clip(0, 255).astype(np.uint8))
    return image if image.mode == "RGB" else image.convert("RGB")


def resize_smaller_side(image: Image.Image, target: int) -> Image.Image:
    """Resizes the smaller side to `target` pixels: halves by BOX while it is at least twice as large, then BICUBIC."""
    while min(image.size) >= 2 * target:
        image = image.resize((image.width // 2, image.height // 2), Image.Resampling.BOX)
    scale = target / min(image.size)
    return image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.BICUBIC)


def largest_random_side(size: int) -> int:
    """Returns the upper bound of the smaller side to which `random_crop` resizes before it cuts out `size` pixels."""
    return math.ceil(size / MIN_CROP_SHARE)


def number_of_offsets(image: Image.Image, size: int) -> tuple[int, int]:
    """Returns the number of vertical and horizontal positions of a square of `size` pixels in the image."""
    width, height = image.size
    return height - size + 1, width - size + 1


def cut(image: Image.Image, size: int, top: int, left: int) -> np.ndarray:
    """Returns the square of `size` pixels with first row `top` and first column `left`: uint8 `[size, size, 3]`."""
    return np.asarray(image.crop((left, top, left + size, top + size)))


def center_crop(image: Image.Image, size: int) -> np.ndarray:
    """Returns ADM's evaluation crop, uint8 `[size, size, 3]`: resizes the smaller side to `size` and cuts the center."""
    image = resize_smaller_side(to_rgb(image), size)
    rows, columns = number_of_offsets(image, size)
    return cut(image, size, (rows - 1) // 2, (columns - 1) // 2)


def random_crop(image: Image.Image, size: int, rng: np.random.Generator) -> np.ndarray:
    """Returns ADM's training crop: uint8 `[size, size, 3]`.

    The smaller side is resized to a uniformly random integer of `size ... ceil(size / 0.8)`, then a square is cut out at
    a uniformly random offset.
    """
    image = resize_smaller_side(to_rgb(image), int(rng.integers(size, largest_random_side(size), endpoint=True)))
    return _random_square(image, size, rng)


def random_region(image: Image.Image, size: int, rng: np.random.Generator) -> np.ndarray:
    """Returns a random square of a large image, resized to `size`: uint8 `[size, size, 3]`.

    For training small crops on few images: the side of the square is uniform in `size ... 4 * size`, at most the
    image's smaller side, and its position is uniform.
    """
    short = min(image.size)
    side = int(rng.integers(min(size, short), min(MAX_REGION_SCALE * size, short), endpoint=True))
    region = Image.fromarray(_random_square(to_rgb(image), side, rng))
    return np.asarray(resize_smaller_side(region, size))


def random_flip(crop: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Mirrors left and right with probability 1/2."""
    return crop[:, ::-1] if rng.random() < 0.5 else crop


def _random_square(image, size, rng):
    rows, columns = number_of_offsets(image, size)
    return cut(image, size, int(rng.integers(rows)), int(rng.integers(columns)))
