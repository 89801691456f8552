"""The only place that makes a mesh.

A mesh always has the three axes `slice`, `data`, `fsdp`, outermost first. All three divide the batch; they differ in
what they do to parameters and in the network they cross:

- `slice`: one entry per pod slice (or per host, for GPUs). Parameters are copied; only the gradient's all-reduce
  crosses it, which is all that a data-centre network can carry.
- `data`: copies of the parameters inside a slice.
- `fsdp`: parameters, optimiser state and EMA are divided over it (Zhao et al., 2023; ZeRO-3) and gathered block by
  block, so it belongs on the fastest links.
"""

import math
from collections.abc import Sequence

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

AXES = ("slice", "data", "fsdp")
BATCH_SPEC = PartitionSpec(AXES)


def make_mesh(slices: int = -1, data: int = -1, fsdp: int = 1, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """Arranges `devices` (by default all, of all processes) as `[slices, data, fsdp]`.

    Args:
      slices: number of pod slices joined by the data-centre network; -1 is what the devices report, 1 where they
        report nothing. Devices that report none can be cut into any number of slices, in their order: hosts of GPUs,
        or a simulation.
      data: copies of the parameters in each slice; -1 is all the devices that `slices` and `fsdp` leave.
      fsdp: devices that share one copy of the parameters; -1 is all that `slices` and `data` leave.

    Raises:
      ValueError: the axes do not multiply to the number of devices, or `slices` contradicts the hardware.
    """
    devices = list(jax.devices() if devices is None else devices)
    reported = len({getattr(device, "slice_index", 0) for device in devices})
    shape = resolve_axes(reported if slices == -1 else slices, data, fsdp, len(devices))
    if reported > 1 and shape[0] != reported:
        raise ValueError(f"the mesh has slices={shape[0]}, but the devices lie in {reported} slices: set slices=-1")
    return Mesh(_arrange(devices, shape, reported), AXES, axis_types=(AxisType.Auto,) * len(AXES))


def resolve_axes(slices: int, data: int, fsdp: int, num_devices: int) -> tuple[int, int, int]:
    """`(slices, data, fsdp)` with the -1 among `data` and `fsdp` replaced by what the other axes leave.

    Raises:
      ValueError: naming the axes that came, the number of devices and a mesh that fits it.
    """
    given = f"mesh slices={slices}, data={data}, fsdp={fsdp}"
    if slices < 1 or any(size < 1 and size != -1 for size in (data, fsdp)):
        raise ValueError(f"{given}: an axis is a positive number of devices, or -1 for all that the others leave")
    if data == fsdp == -1:
        raise ValueError(f"{given}: only one of data and fsdp can be -1")
    known = math.prod(size for size in (slices, data, fsdp) if size != -1)
    rest = num_devices // known
    shape = (slices, rest if data == -1 else data, rest if fsdp == -1 else fsdp)
    if math.prod(shape) != num_devices:
        fit_slices = math.gcd(slices, num_devices)
        fit_fsdp = math.gcd(max(fsdp, 1), num_devices // fit_slices)
        fit = f"slices={fit_slices}, data={num_devices // fit_slices // fit_fsdp}, fsdp={fit_fsdp}"
        raise ValueError(f"{given} does not multiply to the {num_devices} devices there are; this would: {fit}")
    return shape


def _arrange(devices, shape, reported_slices) -> np.ndarray:
    """Devices `[slices, data, fsdp]`, neighbours in the mesh being neighbours on the machine's network."""
    inner = (1, *shape[1:])
    if reported_slices > 1:
        return mesh_utils.create_hybrid_device_mesh(inner, (shape[0], 1, 1), devices, allow_split_physical_axes=True)
    if shape[0] > 1:
        return np.asarray(devices).reshape(shape)
    return mesh_utils.create_device_mesh(inner, devices, allow_split_physical_axes=True)


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """The sharding of every batch: the first axis over all devices."""
    return NamedSharding(mesh, BATCH_SPEC)


def replicated(mesh: Mesh) -> NamedSharding:
    """A whole copy on every device."""
    return NamedSharding(mesh, PartitionSpec())


def check_global_batch(batch: int, mesh: Mesh) -> None:
    """Raises ValueError where `batch` images cannot be divided equally among the mesh's devices."""
    if batch < 1 or batch % mesh.size:
        below = batch // mesh.size * mesh.size
        near = f"{below} or {below + mesh.size}" if below else f"{mesh.size}"
        raise ValueError(
            f"a global batch of {batch} does not divide among {mesh.size} devices "
            f"({', '.join(f'{axis}={size}' for axis, size in mesh.shape.items())}): use {near}"
        )


def process_rows(batch: int, mesh: Mesh) -> np.ndarray:
    """Which rows of a global batch this process must supply, in the order `global_batch` expects them."""
    check_global_batch(batch, mesh)
    indices = batch_sharding(mesh).addressable_devices_indices_map((batch,)).values()
    starts = sorted(index[0].indices(batch)[:2] for index in indices)
    return np.concatenate([np.arange(*bounds) for bounds in starts])


def global_batch(local, mesh: Mesh):
    """This process's rows (a tree of arrays `[batch / processes, ...]`) as the tree of global, sharded arrays."""
    sharding = batch_sharding(mesh)
    return jax.tree.map(lambda rows: jax.make_array_from_process_local_data(sharding, np.asarray(rows)), local)


def constrain_batch(tree, mesh: Mesh | None = None):
    """Inside `jit`: keeps the first axis of every array in `tree` divided over all devices.

    The partitioner otherwise may prefer to gather a batch to spare itself the gather of a weight. The mesh is the one
    of `jax.set_mesh` unless given; without a mesh, or with one device, nothing happens.
    """
    mesh = jax.sharding.get_abstract_mesh() if mesh is None else mesh
    if mesh.empty or mesh.size == 1:
        return tree
    return jax.tree.map(lambda x: jax.lax.with_sharding_constraint(x, NamedSharding(mesh, BATCH_SPEC)), tree)
