"""Fréchet distance between two normal distributions (Heusel et al., 2017, eq. 6), in float64."""

import numpy as np

from softvq_jax.metrics.metric import Metric, NotMeasured


def frechet_distance(mu1: np.ndarray, sigma1: np.ndarray, mu2: np.ndarray, sigma2: np.ndarray) -> float:
    """Returns `|mu1 - mu2|^2 + Tr(sigma1 + sigma2 - 2 (sigma1 sigma2)^(1/2))`.

    With `sigma = R R^T`, the trace of the root is the sum of the singular values of `R1^T R2`, and `R` is computed from the
    eigenvalues of `sigma`. This is accurate for singular covariances (fewer images than features), for which
    `scipy.linalg.sqrtm(sigma1 @ sigma2)` is not.

    Args:
      mu1, mu2: `[d]`.
      sigma1, sigma2: `[d, d]`.

    Raises:
      ValueError: the shapes do not match, a number is not finite, or a matrix is not a covariance.
    """
    _check(mu1, sigma1, mu2, sigma2)
    mu1, sigma1, mu2, sigma2 = (np.asarray(x, np.float64) for x in (mu1, sigma1, mu2, sigma2))
    cross = np.linalg.svd(covariance_root(sigma1).T @ covariance_root(sigma2), compute_uv=False).sum()
    return float(((mu1 - mu2) ** 2).sum() + np.trace(sigma1) + np.trace(sigma2) - 2 * cross)


def covariance_root(sigma: np.ndarray) -> np.ndarray:
    """Returns `R` `[d, rank]` with `R R^T = sigma`; raises ValueError for a matrix with negative eigenvalues."""
    values, vectors = np.linalg.eigh((sigma + sigma.T) / 2)
    if values[0] < -1e-4 * abs(values[-1]):  # rounding to float32 in files gives values well above this
        raise ValueError(f"eigenvalues from {values[0]:.3g} to {values[-1]:.3g}: sigma is not a covariance matrix")
    kept = values > np.finfo(float).eps * len(values) * values[-1]  # smaller ones are rounding errors
    return vectors[:, kept] * np.sqrt(values[kept])


def _check(mu1, sigma1, mu2, sigma2):
    shapes = [np.shape(x) for x in (mu1, sigma1, mu2, sigma2)]
    dimension = shapes[0][0] if shapes[0] else 0
    if shapes != [(dimension,), (dimension, dimension)] * 2:
        raise ValueError(f"mu, sigma, mu, sigma have shapes {shapes}; expected [d], [d, d] twice, of the same features")
    for name, array in zip(("mu1", "sigma1", "mu2", "sigma2"), (mu1, sigma1, mu2, sigma2), strict=True):
        if not np.isfinite(array).all():
            raise ValueError(f"{name} holds {np.count_nonzero(~np.isfinite(array))} values that are not finite")


def _fid(samples, reference, protocol, on_progress):
    a, b = samples.require_statistics(), reference.require_statistics()
    on_progress(0, 1)
    distance = frechet_distance(a.mu, a.sigma, b.mu, b.sigma)
    return {"fid": distance}, samples.statistics_counts | reference.statistics_counts


def _sfid(samples, reference, protocol, on_progress):
    a, b = samples.require_statistics(), reference.require_statistics()
    if a.mu_s is None or b.mu_s is None:
        raise NotMeasured("the statistics file has no mu_s and sigma_s")
    on_progress(0, 1)
    distance = frechet_distance(a.mu_s, a.sigma_s, b.mu_s, b.sigma_s)
    return {"sfid": distance}, samples.statistics_counts | reference.statistics_counts


FID = Metric("FID", {"fid": "FID"}, "lower", _fid)
"""FID, on pool3 features."""

SFID = Metric("sFID", {"sfid": "sFID"}, "lower", _sfid)
"""sFID, on spatial features (Nash et al., 2021)."""
