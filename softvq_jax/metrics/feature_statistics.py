"""Mean and covariance of features, computed from a stream of features, or read from and written to `.npz` files.

The files have the usual layout of FID code: `mu`, `sigma` of pool3 and `mu_s`, `sigma_s` of the spatial features of sFID.
A file may also hold images (`arr_0`), as ADM's reference batches do; `evaluate.image_sets.NpzImages` reads them.
"""

import dataclasses
import os
from collections.abc import Callable

import numpy as np

from softvq_jax.metrics.metric import require
from softvq_jax.metrics.npz import array_names, reading
from softvq_jax.storage import files, listing, mirror

BLOCK = 2048  # rows per block


class Moments:
    """Count, mean and scatter matrix of rows `[n, d]` in float64 (Chan, Golub and LeVeque, 1983).

    The result does not depend on how the rows are divided into batches, devices and hosts. `np.cov` is not used because it
    needs all rows in memory at once.

    Attributes:
      count: number of rows.
      mean: `[d]` float64.
      scatter: `[d, d]` float64, the sum of the outer products of the centered rows.
    """

    def __init__(self, dimension: int):
        self.count, self.mean, self.scatter = 0, np.zeros(dimension), np.zeros((dimension, dimension))

    @classmethod
    def from_rows(cls, features, on_progress: Callable[[int, int], None] = lambda done, total: None) -> "Moments":
        """Returns the moments of all rows of `features`.

        Args:
          features: rows `[n, d]`, as an array or an object whose slices are arrays.
          on_progress: called with the number of finished blocks and the number of all blocks.
        """
        moments, starts = cls(features.shape[1]), range(0, len(features), BLOCK)
        for done, start in enumerate(starts, 1):
            moments.update(features[start : start + BLOCK])
            on_progress(done, len(starts))
        return moments

    def update(self, features: np.ndarray) -> None:
        """Adds rows `[n, d]`; raises ValueError if one is not finite."""
        if not np.isfinite(features).all():
            row = int(np.flatnonzero(~np.isfinite(features).all(axis=1))[0])
            raise ValueError(
                f"the features of image {self.count + row} are not finite: the network's weights may be broken"
            )
        batch = Moments(len(self.mean))
        centered = np.asarray(features, np.float64)
        batch.count, batch.mean = len(centered), centered.mean(axis=0)
        centered = centered - batch.mean
        batch.scatter = centered.T @ centered
        self.merge(batch)

    def merge(self, other: "Moments") -> None:
        """Adds the rows of `other`."""
        if not other.count:
            return
        total = self.count + other.count
        shift = other.mean - self.mean
        self.scatter += other.scatter
        self.scatter += np.outer(shift, shift * (self.count * other.count / total))
        self.mean = self.mean + shift * (other.count / total)
        self.count = total

    def covariance(self, ddof: int = 1) -> np.ndarray:
        """Returns `scatter / (count - ddof)`, `[d, d]`; raises TooFewImages for fewer than two rows."""
        require(self.count, 2, "a covariance")
        return self.scatter / (self.count - ddof)


@dataclasses.dataclass(frozen=True)
class FeatureStatistics:
    """Mean and covariance of the features of a set of images, which FID and sFID compare.

    Attributes:
      mu, sigma: mean and covariance of pool3, float64 `[d]` and `[d, d]`.
      mu_s, sigma_s: mean and covariance of the spatial features; None if unknown.
      count: number of images; None if unknown.
    """

    mu: np.ndarray
    sigma: np.ndarray
    mu_s: np.ndarray | None = None
    sigma_s: np.ndarray | None = None
    count: int | None = None

    @classmethod
    def from_moments(cls, pool3: Moments, spatial: Moments | None = None, ddof: int = 1) -> "FeatureStatistics":
        """Returns the statistics, given the moments of pool3 and spatial features."""
        extra = (None, None) if spatial is None else (spatial.mean, spatial.covariance(ddof))
        return cls(pool3.mean, pool3.covariance(ddof), *extra, count=pool3.count)


def has_statistics(path: str | os.PathLike) -> bool:
    """Returns whether `path` is an `.npz` file with `mu` and `sigma`."""
    if not str(path).endswith(".npz") or not listing.is_file(os.fspath(path)):
        return False
    return {"mu", "sigma"} <= set(array_names(path))


def has_images(path: str | os.PathLike) -> bool:
    """Returns whether `path` may hold images, which is not so for an `.npz` file with only statistics."""
    return not has_statistics(path) or "arr_0" in array_names(path)


def read_statistics(path: str | os.PathLike) -> FeatureStatistics:
    """Reads `mu`, `sigma` and, if present, `mu_s`, `sigma_s` and `count` (which only our files have).

    Raises:
      ValueError: the file is damaged; an array is missing, has the wrong shape or type, or contains values that are not
        finite.
    """
    names = array_names(path)
    local = mirror.local_file(path)
    with reading(path), np.load(local) as file:
        found = {name: file[name] for name in ("mu", "sigma", "mu_s", "sigma_s", "count") if name in names}
    for name, array in found.items():
        if array.dtype.kind not in ("iu" if name == "count" else "iuf"):
            raise ValueError(f"{path}: {name} is of type {array.dtype}; expected real numbers, and an integer as count")
    count = found.pop("count", None)
    if count is not None and (count.ndim or count < 0):
        raise ValueError(f"{path}: count is {count}; expected the number of images")
    arrays = {name: np.asarray(array, np.float64) for name, array in found.items()}
    for mean, covariance in (("mu", "sigma"), ("mu_s", "sigma_s")):
        if (mean in arrays) != (covariance in arrays) or "mu" not in arrays:
            found = ", ".join(arrays) or "no statistics"
            raise ValueError(f"{path} holds {found}; expected mu and sigma, and mu_s and sigma_s for sFID")
        if mean in arrays and (arrays[mean].ndim != 1 or arrays[covariance].shape != arrays[mean].shape * 2):
            shapes = f"{mean} {arrays[mean].shape} and {covariance} {arrays[covariance].shape}"
            raise ValueError(f"{path}: {shapes} do not match; expected [d] and [d, d]")
    for name, array in arrays.items():
        if broken := np.count_nonzero(~np.isfinite(array)):
            raise ValueError(
                f"{path}: {broken:,} numbers of {name} are not finite: make the file again from its images"
            )
    for name in ("sigma", "sigma_s"):
        if name in arrays and (np.diagonal(arrays[name]) < 0).any():
            raise ValueError(f"{path}: {name} has negative variances: make the file again from its images")
    return FeatureStatistics(**arrays, count=None if count is None else int(count))


def write_statistics(path: str | os.PathLike, statistics: FeatureStatistics) -> None:
    """Writes all known arrays atomically, under the usual names of FID code."""
    known = {name: value for name, value in vars(statistics).items() if value is not None}
    with files.replacing(path) as partial, open(partial, "wb") as file:
        np.savez(file, **known)


def small_sample_warning(count: int | None, features: int, name: str) -> str | None:
    """Returns a warning if a covariance of `features` features is estimated from fewer images, else None."""
    if count is None or count >= features:
        return None
    return (
        f"{name}: {count:,} images for {features:,} features: their covariance is singular, and FID depends on the "
        "counts: compare it only with FIDs of the same counts (50,000 is usual)"
    )
