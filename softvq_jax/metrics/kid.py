"""Kernel Inception distance (Binkowski et al., 2018): the unbiased squared MMD with a cubic kernel."""

import numpy as np

from softvq_jax.metrics.metric import Metric, OnProgress, require


def kernel_distance(
    real,
    fake,
    *,
    subsets: int = 100,
    subset_size: int = 1000,
    seed: int = 2020,
    on_progress: OnProgress = lambda done, total: None,
) -> tuple[float, float]:
    """Returns mean and population standard deviation of the squared MMD over random subsets, computed in float64.

    Args:
      real, fake: features `[n, d]`, arrays or objects that an array of row numbers can index.
      subsets: number of random subsets.
      subset_size: rows of each set in a subset, drawn without replacement.
      seed: seed of `numpy.random.RandomState`, which draws first from `fake`, then from `real` (torch-fidelity's inputs 1
        and 2).
      on_progress: called with the number of finished subsets and the number of all subsets.

    Raises:
      TooFewImages: a set is smaller than `subset_size`.
      ValueError: a feature is not finite.
    """
    require(min(len(real), len(fake)), subset_size, f"KID with subsets of {subset_size}")
    random = np.random.RandomState(seed)
    values = []
    for done in range(1, subsets + 1):
        x, y = (
            np.asarray(features[random.choice(len(features), subset_size, replace=False)], np.float64)
            for features in (fake, real)
        )
        if not (np.isfinite(x).all() and np.isfinite(y).all()):
            raise ValueError("the features are not all finite: the network's weights may be broken")
        values.append(squared_mmd(x, y))
        on_progress(done, subsets)
    return float(np.mean(values)), float(np.std(values))


def squared_mmd(x: np.ndarray, y: np.ndarray) -> float:
    """Returns the unbiased squared MMD of `x` `[n, d]` and `y` `[m, d]` with the kernel `(x.y / d + 1)^3`."""
    return _mean_off_diagonal(_kernel(x, x)) + _mean_off_diagonal(_kernel(y, y)) - 2 * float(_kernel(x, y).mean())


def _kernel(x, y):
    return (x @ y.T / x.shape[1] + 1) ** 3


def _mean_off_diagonal(k) -> float:
    return float((k.sum() - np.trace(k)) / (len(k) * (len(k) - 1)))


def _compute(samples, reference, protocol, on_progress):
    mean, std = kernel_distance(
        reference.rows("f2048"),
        samples.rows("f2048"),
        subsets=protocol.kid_subsets,
        subset_size=protocol.kid_subset_size,
        seed=protocol.shuffle_seed,
        on_progress=on_progress,
    )
    return {"kid_mean": mean, "kid_std": std}, samples.image_counts | reference.image_counts


def _describe(protocol):
    subsets = f"{protocol.kid_subsets} subsets of {protocol.kid_subset_size:,}"
    return f"{subsets}, drawn with seed {protocol.shuffle_seed}; cubic kernel, float64"


KID = Metric("KID", {"kid_mean": "KID", "kid_std": "KID, std over subsets"}, "lower", _compute, _describe)
