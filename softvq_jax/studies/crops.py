"""The image crops on which trained tokenizers are measured."""

import dataclasses

import numpy as np
from ml_collections import ConfigDict

from softvq_jax.data.pipeline import eval_batches, train_batches

BATCH = 32


@dataclasses.dataclass(frozen=True)
class Crops:
    """Images uint8 `[n, S, S, 3]` and their classes `[n]`."""

    images: np.ndarray
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.images)


def held_out(config: ConfigDict) -> Crops:
    """Returns the held-out images of a training config, at most `evals.held_out.num_images`."""
    with eval_batches(config.data, image_size=config.model.image_size, global_batch=BATCH) as batches:
        crops = _collect(batches, config.evals.held_out.num_images)
    return crops


def training(config: ConfigDict, count: int) -> Crops:
    """Returns the first `count` training crops for the config's seed."""
    size = config.model.image_size
    with train_batches(config.data, image_size=size, seed=config.seed, global_batch=BATCH) as batches:
        return _collect(batches, count)


def _collect(batches, count):
    images, labels, collected = [], [], 0
    for batch in batches:
        valid = batch["valid"]
        images.append(batch["image"][valid])
        labels.append(batch["label"][valid])
        collected += int(valid.sum())
        if collected >= count:
            break
    return Crops(np.concatenate(images)[:count], np.concatenate(labels)[:count])
