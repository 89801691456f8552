"""Evaluates whether the colors of a class-conditional generator's samples resemble those of their class.

Colors are compared because they depend little on which part of a photograph a crop shows.
"""

import itertools
from collections.abc import Mapping
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from softvq_jax.train.evaluator import EvaluatedRun, Evaluation, Evaluator
from softvq_jax.train.task import Better, data_of, draws_images

BINS = 4  # per color channel
REFERENCES = 512  # number of training images to compare with


class NearestClass(Evaluator):
    """Share of samples for which the training image with the most similar colors has the sample's class.

    For comparison, it also reports the share for held-out images and the expected share by chance.
    """

    better: Mapping[str, Better] = {"eval_right_class": "higher"}

    def __init__(self, section: ConfigDict, run: EvaluatedRun):
        super().__init__(section, run)
        if draws_images(run.task):
            self.task = run.task
        elif section.every_steps:
            raise ValueError(
                "evals.nearest_class needs images of a class-conditional generator: set config.tokenizer, which decodes "
                "its samples, or evals.nearest_class.every_steps=0"
            )

    def __call__(self, state: Any, step: int) -> Evaluation:
        run = self.run
        images, labels = self.task.samples(state.ema, run.frozen, self.section.num_samples)
        data = data_of(self.task)
        with data.train_batches(0, run.mesh) as training, data.eval_batches(run.mesh) as held_out:
            references = self._images(training, REFERENCES)
            real = self._images(held_out, run.config.evals.held_out.num_images)

        def share(images, labels):
            return float(np.mean(nearest_labels(images, *references) == labels))

        return Evaluation(
            {
                "eval_right_class": share(images, labels),
                "eval_right_class_of_real": share(*real),
                "eval_right_class_by_chance": 1 / run.config.model.num_classes,
            }
        )

    def _images(self, batches, count):
        """Returns reconstructions and labels of the first batches, at least `count` samples."""
        run, decoded = self.run, []
        for batch in itertools.islice(batches, -(-count // run.config.train.batch_size)):
            run.check_preemption()
            decoded.append(self.task.decode_batch(run.frozen, run.inputs(batch, "valid")))
        levels, classes, valid = (
            np.concatenate(list(map(np.asarray, arrays))) for arrays in zip(*decoded, strict=True)
        )
        return levels[valid], classes[valid]


def color_histograms(images: np.ndarray) -> np.ndarray:
    """Returns square roots of color histograms with `4 x 4 x 4` bins, `[n, 64]`, of uint8 images `[n, H, W, 3]`.

    Their Euclidean distance is proportional to the Hellinger distance of the histograms.
    """
    levels = images.astype(np.int64) * BINS // 256
    colors = (levels[..., 0] * BINS + levels[..., 1]) * BINS + levels[..., 2]
    counts = np.stack([np.bincount(image.ravel(), minlength=BINS**3) for image in colors])
    return np.sqrt(counts / colors[0].size)


def nearest_labels(images: np.ndarray, references: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Returns for each image the label of the reference with the most similar colors; both are uint8 `[n, H, W, 3]`."""
    ours, theirs = color_histograms(images), color_histograms(references)
    return labels[np.argmax(ours @ theirs.T, axis=1)]  # the nearest unit vector has the largest product
