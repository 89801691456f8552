"""Statistics files: mean and covariance of a set's features, in the `.npz` layout that FID code shares.

`mu`, `sigma` are of pool3, `mu_s`, `sigma_s` of the spatial features of sFID. A file may also hold images (`arr_0`), as
ADM's reference batches do; those are `images.NpzImages`.
"""

import dataclasses
import os

import numpy as np

from softvq_jax.metrics.moments import Moments
from softvq_jax.metrics.npz import array_names
from softvq_jax.storage import files


@dataclasses.dataclass(frozen=True)
class Statistics:
    """What FID and sFID need of a set: float64 `[d]` and `[d, d]`; None where it is not known."""

    mu: np.ndarray
    sigma: np.ndarray
    mu_s: np.ndarray | None = None
    sigma_s: np.ndarray | None = None
    count: int | None = None

    @classmethod
    def of(cls, pool3: Moments, spatial: Moments | None = None, ddof: int = 1) -> "Statistics":
        """The statistics of the images whose features two `Moments` have seen."""
        extra = (None, None) if spatial is None else (spatial.mean, spatial.covariance(ddof))
        return cls(pool3.mean, pool3.covariance(ddof), *extra, count=pool3.count)


def has_statistics(path: str | os.PathLike) -> bool:
    """Whether `path` is an `.npz` with `mu` and `sigma`."""
    if not str(path).endswith(".npz") or not os.path.isfile(path):
        return False
    return {"mu", "sigma"} <= set(array_names(path))


def has_images(path: str | os.PathLike) -> bool:
    """Whether `path` is anything but an `.npz` of statistics alone."""
    return not has_statistics(path) or "arr_0" in array_names(path)


def read_statistics(path: str | os.PathLike) -> Statistics:
    """Reads `mu`, `sigma` and, where they are there, `mu_s`, `sigma_s` and our own `count`.

    Raises:
      ValueError: an array is missing, has the wrong shape, or holds NaN.
    """
    with np.load(path) as file:
        arrays = {
            name: np.asarray(file[name], np.float64) for name in ("mu", "sigma", "mu_s", "sigma_s") if name in file
        }
        count = int(file["count"]) if "count" in file else None
    for mean, covariance in (("mu", "sigma"), ("mu_s", "sigma_s")):
        if (mean in arrays) != (covariance in arrays) or "mu" not in arrays:
            found = ", ".join(arrays) or "no statistics"
            raise ValueError(f"{path} holds {found}; expected mu and sigma, and mu_s and sigma_s for sFID")
        if mean in arrays and arrays[covariance].shape != arrays[mean].shape * 2:
            shapes = f"{mean} {arrays[mean].shape} and {covariance} {arrays[covariance].shape}"
            raise ValueError(f"{path}: {shapes} do not fit; expected [d] and [d, d]")
    for name, array in arrays.items():
        if broken := np.count_nonzero(~np.isfinite(array)):
            raise ValueError(
                f"{path}: {broken:,} numbers of {name} are not finite: make the file again from its images"
            )
    return Statistics(**arrays, count=count)


def write_statistics(path: str | os.PathLike, statistics: Statistics) -> None:
    """Writes what is known, atomically; other programs find `mu`, `sigma`, `mu_s`, `sigma_s`."""
    known = {name: value for name, value in vars(statistics).items() if value is not None}
    with files.replacing(path) as partial, open(partial, "wb") as file:
        np.savez(file, **known)
