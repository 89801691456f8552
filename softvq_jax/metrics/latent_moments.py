"""Mean and standard deviation of a stream of latents, which generators normalize with."""

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
        total = self.count + len(rows)
        mean = rows.mean(axis=0)
        shift = mean - self._mean
        self._squares += ((rows - mean) ** 2).sum(axis=0) + shift**2 * (self.count * len(rows) / total)
        self._mean = self._mean + shift * (len(rows) / total)
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
