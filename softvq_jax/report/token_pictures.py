"""Pictures of the effect, attention and nearest codes of latent tokens, which `evaluate.tokens` computes."""

import colorsys
from collections.abc import Mapping, Sequence

import numpy as np

from softvq_jax.report.image_grid import captioned, grid

COLUMNS = 8


def effect_maps(original: np.ndarray, reconstruction: np.ndarray, maps: np.ndarray) -> np.ndarray:
    """Returns a picture of the change that replacing each token makes.

    The first row has the image, its reconstruction, and for each pixel the color of the token with the largest effect;
    then follow the changes, bright where they are large, on one scale for all tokens.

    Args:
      original, reconstruction: uint8 `[H, W, 3]`.
      maps: absolute changes `[L, H, W]`, see `Effects.maps`.
    """
    largest = float(maps.max())
    head = [original, reconstruction, token_colors(len(maps))[maps.argmax(axis=0)]]
    tiles = [heat(each, largest) for each in maps]
    names = [f"{number}: {each.mean():.1f}" for number, each in enumerate(maps)]
    return _page([(head, ["image", "reconstruction", "largest effect"]), (tiles, names)])


def swapped(original: np.ndarray, reconstruction: np.ndarray, other: np.ndarray, changed: np.ndarray) -> np.ndarray:
    """Returns a picture of the image with each of its tokens taken from another image.

    Args:
      original, reconstruction: uint8 `[H, W, 3]`.
      other: reconstruction of the image that the tokens are from.
      changed: uint8 `[L, H, W, 3]`.
    """
    head = [original, reconstruction, other]
    names = [f"token {number}" for number in range(len(changed))]
    return _page([(head, ["image", "reconstruction", "tokens from"]), (list(changed), names)])


def attention_maps(original: np.ndarray, encoder: np.ndarray, decoder: np.ndarray) -> np.ndarray:
    """Returns a picture of the attention between each token and the patches, of the encoder above that of the decoder.

    Args:
      original: uint8 `[H, W, 3]`.
      encoder: attention of the tokens to the patches, `[L, g, g]`.
      decoder: attention of the patches to the tokens, `[L, g, g]`.
    """
    rows: list[tuple[Sequence[np.ndarray], Sequence[str]]] = [([original], ["image"])]
    gray = np.repeat(original.mean(axis=-1, keepdims=True), 3, axis=-1)
    for name, maps in (("enc.", encoder), ("dec.", decoder)):
        enlarged = [np.kron(each, np.ones((-(-original.shape[0] // len(each)),) * 2)) for each in maps]
        height, width = original.shape[:2]
        tiles = [
            (0.35 * gray + 0.65 * heat(each[:height, :width], float(maps.max()))).astype(np.uint8) for each in enlarged
        ]
        rows.append((tiles, [f"{name} {number}" for number in range(len(tiles))]))
    return _page(rows)


def code_rows(originals: np.ndarray, reconstructions: Mapping[str, np.ndarray]) -> np.ndarray:
    """Returns a picture with a row for each image: the image and its reconstructions, all uint8 `[n, H, W, 3]`."""
    columns = {"image": originals} | dict(reconstructions)
    rows = np.stack(list(columns.values()), axis=1)
    images = rows.reshape(-1, *rows.shape[2:])
    return grid(captioned(images, [*columns] * len(rows)), len(columns))


def heat(values: np.ndarray, largest: float) -> np.ndarray:
    """Returns values `[H, W]` from 0 to `largest` as colors from black over red to white, uint8 `[H, W, 3]`."""
    share = np.clip(values / (largest or 1.0), 0, 1)[..., None]
    return np.round(255 * np.clip(3 * share - np.arange(3), 0, 1)).astype(np.uint8)


def token_colors(count: int) -> np.ndarray:
    """Returns a color for each token, around the color wheel, uint8 `[count, 3]`."""
    colors = [colorsys.hsv_to_rgb(i / count, 0.85, 0.95) for i in range(count)]
    return np.round(255 * np.asarray(colors)).astype(np.uint8)


def _page(rows: Sequence[tuple[Sequence[np.ndarray], Sequence[str]]]) -> np.ndarray:
    """Stacks rows of images with captions, each wrapped after `COLUMNS` images."""
    pictures = []
    for images, names in rows:
        with_names = captioned(np.stack(images), names)
        padding = -len(with_names) % COLUMNS
        blank = np.full((padding, *with_names.shape[1:]), 255, np.uint8)
        pictures.append(np.concatenate([with_names, blank]))
    return grid(np.concatenate(pictures), COLUMNS)
