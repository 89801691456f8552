"""Probes, which predict the class of an image from its latents by a linear model or nearest neighbors."""

import importlib.util

import numpy as np

STRENGTHS = 10.0 ** np.arange(-4, 5)
"""Ridge penalties among which the linear probe chooses, in units of the features' mean squared singular value."""


def check_installed() -> None:
    """Raises ImportError if scikit-learn, which the linear probe needs, is not installed."""
    if importlib.util.find_spec("sklearn") is None:
        raise ImportError("linear probes need: pip install 'softvq-jax[studies]'")


def linear_probe(train: np.ndarray, labels: np.ndarray, test: np.ndarray) -> np.ndarray:
    """Predicts classes by ridge regression on one-hot targets (scikit-learn's `RidgeClassifierCV`).

    Features are standardized by the mean and standard deviation of `train`. The penalty in `STRENGTHS` with the least
    squared error in leave-one-out cross-validation on `train` is used.

    Args:
      train: features `[n, d]`.
      labels: integer classes of `train`, `[n]`.
      test: features `[m, d]`.

    Returns:
      Classes of `test`, `[m]`.

    Raises:
      ImportError: scikit-learn is not installed.
    """
    check_installed()
    from sklearn.linear_model import RidgeClassifierCV  # pyright: ignore[reportMissingImports] (extra)
    from sklearn.preprocessing import StandardScaler  # pyright: ignore[reportMissingImports] (extra)

    scaler = StandardScaler().fit(np.asarray(train, np.float64))
    x, x_test = (np.asarray(scaler.transform(np.asarray(features, np.float64))) for features in (train, test))
    scale = np.square(x).sum() / min(x.shape)  # the sum of the squared singular values over their number
    classifier = RidgeClassifierCV(STRENGTHS * max(scale, 1e-30)).fit(x, labels)
    return np.asarray(classifier.predict(x_test))


def nearest(train: np.ndarray, test: np.ndarray, count: int) -> np.ndarray:
    """Returns the indices of the rows of `train` most similar (by cosine) to each row of `test`, `[m, count]`."""
    similarity = _unit(test) @ _unit(train).T
    return np.argsort(-similarity, axis=1, kind="stable")[:, :count]


def nearest_class(train: np.ndarray, labels: np.ndarray, test: np.ndarray, neighbors: int = 10) -> np.ndarray:
    """Predicts classes `[m]` by a vote of the nearest neighbors.

    The nearest neighbor breaks ties. In scikit-learn's `KNeighborsClassifier` the first class in sorted order does, and
    ties are frequent with ten neighbors and many classes.
    """
    votes = labels[nearest(train, test, neighbors)]
    counts = (votes[:, :, None] == votes[:, None, :]).sum(axis=2)
    return votes[np.arange(len(votes)), counts.argmax(axis=1)]


def _unit(x: np.ndarray) -> np.ndarray:
    x = np.asarray(x, np.float64)
    return x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)
