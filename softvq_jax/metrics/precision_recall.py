"""Improved precision and recall (Kynkäänniemi et al., 2019, eq. 1 and 2).

A set's manifold is the union of balls around its features, each reaching to its k-th nearest neighbour. Distances are
squared and in float64, block by block: memory does not grow with the product of the counts.
"""

import itertools
import math
from collections.abc import Callable, Iterator

import numpy as np

from softvq_jax.metrics.sample_size import require

BLOCK = 2048  # rows


def precision_recall(
    real, fake, neighbours: int = 3, *, on_progress: Callable[[int, int], None] = lambda done, total: None
) -> tuple[float, float]:
    """Share of `fake` inside the manifold of `real`, and share of `real` inside that of `fake`.

    Args:
      real, fake: features `[n, d]`: arrays, or anything that slices into arrays.
      neighbours: k; a feature is not its own neighbour.
      on_progress: told how many blocks of distances are done, and of how many.

    Raises:
      TooFewImages: for a set without that many neighbours.
      ValueError: for sets of different features, or not finite.
    """
    require(min(len(real), len(fake)), neighbours + 1, f"a manifold of {neighbours} neighbours")
    if real.shape[1] != fake.shape[1]:
        raise ValueError(f"features of {real.shape[1]} and {fake.shape[1]} numbers cannot be compared")
    tick = _ticks(len(real), len(fake), on_progress)
    real_radii, fake_radii = squared_radii(real, neighbours, tick), squared_radii(fake, neighbours, tick)
    fake_inside, real_inside = np.zeros(len(fake), bool), np.zeros(len(real), bool)
    for rows, x in _blocks(real):
        for columns, y in _blocks(fake):
            distances = squared_distances(x, y)
            real_inside[rows] |= (distances <= fake_radii[columns]).any(axis=1)
            fake_inside[columns] |= (distances <= real_radii[rows, None]).any(axis=0)
            tick()
    return float(fake_inside.mean()), float(real_inside.mean())


def f_score(precision: float, recall: float) -> float:
    """Harmonic mean of the two; 0 where both are 0."""
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def _ticks(real, fake, on_progress) -> Callable[[], None]:
    """What to call after every block of distances of sets of `real` and `fake` rows."""
    a, b = (math.ceil(count / BLOCK) for count in (real, fake))
    total, done = a * (a + 1) // 2 + b * (b + 1) // 2 + a * b, itertools.count(1)
    return lambda: on_progress(next(done), total)


def squared_radii(features, neighbours: int, on_block: Callable[[], None] = lambda: None) -> np.ndarray:
    """`[n]`: squared distance of every row of `features` to its k-th nearest other row."""
    nearest = np.full((len(features), neighbours), np.inf)
    for rows, x in _blocks(features):
        for columns, y in _blocks(features, rows.start):  # the blocks before are transposes of what was seen
            distances = squared_distances(x, y)
            if rows == columns:
                np.fill_diagonal(distances, np.inf)
            else:
                nearest[columns] = _smallest(nearest[columns], distances.T)
            nearest[rows] = _smallest(nearest[rows], distances)
            on_block()
    return nearest.max(axis=1)


def _smallest(nearest, distances):
    """The smallest of each row of both together, as many as `nearest` has."""
    neighbours = nearest.shape[1]
    return np.partition(np.concatenate([nearest, distances], axis=1), neighbours - 1, axis=1)[:, :neighbours]


def squared_distances(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """`[n, m]` float64 for float64 rows `[n, d]` and `[m, d]`."""
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
