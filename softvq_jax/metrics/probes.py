"""How much of an image's class can be read off a vector: a linear probe and nearest neighbours, in closed form."""

import numpy as np

STRENGTHS = 10.0 ** np.arange(-4, 5)
"""Ridge penalties that the linear probe chooses among, over the mean eigenvalue of the features' Gram matrix."""


def linear_probe(train: np.ndarray, labels: np.ndarray, test: np.ndarray) -> np.ndarray:
    """Predicted classes of `test`: ridge regression on one-hot targets, after standardising with `train`.

    The penalty is the one of `STRENGTHS` with the least squared error when each image of `train` is left out in turn,
    which ridge regression knows without fitting again (Allen's PRESS): nothing of `test` is looked at.

    Args:
      train, test: `[n, d]`, `[m, d]`.
      labels: `[n]` integers, classes of `train`.

    Returns:
      `[m]`.
    """
    classes, targets = np.unique(labels, return_inverse=True)
    mean, std = train.mean(axis=0, dtype=np.float64), train.std(axis=0, dtype=np.float64)
    std = np.where(std > 1e-6 * std.max(initial=0), std, np.inf)  # a constant feature says nothing
    x, y = (train - mean) / std, np.eye(len(classes))[targets]
    offset = y.mean(axis=0)
    left, lengths, right = np.linalg.svd(x, full_matrices=False)
    projected, best = left.T @ (y - offset), (np.inf, None)
    for penalty in STRENGTHS * np.mean(lengths**2):
        shrink = lengths**2 / (lengths**2 + penalty)
        residual = y - offset - left @ (shrink[:, None] * projected)
        leverage = 1 / len(x) + (left**2) @ shrink  # the first for the offset
        error = np.mean((residual / (1 - np.minimum(leverage, 1 - 1e-9))[:, None]) ** 2)
        if error < best[0]:
            best = error, right.T @ ((lengths / (lengths**2 + penalty))[:, None] * projected)
    return classes[np.argmax((test - mean) / std @ best[1] + offset, axis=1)]


def nearest(train: np.ndarray, test: np.ndarray, count: int) -> np.ndarray:
    """The rows of `train` that point most nearly the way each row of `test` does: `[m, count]`, the nearest first."""
    similarity = _unit(test) @ _unit(train).T
    return np.argsort(-similarity, axis=1, kind="stable")[:, :count]


def nearest_class(train: np.ndarray, labels: np.ndarray, test: np.ndarray, neighbours: int = 10) -> np.ndarray:
    """Predicted classes of `test`, `[m]`: the most frequent among the nearest; of equals, the one nearest by."""
    votes = labels[nearest(train, test, neighbours)]
    counts = (votes[:, :, None] == votes[:, None, :]).sum(axis=2)
    return votes[np.arange(len(votes)), counts.argmax(axis=1)]


def _unit(x):
    x = np.asarray(x, np.float64)
    return x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)
