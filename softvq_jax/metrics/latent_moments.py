"""Mean and standard deviation of a stream of latents, which generators normalize with."""

from collections.abc import Mapping

import numpy as np


class LatentMoments:
    """Mean and variance over images and tokens in float64, independent of how they are divided into batches.

    Attributes:
      count: values per channel.
    """

    def __init__(self, channels: int):
        self.count, self._mean, self._squares = 0, np.zeros(channels), np.zeros(channels)

    def update(self, latents: np.ndarray) -> None:
        """Adds latents `[B, L, D]`; raises ValueError for another number of channels and for values that are not finite."""
        channels = len(self._mean)
        rows = np.asarray(latents, np.float64).reshape(-1, np.shape(latents)[-1])
        if rows.shape[1] != channels:
            raise ValueError(f"latents of {rows.shape[1]} channels; expected {channels}")
        if not np.isfinite(rows).all():
            raise ValueError(f"{np.count_nonzero(~np.isfinite(rows))} of {rows.size} latent numbers are not finite")
        mean = rows.mean(axis=0)
        self._add(len(rows), mean, ((rows - mean) ** 2).sum(axis=0))

    def merge(self, other: "LatentMoments") -> None:
        """Adds the latents that `other` was updated with."""
        if other.count:
            self._add(other.count, other._mean, other._squares)

    def to_fields(self) -> dict:
        """The moments as JSON values."""
        return {"count": self.count, "mean": self._mean.tolist(), "squares": self._squares.tolist()}

    @classmethod
    def from_fields(cls, fields: Mapping) -> "LatentMoments":
        """The inverse of `to_fields`, without loss."""
        moments = cls(len(fields["mean"]))
        moments.count, moments._mean, moments._squares = (
            fields["count"],
            np.asarray(fields["mean"], np.float64),
            np.asarray(fields["squares"], np.float64),
        )
        return moments

    def _add(self, count, mean, squares):
        """Adds `count` rows of this mean and sum of squared deviations (Chan et al., 1983)."""
        total, shift = self.count + count, mean - self._mean
        self._squares = self._squares + squares + shift**2 * (self.count * count / total)
        self._mean = self._mean + shift * (count / total)
        self.count = total

    @property
    def channel_mean(self) -> np.ndarray:
        """`[D]`."""
        return self._mean

    @property
    def channel_std(self) -> np.ndarray:
        """`[D]`, with ddof 0."""
        return np.sqrt(self._squares / self.count)

    @property
    def mean(self) -> float:
        """Over all values: the `vq_mean` of published weights."""
        return float(self._mean.mean())

    @property
    def std(self) -> float:
        """Over all values, about `mean`: the `vq_std` of published weights."""
        return float(np.sqrt((self._squares / self.count + (self._mean - self.mean) ** 2).mean()))
