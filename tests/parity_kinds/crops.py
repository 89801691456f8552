"""Kind `crops`: ADM's center crop, and its random crop at the largest size and the middle offset.

The picture and the crops are read from the sentences of the case's `what`.
"""

import re

import numpy as np
from PIL import Image

from softvq_jax.data import crops
from tests.parity import recipe


def _picture(what: str) -> np.ndarray:
    count, size, seed = map(int, re.search(r"recipe\.images\((\d+),\s*(\d+),\s*(\d+)\)", what).groups())
    image = recipe.images(count, size, seed)[0].transpose(1, 2, 0)
    return _window(np.round((image + 1) * 127.5).astype(np.uint8), what.split("center_")[0])


def _window(picture: np.ndarray, text: str) -> np.ndarray:
    found = re.search(r"\[:(\d+)(?:,\s*:(\d+))?\]", text)
    if found is None:
        return picture
    rows, columns = found.groups()
    return picture[: int(rows), : None if columns is None else int(columns)]


def _largest_at_the_middle(image: Image.Image, size: int) -> np.ndarray:
    image = crops.resize_smaller_side(image, crops.largest_random_side(size))
    rows, columns = crops.number_of_offsets(image.size, size)
    return crops.cut(image, size, rows // 2, columns // 2)


def run(case, arrays):
    picture = _picture(case["what"])
    outputs = {}
    for name in arrays:
        clause = case["what"].partition(f"{name}: ")[2].split(";")[0]
        image = Image.fromarray(_window(picture, clause))
        size = int(name.split("_")[1])
        outputs[name] = (
            crops.center_crop(image, size) if name.startswith("center") else _largest_at_the_middle(image, size)
        )
    return outputs


KINDS = {"crops": run}
