"""Measures random images with a small network on all devices and processes; process 0 prints a digest of the rows.

python -m tests.programs.measure_rows <folder> <count> <batch size>
"""

import hashlib
import sys
from functools import partial

from tests.programs import join

join()

import jax
import jax.numpy as jnp
import numpy as np

from softvq_jax.evaluate.devices import LocalDevices
from softvq_jax.evaluate.image_sets import ArrayImages
from softvq_jax.evaluate.measure import measure
from softvq_jax.evaluate.predictions import ImageSet
from softvq_jax.evaluate.row_cache import RowCache
from softvq_jax.parallel import distributed
from softvq_jax.parallel.mesh import make_mesh


class RowMeans:
    """A feature extractor that sums integers, so that the order of the additions does not matter."""

    fingerprint = "sums"

    def __init__(self, batch_size):
        self.devices = LocalDevices(batch_size)
        self._one = self.devices.replicate(np.float32(1))

    def __call__(self, images):
        sums = jax.jit(lambda one, x: {"f2048": one * x.astype(jnp.float32).sum(axis=(2, 3))})
        means = images.astype(np.float64).mean(axis=(1, 2, 3))
        return self.devices.map(partial(sums, self._one), images) | {"double": means / 3}


def digest(folder, count: int, batch_size: int) -> str | None:
    """Measures `count` images on all devices and processes; returns the digest of their rows in process 0."""
    pixels = np.random.default_rng(0).integers(0, 256, (count, 6, 5, 3), dtype=np.uint8)
    extractor = RowMeans(batch_size)
    cache = RowCache(folder, {}) if distributed.is_main_process() else None
    with jax.set_mesh(make_mesh()):  # as inside a training run
        measure(ImageSet(ArrayImages(pixels), extractor), cache, batch_size=extractor.devices.batch_size)
    if cache is None:
        return None
    assert len(cache) == count
    content = b"".join(cache[name].tobytes() for name in ("digest", "f2048", "double"))
    return hashlib.sha256(content).hexdigest()


if __name__ == "__main__":
    print(digest(sys.argv[1], int(sys.argv[2]), int(sys.argv[3])))
