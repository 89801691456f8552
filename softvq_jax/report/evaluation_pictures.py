"""The pictures of an evaluation: the worst and the best reconstructions, and a map of the latents."""

import pathlib

import numpy as np

from softvq_jax.evaluate.image_sets import take
from softvq_jax.evaluate.predictions import Pairs, Predictions, Reconstructions
from softvq_jax.evaluate.row_cache import RowCache
from softvq_jax.report import image_grid
from softvq_jax.report.latent_map import draw_map

NUM_PICTURES = 8
MAP_IMAGES = 400


def draw(out: pathlib.Path, predictions: Predictions, cache: RowCache) -> dict[str, list[dict]]:
    """Writes `worst.png` and `best.png` of reconstructions, and `latent_map.png` if there are latents.

    Args:
      out: an existing folder.
      predictions: the evaluated images.
      cache: the measured rows of all images.

    Returns:
      The images shown in `worst.png` and `best.png`, from left to right, as JSON values:
      `{"worst": [{"index": 3, "image": "cat.png", "psnr": 17.2}, ...], "best": ...}`. PSNR is in dB; None if it is
      infinite. Empty for generated images.
    """
    shown = {}
    if isinstance(predictions, Pairs | Reconstructions):
        psnr = cache["psnr"][:]
        order = np.argsort(psnr, kind="stable")
        for name, rows in (("worst", order[:NUM_PICTURES]), ("best", order[::-1][:NUM_PICTURES])):
            items = cache.items[rows]
            image_grid.save_png(out / f"{name}.png", image_grid.pairs_grid(*predictions.pictures(items)))
            shown[name] = [_pair(predictions, int(i), psnr[row]) for i, row in zip(items, rows, strict=True)]
    if isinstance(predictions, Reconstructions):
        rows = np.random.default_rng(0).permutation(len(cache))[:MAP_IMAGES]
        latent_map = draw_map(cache["latents"][rows], take(predictions.originals, cache.items[rows].tolist()))
        image_grid.save_png(out / "latent_map.png", latent_map)
    return shown


def _pair(predictions, i, psnr):
    return {
        "index": i,
        "image": predictions.originals.describe(i),
        "psnr": float(psnr) if np.isfinite(psnr) else None,
    }
