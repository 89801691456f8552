"""Mean and covariance of a stream of features, in float64, whatever the batches, devices and hosts it came in."""

from collections.abc import Callable, Iterable

import numpy as np

from softvq_jax.metrics.sample_size import require

BLOCK = 2048  # rows


class Moments:
    """Count, mean and scatter matrix of rows `[n, d]` (Chan, Golub and LeVeque, 1983).

    Attributes:
      count: rows so far.
      mean: `[d]` float64.
      scatter: `[d, d]` float64, the sum of the outer products of the centred rows.
    """

    def __init__(self, dimension: int):
        self.count, self.mean, self.scatter = 0, np.zeros(dimension), np.zeros((dimension, dimension))

    @classmethod
    def of(cls, features, on_progress: Callable[[int, int], None] = lambda done, total: None) -> "Moments":
        """Moments of all rows of `features` `[n, d]`: an array, or anything that slices into arrays.

        Args:
          on_progress: told how many blocks are done, and of how many.
        """
        moments, starts = cls(features.shape[1]), range(0, len(features), BLOCK)
        for done, start in enumerate(starts, 1):
            moments.update(features[start : start + BLOCK])
            on_progress(done, len(starts))
        return moments

    def update(self, features: np.ndarray) -> None:
        """Takes in rows `[n, d]`; ValueError where one is NaN or infinite."""
        if not np.isfinite(features).all():
            row = int(np.flatnonzero(~np.isfinite(features).all(axis=1))[0])
            raise ValueError(
                f"the features of image {self.count + row} are not finite: the network's weights may be broken"
            )
        batch = Moments(len(self.mean))
        centred = np.asarray(features, np.float64)
        batch.count, batch.mean = len(centred), centred.mean(axis=0)
        centred = centred - batch.mean
        batch.scatter = centred.T @ centred
        self.merge(batch)

    def merge(self, other: "Moments") -> None:
        """Takes in the rows that `other` has seen."""
        if not other.count:
            return
        total = self.count + other.count
        shift = other.mean - self.mean
        self.scatter += other.scatter
        self.scatter += np.outer(shift, shift * (self.count * other.count / total))
        self.mean = self.mean + shift * (other.count / total)
        self.count = total

    def covariance(self, ddof: int = 1) -> np.ndarray:
        """`scatter / (count - ddof)`, `[d, d]`; TooFewImages for fewer than two rows."""
        require(self.count, 2, "a covariance")
        return self.scatter / (self.count - ddof)


def merged(parts: Iterable[Moments]) -> Moments:
    """The moments of the rows that all `parts` have seen together."""
    first, *others = parts
    total = Moments(len(first.mean))
    for part in (first, *others):
        total.merge(part)
    return total
