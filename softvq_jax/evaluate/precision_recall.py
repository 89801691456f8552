"""Improved precision and recall (Kynkäänniemi et al., 2019, eq. 1 and 2).

A set's manifold is the union of balls around its features, each reaching to its k-th nearest neighbour. Distances are
squared and in float64, block by block: memory does not grow with the product of the counts.
"""

from collections.abc import Iterator

import numpy as np

from softvq_jax.evaluate.counts import require

BLOCK = 2048  # rows


def precision_recall(real, fake, neighbours: int = 3) -> tuple[float, float]:
    """Share of `fake` inside the manifold of `real`, and share of `real` inside that of `fake`.

    Args:
      real, fake: features `[n, d]`: arrays, or anything that slices into arrays.
      neighbours: k; a feature is not its own neighbour.

    Raises:
      TooFewImages: for a set without that many neighbours.
      ValueError: for sets of different features, or not finite.
    """
    require(min(len(real), len(fake)), neighbours + 1, f"a manifold of {neighbours} neighbours")
    if real.shape[1] != fake.shape[1]:
        raise ValueError(f"features of {real.shape[1]} and {fake.shape[1]} numbers cannot be compared")
    real_radii, fake_radii = squared_radii(real, neighbours), squared_radii(fake, neighbours)
    fake_inside, real_inside = np.zeros(len(fake), bool), np.zeros(len(real), bool)
    for rows, x in _blocks(real):
        for columns, y in _blocks(fake):
            distances = squared_distances(x, y)
            real_inside[rows] |= (distances <= fake_radii[columns]).any(axis=1)
            fake_inside[columns] |= (distances <= real_radii[rows, None]).any(axis=0)
    return float(fake_inside.mean()), float(real_inside.mean())


def f_score(precision: float, recall: float) -> float:
    """Harmonic mean of the two; 0 where both are 0."""
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def squared_radii(features, neighbours: int) -> np.ndarray:
    """`[n]`: squared distance of every row of `features` to its k-th nearest other row."""
    radii = np.empty(len(features))
    for rows, x in _blocks(features):
        nearest = np.full((len(x), neighbours), np.inf)
        for columns, y in _blocks(features):
            distances = squared_distances(x, y)
            if rows == columns:
                np.fill_diagonal(distances, np.inf)
            candidates = np.concatenate([nearest, distances], axis=1)
            nearest = np.partition(candidates, neighbours - 1, axis=1)[:, :neighbours]
        radii[rows] = nearest.max(axis=1)
    return radii


def squared_distances(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """`[n, m]` float64 for float64 rows `[n, d]` and `[m, d]`."""
    distances = x @ y.T
    distances *= -2
    distances += (x * x).sum(axis=1)[:, None]
    distances += (y * y).sum(axis=1)
    return np.maximum(distances, 0, out=distances)


def _blocks(features) -> Iterator[tuple[slice, np.ndarray]]:
    for start in range(0, len(features), BLOCK):
        block = np.asarray(features[start : start + BLOCK], np.float64)
        if not np.isfinite(block).all():
            raise ValueError(f"features {start} to {start + len(block) - 1} are not all finite")
        yield slice(start, start + len(block)), block
