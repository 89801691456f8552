"""Improved precision and recall (Kynkäänniemi et al., 2019, eq. 1 and 2).

The manifold of a set is the union of balls around its features; a ball's radius is the distance to the k-th nearest
neighbor. Squared distances are computed in float64, block by block, so that memory does not grow with the product of the
counts.
"""

import itertools
import math
from collections.abc import Callable, Iterator

import numpy as np

from softvq_jax.metrics.metric import Metric, OnProgress, require

BLOCK = 2048  # rows per block


def precision_recall(
    real, fake, neighbors: int = 3, *, on_progress: OnProgress = lambda done, total: None
) -> tuple[float, float]:
    """Returns the share of `fake` inside the manifold of `real`, and of `real` inside the manifold of `fake`.

    Args:
      real, fake: features `[n, d]`, arrays or objects whose slices are arrays.
      neighbors: k; a feature is not its own neighbor.
      on_progress: called with the number of finished blocks of distances and the number of all blocks.

    Raises:
      TooFewImages: a set has too few images for k neighbors.
      ValueError: the sets have different numbers of features, or a feature is not finite.
    """
    require(min(len(real), len(fake)), neighbors + 1, f"a manifold of {neighbors} neighbors")
    if real.shape[1] != fake.shape[1]:
        raise ValueError(f"features of {real.shape[1]} and {fake.shape[1]} numbers cannot be compared")
    tick = _ticks(len(real), len(fake), on_progress)
    real_radii, fake_radii = squared_radii(real, neighbors, tick), squared_radii(fake, neighbors, tick)
    fake_inside, real_inside = np.zeros(len(fake), bool), np.zeros(len(real), bool)
    for rows, x in _blocks(real):
        for columns, y in _blocks(fake):
            distances = squared_distances(x, y)
            real_inside[rows] |= (distances <= fake_radii[columns]).any(axis=1)
            fake_inside[columns] |= (distances <= real_radii[rows, None]).any(axis=0)
            tick()
    return float(fake_inside.mean()), float(real_inside.mean())


def f_score(precision: float, recall: float) -> float:
    """Returns the harmonic mean; 0 if both are 0."""
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def _ticks(real, fake, on_progress) -> Callable[[], None]:
    """Returns a function to call after every block of distances, for sets of `real` and `fake` rows."""
    a, b = (math.ceil(count / BLOCK) for count in (real, fake))
    total, done = a * (a + 1) // 2 + b * (b + 1) // 2 + a * b, itertools.count(1)
    return lambda: on_progress(next(done), total)


def squared_radii(features, neighbors: int, on_block: Callable[[], None] = lambda: None) -> np.ndarray:
    """Returns the squared distance of every row of `features` to its k-th nearest other row, `[n]`."""
    nearest = np.full((len(features), neighbors), np.inf)
    for rows, x in _blocks(features):
        for columns, y in _blocks(features, rows.start):  # earlier blocks are transposes of computed ones
            distances = squared_distances(x, y)
            if rows == columns:
                np.fill_diagonal(distances, np.inf)
            else:
                nearest[columns] = _smallest(nearest[columns], distances.T)
            nearest[rows] = _smallest(nearest[rows], distances)
            on_block()
    return nearest.max(axis=1)


def _smallest(nearest, distances):
    """Merges two arrays of distances; returns the smallest of each row, as many as `nearest` has."""
    neighbors = nearest.shape[1]
    return np.partition(np.concatenate([nearest, distances], axis=1), neighbors - 1, axis=1)[:, :neighbors]


def squared_distances(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Returns squared distances `[n, m]` float64 of float64 rows `x` `[n, d]` and `y` `[m, d]`."""
    distances = x @ y.T
    distances *= -2
    distances += (x * x).sum(axis=1)[:, None]
    distances += (y * y).sum(axis=1)
    return np.maximum(distances, 0, out=distances)


def _blocks(features, first=0) -> Iterator[tuple[slice, np.ndarray]]:
    for start in range(first, len(features), BLOCK):
        block = np.asarray(features[start : start + BLOCK], np.float64)
        if not np.isfinite(block).all():
            raise ValueError(f"features {start} to {start + len(block) - 1} are not all finite")
        yield slice(start, start + len(block)), block


def _compute(samples, reference, protocol, on_progress):
    fake, real = samples.rows("f2048"), reference.rows("f2048")
    if protocol.max_references is not None and len(real) > protocol.max_references:
        drawn = np.random.RandomState(protocol.shuffle_seed).choice(len(real), protocol.max_references, replace=False)
        real = real[np.sort(drawn)]
    precision, recall = precision_recall(real, fake, protocol.neighbors, on_progress=on_progress)
    values = {"precision": precision, "recall": recall, "f_score": f_score(precision, recall)}
    return values, samples.image_counts | {reference.name: len(real)}


def _describe(protocol):
    references = "all references"
    if protocol.max_references is not None:
        references = f"at most {protocol.max_references:,} references, drawn with seed {protocol.shuffle_seed}"
    return f"k = {protocol.neighbors}, {references}; distances in float64"


PRECISION_RECALL = Metric(
    "precision and recall",
    {"precision": "Precision", "recall": "Recall", "f_score": "F-score of precision and recall"},
    "higher",
    _compute,
    _describe,
)
