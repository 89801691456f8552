"""Runs functions on all devices of this process, with batches sharded over them."""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from softvq_jax.parallel import mesh as meshes
from softvq_jax.weights import fingerprints

CPU_BATCH, ACCELERATOR_BATCH = 16, 64  # per device; on CPUs, larger batches exceed the caches and run slower

Rows = dict[str, np.ndarray]
"""Arrays by name, with one row for each image."""


class LocalDevices:
    """The devices of this process: parameters are replicated on them, batches are sharded over them.

    Args:
      batch_size: images in a batch, rounded up to a multiple of the number of devices; by default chosen for the devices.
      devices: all devices of this process by default.

    Attributes:
      batch_size: number of images in a batch.
    """

    def __init__(self, batch_size: int | None = None, devices: Sequence[jax.Device] | None = None):  # pyright: ignore[reportInvalidTypeForm] (jaxlib has no stubs)
        self._mesh = mesh = meshes.make_mesh(slices=1, devices=devices or jax.local_devices())
        per_device = CPU_BATCH if jax.default_backend() == "cpu" else ACCELERATOR_BATCH
        self.batch_size = mesh.size * math.ceil((batch_size or per_device * mesh.size) / mesh.size)
        self._sharded, self._replicated = meshes.batch_sharding(mesh), meshes.replicated(mesh)

    def replicate(self, params: Any) -> Any:
        """Replicates a tree of arrays on all devices."""
        return jax.device_put(params, self._replicated)

    def map(self, function: Callable[..., dict[str, jax.Array]], *arrays: np.ndarray) -> Rows:
        """Applies `function` to batches of the rows of `arrays` `[n, ...]`, for any n, and concatenates the results.

        Args:
          function: takes a batch of each array, sharded over the devices, and returns rows by name.
          *arrays: arrays with the same number of rows.
        """
        starts = range(0, len(arrays[0]), self.batch_size)
        parts = [self._map_batch(function, [x[start : start + self.batch_size] for x in arrays]) for start in starts]
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    def _map_batch(self, function, arrays):
        # The last batch is padded with copies of its last row, so that only one shape is compiled.
        count = len(arrays[0])
        missing = self.batch_size - count
        padded = [np.concatenate([x, np.repeat(x[-1:], missing, axis=0)]) if missing else x for x in arrays]
        with jax.set_mesh(self._mesh):  # a training run's own mesh contains devices of other processes
            results = function(*jax.device_put(padded, self._sharded))
        return {name: np.asarray(rows)[:count] for name, rows in results.items()}


class DeviceFunction:
    """A function of parameters and rows, with the parameters replicated on all local devices.

    Args:
      function: `(params, *arrays) -> rows by name`; it is jitted here.
      params: a tree of arrays.
      devices: the devices to run on; all devices of this process by default.
    """

    def __init__(self, function: Callable[..., dict[str, jax.Array]], params: Any, devices: LocalDevices | None = None):
        self._function, self.devices = function, devices or LocalDevices()
        self.load(params)

    def load(self, params: Any) -> None:
        """Replaces the parameters by new ones of the same shapes, without compiling again."""
        self._params = self.devices.replicate(params)
        self.__dict__.pop("fingerprint", None)

    @functools.cached_property
    def fingerprint(self) -> str:
        """Fingerprint of the parameters."""
        return fingerprints.of_weights(self._params)

    def __call__(self, *arrays: np.ndarray) -> Rows:
        """Returns rows by name for the rows of `arrays` `[n, ...]`, for any n."""
        return self.devices.map(functools.partial(self._function, self._params), *arrays)
