"""Puts batches on a mesh with neighbors in different processes; each process checks the rows that it gets."""

from tests.programs import join

join()

import jax
import numpy as np
from jax.experimental import multihost_utils

from softvq_jax.parallel import mesh

BATCH = 16

devices = sorted(jax.devices(), key=lambda device: (device.id % jax.local_device_count(), device.process_index))
assert [device.process_index for device in devices] == [0, 1, 0, 1]
interleaved = mesh.make_mesh(1, 2, 2, devices=devices)
rows = mesh.process_rows(BATCH, interleaved)
assert rows.tolist() == [[0, 1, 2, 3, 8, 9, 10, 11], [4, 5, 6, 7, 12, 13, 14, 15]][jax.process_index()]
arrived = mesh.global_batch({"row": 10 * rows}, interleaved)["row"]
np.testing.assert_array_equal(multihost_utils.process_allgather(arrived, tiled=True), 10 * np.arange(BATCH))
