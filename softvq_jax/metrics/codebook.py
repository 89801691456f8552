"""Codebook usage and perplexity."""

import numpy as np


class CodebookUsage:
    """Counts the tokens of each code in a stream of indices.

    Attributes:
      counts: `[C, K]` int64, number of tokens for each code of each codebook.
    """

    def __init__(self, num_codebooks: int, codebook_size: int):
        self.counts = np.zeros((num_codebooks, codebook_size), np.int64)

    def update(self, indices: np.ndarray) -> None:
        """Counts indices `[B, C, L/C]`.

        Raises:
          ValueError: the number of codebooks is wrong, or an index is out of range.
        """
        indices = np.asarray(indices)
        codebooks, size = self.counts.shape
        if indices.ndim != 3 or indices.shape[1] != codebooks:
            raise ValueError(f"indices of shape {indices.shape}; expected [B, {codebooks}, tokens]")
        if indices.size and not 0 <= indices.min() <= indices.max() < size:
            raise ValueError(f"indices from {indices.min()} to {indices.max()}; expected 0 to {size - 1}")
        for counts, own in zip(self.counts, indices.swapaxes(0, 1), strict=True):
            counts += np.bincount(own.ravel(), minlength=size)

    @property
    def usage(self) -> float:
        """Share of all codes that are used by at least one token."""
        return float((self.counts > 0).mean())

    @property
    def perplexity(self) -> float:
        """`exp` of the entropy of the codes' frequencies, averaged over codebooks; K if all codes are used equally."""
        p = self.counts / np.maximum(self.counts.sum(axis=1, keepdims=True), 1)
        entropy = -(p * np.log(np.where(p > 0, p, 1))).sum(axis=1)
        return float(np.exp(entropy).mean())

    def profile(self, points: int = 100) -> list[float]:
        """Returns counts of codes divided by their mean, at `points` evenly spaced ranks from most to least used."""
        counts = np.sort(self.counts.ravel())[::-1]
        rows = np.linspace(0, len(counts) - 1, min(points, len(counts))).round().astype(int)
        return (counts[rows] / max(counts.mean(), 1e-300)).tolist()
