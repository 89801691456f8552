"""Square crops of images, as in ADM ("Diffusion Models Beat GANs", Dhariwal and Nichol 2021).

Images are converted to 8-bit RGB by `decoding.to_rgb`. No crop makes an image of more than `MAX_GROWTH` times the pixels of
the source and the crop together, whatever the aspect ratio.
"""

import math
from collections.abc import Callable

import numpy as np
from PIL import Image

from softvq_jax.data.decoding import to_rgb

MIN_CROP_SHARE = 0.8  # of the smaller side that a random crop keeps
MAX_REGION_SCALE = 4  # largest side of `random_region`, in sides of the crop
MARGIN = 8  # rows around a box that bicubic filters read: 2, or below 4 where the image is made smaller by less than 2
MAX_GROWTH = 8  # an image of aspect ratio below 8 is resized as a whole, as ADM does


def resize_smaller_side(image: Image.Image, target: int) -> Image.Image:
    """Resizes the smaller side to `target` pixels: halves by BOX while it is at least twice as large, then BICUBIC."""
    image = _halved(image, target)
    return image.resize(_resized(image.size, target), Image.Resampling.BICUBIC)


def _halved(image: Image.Image, target: int) -> Image.Image:
    while min(image.size) >= 2 * target:
        image = image.resize((image.width // 2, image.height // 2), Image.Resampling.BOX)
    return image


def _resized(size: tuple[int, int], target: int) -> tuple[int, int]:
    """Width and height that an image of `size` gets when its smaller side gets `target` pixels."""
    scale = target / min(size)
    return round(size[0] * scale), round(size[1] * scale)


def largest_random_side(size: int) -> int:
    """Returns the upper bound of the smaller side to which `random_crop` resizes before it cuts out `size` pixels."""
    return math.ceil(size / MIN_CROP_SHARE)


def number_of_offsets(size: tuple[int, int], side: int) -> tuple[int, int]:
    """Returns the number of vertical and horizontal positions of a square of `side` pixels in width and height `size`."""
    width, height = size
    return height - side + 1, width - side + 1


def cut(image: Image.Image, size: int, top: int, left: int) -> np.ndarray:
    """Returns the square of `size` pixels with first row `top` and first column `left`: uint8 `[size, size, 3]`."""
    return np.asarray(image.crop((left, top, left + size, top + size)))


def center_crop(image: Image.Image, size: int) -> np.ndarray:
    """Returns ADM's evaluation crop, uint8 `[size, size, 3]`: resizes the smaller side to `size` and cuts the center."""
    return _resized_square(to_rgb(image), size, size, lambda rows, columns: ((rows - 1) // 2, (columns - 1) // 2))


def random_crop(image: Image.Image, size: int, rng: np.random.Generator) -> np.ndarray:
    """Returns ADM's training crop: uint8 `[size, size, 3]`.

    The smaller side is resized to a uniformly random integer of `size ... ceil(size / 0.8)`, then a square is cut out at
    a uniformly random offset.
    """
    target = int(rng.integers(size, largest_random_side(size), endpoint=True))
    return _resized_square(to_rgb(image), target, size, _random_place(rng))


def random_region(image: Image.Image, size: int, rng: np.random.Generator) -> np.ndarray:
    """Returns a random square of a large image, resized to `size`: uint8 `[size, size, 3]`.

    For training small crops on few images: the side of the square is uniform in `size ... 4 * size`, at most the
    image's smaller side, and its position is uniform.
    """
    short = min(image.size)
    side = int(rng.integers(min(size, short), min(MAX_REGION_SCALE * size, short), endpoint=True))
    region = Image.fromarray(cut(to_rgb(image), side, *_random_place(rng)(*number_of_offsets(image.size, side))))
    return np.asarray(resize_smaller_side(region, size))


def random_flip(crop: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Mirrors left and right with probability 1/2."""
    return crop[:, ::-1] if rng.random() < 0.5 else crop


def _random_place(rng):
    return lambda rows, columns: (int(rng.integers(rows)), int(rng.integers(columns)))


def _resized_square(
    image: Image.Image, target: int, size: int, place: Callable[[int, int], tuple[int, int]]
) -> np.ndarray:
    """The square of `size` pixels at `place(rows, columns)` in the image with its smaller side resized to `target`."""
    image = _halved(image, target)
    width, height = _resized(image.size, target)
    top, left = place(*number_of_offsets((width, height), size))
    if width * height <= MAX_GROWTH * (image.width * image.height + size * size):
        return cut(image.resize((width, height), Image.Resampling.BICUBIC), size, top, left)
    # Of a very long image only the square is computed: columns, then rows, as Pillow does without a box. It reads
    # the pixels around a box too, so that the result is the same, but for the rounding of the box to 32 bits.
    x, y = image.width / width, image.height / height
    first, last = max(0, math.floor(top * y) - MARGIN), min(image.height, math.ceil((top + size) * y) + MARGIN)
    rows = image.crop((0, first, image.width, last))
    columns = (left * x, 0, min((left + size) * x, image.width), rows.height)
    narrow = rows.resize((size, rows.height), Image.Resampling.BICUBIC, box=columns)
    between = (0, top * y - first, size, min((top + size) * y, image.height) - first)
    return np.asarray(narrow.resize((size, size), Image.Resampling.BICUBIC, box=between))
