"""Networks over all devices of this process, each taking its share of a batch."""

import math
from collections.abc import Callable, Sequence

import jax
import numpy as np

from softvq_jax.parallel import mesh as meshes

CPU_BATCH, ACCELERATOR_BATCH = 16, 64  # per device; on CPUs larger ones leave the caches and go slower

Rows = dict[str, np.ndarray]


class LocalDevices:
    """This process's devices: networks are copied to each of them, batches divided among them.

    Attributes:
      batch_size: images that go through at a time, a multiple of the number of devices.
    """

    def __init__(self, batch_size: int | None = None, devices: Sequence[jax.Device] | None = None):
        """`batch_size` is rounded up; None takes what suits the devices."""
        self._mesh = mesh = meshes.make_mesh(slices=1, devices=devices or jax.local_devices())
        per_device = CPU_BATCH if jax.default_backend() == "cpu" else ACCELERATOR_BATCH
        self.batch_size = mesh.size * math.ceil((batch_size or per_device * mesh.size) / mesh.size)
        self._batch, self._copy = meshes.batch_sharding(mesh), meshes.replicated(mesh)

    def copy(self, params):
        """A tree of arrays, whole on every device."""
        return jax.device_put(params, self._copy)

    def map(self, function: Callable[..., dict[str, jax.Array]], *arrays: np.ndarray) -> Rows:
        """`function` over the rows of `arrays` `[n, ...]`, a batch at a time; n is any number.

        Args:
          function: takes a batch of each array, on the devices, and returns rows by name.
        """
        starts = range(0, len(arrays[0]), self.batch_size)
        parts = [self._one_batch(function, [x[start : start + self.batch_size] for x in arrays]) for start in starts]
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    def _one_batch(self, function, arrays):
        # One compiled shape: the last batch is filled up with copies of its last row.
        count = len(arrays[0])
        missing = self.batch_size - count
        filled = [np.concatenate([x, np.repeat(x[-1:], missing, axis=0)]) if missing else x for x in arrays]
        with jax.set_mesh(self._mesh):  # not the mesh of a training run around it, which has other processes' devices
            results = function(*jax.device_put(filled, self._batch))
        return {name: np.asarray(rows)[:count] for name, rows in results.items()}
