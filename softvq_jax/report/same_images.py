"""Pictures of several runs or evaluations that show the same images, for a comparison."""

import dataclasses
from collections.abc import Sequence

import numpy as np
from PIL import Image

from softvq_jax.report import image_grid
from softvq_jax.report.page import EmbeddedImage, embed, embed_array
from softvq_jax.report.run_files import Evaluation, Picture, RunFiles

MAX_SHOWN = 8  # images in a row


@dataclasses.dataclass(frozen=True)
class Images:
    """Pictures that are shown below each other.

    Attributes:
      title: their title.
      pictures: the pictures.
      note: how they are chosen, or why they do not show the same images; "" for no note.
    """

    title: str
    pictures: list[EmbeddedImage]
    note: str = ""


def of_training(runs: Sequence[tuple[str, RunFiles]]) -> list[Images]:
    """Returns the last pictures that runs wrote in training, by kind: originals once, then the images of each run."""
    sections = []
    last = [(label, _last_pictures(run.pictures), run) for label, run in runs]
    for kind in dict.fromkeys(name for _, pictures, _ in last for name in pictures):
        found = [(label, pictures[kind], run) for label, pictures, run in last if kind in pictures]
        sections.append(_reconstructions(found) if kind == "reconstructions" else _as_written(kind.capitalize(), found))
    return sections


def _reconstructions(found: Sequence[tuple[str, Picture, RunFiles]]) -> Images:
    """Returns the originals once and the reconstructions of each run, which are alternating rows of its picture."""
    title = "Held-out images"
    try:
        split = [_rows(picture, run) for _, picture, run in found]
    except ValueError:  # a picture that a run of this version did not write
        return _as_written(title, found, "The pictures have another layout; each is shown as it is.")
    originals = split[0][0]
    if any(other.shape != originals.shape or (other != originals).any() for other, _ in split):
        return _as_written(title, found, "The runs show different originals, above their reconstructions.")
    pictures = [embed_array(originals, "originals", "held-out originals")]
    for (label, picture, _), (_, reconstructions) in zip(found, split, strict=True):
        caption = f"{label}, step {picture.step:,}"
        pictures.append(embed_array(reconstructions, caption, f"reconstructions by {caption}"))
    return Images(title, pictures)


def _rows(picture: Picture, run: RunFiles) -> tuple[np.ndarray, np.ndarray]:
    """Returns the originals and the reconstructions in a picture, each as a grid; raises ValueError for other layouts."""
    size = run.config.get("model", {}).get("image_size")
    if not isinstance(size, int):
        raise ValueError("the config has no model.image_size")
    images = image_grid.cells(np.asarray(Image.open(picture.path).convert("RGB")), size, size)
    if len(images) % 2:
        raise ValueError("expected pairs of rows")
    columns = images.shape[1]
    grids = [image_grid.grid(np.concatenate([*images[first::2]]), columns) for first in (0, 1)]
    return grids[0], grids[1]


def _as_written(title: str, found: Sequence[tuple[str, Picture, RunFiles]], note: str = "") -> Images:
    """Returns the pictures as the runs wrote them, one for each run."""
    captions = [f"{label}, step {picture.step:,}" for label, picture, _ in found]
    embedded = [
        embed(picture.path, caption, f"{title} by {caption}")
        for caption, (_, picture, _) in zip(captions, found, strict=True)
    ]
    return Images(title, embedded, note)


def _last_pictures(pictures: Sequence[Picture]) -> dict[str, Picture]:
    return {picture.name: picture for picture in pictures}  # sorted by name and step: the last one stays


def of_evaluations(found: Sequence[tuple[str, Evaluation]]) -> Images | None:
    """Returns the images that all evaluations have among their worst and best reconstructions.

    None if the references of the evaluations differ, or there is no such image.
    """
    references = {str(evaluation.content.get("fingerprints", {}).get("reference")) for _, evaluation in found}
    if len(found) < 2 or len(references) > 1:
        return None
    pairs = [_pairs(evaluation) for _, evaluation in found]
    common = [index for index in pairs[0] if all(index in others for others in pairs)][:MAX_SHOWN]
    if not common:
        return None
    pictures = [_row([pairs[0][index][0] for index in common], "originals")]
    for (label, _), own in zip(found, pairs, strict=True):
        pictures.append(_row([own[index][1] for index in common], label))
    note = "Images that are among the worst or the best of every evaluation, from low to high PSNR of the first."
    return Images("The same reconstructions", pictures, note)


def _row(images: list[np.ndarray], caption: str) -> EmbeddedImage:
    return embed_array(image_grid.grid(np.stack(images), len(images)), caption, caption)


def _pairs(evaluation: Evaluation) -> dict[int, np.ndarray]:
    """Returns original and reconstruction `[2, H, W, 3]` of the images in `worst.png` and `best.png`, by index."""
    size, found = evaluation.content.get("sizes", {}).get("samples"), {}
    for name in ("worst", "best"):
        path, listed = evaluation.picture(name), evaluation.content.get("pictures", {}).get(name)
        if path is None or not listed or not size:
            continue
        try:
            images = image_grid.cells(np.asarray(Image.open(path).convert("RGB")), *size)
        except ValueError:
            continue
        if images.shape[:2] == (2, len(listed)):
            rows = [(image["index"], images[:, column]) for column, image in enumerate(listed)]
            found |= dict(rows if name == "worst" else reversed(rows))
    return found
