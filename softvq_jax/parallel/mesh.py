"""The only place that makes a mesh.

A mesh has the three axes `slice`, `data`, `fsdp`, outermost first. The batch is sharded over all three axes, which differ
in the placement of parameters and in the network that they use:

- `slice`: one entry per pod slice (or per host, for GPUs). Parameters are replicated; only the all-reduce of gradients
  crosses slices, because a data-center network cannot carry more.
- `data`: parameters are replicated inside a slice.
- `fsdp`: parameters, optimizer state and EMA are sharded (Zhao et al., 2023; ZeRO-3) and gathered block by block, so this
  axis needs the fastest links.
"""

import math
from collections.abc import Callable, Sequence

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding, PartitionSpec

from softvq_jax.plurals import counted

AXES = ("slice", "data", "fsdp")
BATCH_SPEC = PartitionSpec(AXES)


def make_mesh(slices: int = -1, data: int = -1, fsdp: int = 1, devices: Sequence[jax.Device] | None = None) -> Mesh:  # pyright: ignore[reportInvalidTypeForm] (jaxlib has no stubs)
    """Arranges `devices` (by default all devices of all processes) as a mesh `[slices, data, fsdp]`.

    Args:
      slices: number of pod slices, connected by the data-center network; -1 uses the number that the devices report, or 1
        if they report none (such as GPUs, or simulated devices). The latter can be split into any number of slices, in
        order.
      data: replicas of the parameters in each slice; -1 uses all remaining devices.
      fsdp: devices over which the parameters are sharded; -1 uses all remaining devices.

    Raises:
      ValueError: the product of the axes is not the number of devices, or `slices` contradicts the hardware.
    """
    devices = list(jax.devices() if devices is None else devices)
    reported = len({getattr(device, "slice_index", 0) for device in devices})
    shape = resolve_axes(reported if slices == -1 else slices, data, fsdp, len(devices))
    if reported > 1 and shape[0] != reported:
        raise ValueError(f"the mesh has slices={shape[0]}, but the devices are in {reported} slices: set slices=-1")
    return Mesh(_arrange(devices, shape, reported), AXES, axis_types=(AxisType.Auto,) * len(AXES))


def resolve_axes(slices: int, data: int, fsdp: int, num_devices: int) -> tuple[int, int, int]:
    """Returns `(slices, data, fsdp)`, with a -1 in `data` or `fsdp` replaced by the number of remaining devices.

    Raises:
      ValueError: the axes do not fit the number of devices; the message names both and suggests a mesh that fits.
    """
    given = f"mesh slices={slices}, data={data}, fsdp={fsdp}"
    if slices < 1 or any(size < 1 and size != -1 for size in (data, fsdp)):
        raise ValueError(f"{given}: an axis must be a positive number of devices, or -1 for all that the others leave")
    if data == fsdp == -1:
        raise ValueError(f"{given}: only one of data and fsdp can be -1")
    known = math.prod(size for size in (slices, data, fsdp) if size != -1)
    rest = num_devices // known
    shape = (slices, rest if data == -1 else data, rest if fsdp == -1 else fsdp)
    if math.prod(shape) != num_devices:
        fit_slices = math.gcd(slices, num_devices)
        fit_fsdp = math.gcd(max(fsdp, 1), num_devices // fit_slices)
        fit = f"slices={fit_slices}, data={num_devices // fit_slices // fit_fsdp}, fsdp={fit_fsdp}"
        raise ValueError(f"{given} does not multiply to the {counted(num_devices, 'device')}; this does: {fit}")
    return shape


def _arrange(devices, shape, reported_slices) -> np.ndarray:
    """Returns devices `[slices, data, fsdp]`, such that neighbors in the mesh are neighbors in the network."""
    inner = (1, *shape[1:])
    if reported_slices > 1:
        return mesh_utils.create_hybrid_device_mesh(inner, (shape[0], 1, 1), devices, allow_split_physical_axes=True)
    if shape[0] > 1:
        return np.asarray(devices).reshape(shape)
    return mesh_utils.create_device_mesh(inner, devices, allow_split_physical_axes=True)


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Returns the sharding of every batch: the first axis over all devices."""
    return NamedSharding(mesh, BATCH_SPEC)


def replicated(mesh: Mesh) -> NamedSharding:
    """Returns the sharding of replicated arrays."""
    return NamedSharding(mesh, PartitionSpec())


def check_global_batch(batch: int, mesh: Mesh | AbstractMesh) -> None:
    """Raises ValueError if `batch` images cannot be divided equally among the devices of the mesh."""
    if batch < 1 or batch % mesh.size:
        below = batch // mesh.size * mesh.size
        near = f"{below} or {below + mesh.size}" if below else f"{mesh.size}"
        raise ValueError(
            f"a global batch of {batch} does not divide among {mesh.size} devices "
            f"({', '.join(f'{axis}={size}' for axis, size in mesh.shape.items())}): use {near}"
        )


def process_rows(batch: int, mesh: Mesh) -> np.ndarray:
    """Returns the rows of a global batch that this process supplies, in the order that `global_batch` expects."""
    check_global_batch(batch, mesh)
    indices = batch_sharding(mesh).addressable_devices_indices_map((batch,)).values()
    starts = sorted(index[0].indices(batch)[:2] for index in indices if index is not None)
    return np.concatenate([np.arange(*bounds) for bounds in starts])


def global_batch(local, mesh: Mesh):
    """Makes global sharded arrays from each process's rows, a tree of arrays `[batch / processes, ...]`."""
    sharding = batch_sharding(mesh)
    return jax.tree.map(lambda rows: jax.make_array_from_process_local_data(sharding, np.asarray(rows)), local)


def constrain_batch(tree, mesh: Mesh | AbstractMesh | None = None):
    """Keeps the first axis of every array in `tree` sharded over all devices, inside `jit`.

    Without this, the partitioner may gather a batch instead of a weight. The default mesh is that of `jax.set_mesh`, if
    it is one of this library: its axes are `AXES`, of type Auto. Without a mesh, with one device, on any other mesh and
    inside `jax.shard_map`, this does nothing.
    """
    if mesh is None:
        mesh = jax.sharding.get_abstract_mesh()
        if mesh.axis_names != AXES or any(kind != AxisType.Auto for kind in mesh.axis_types):
            return tree
    if mesh.empty or mesh.size == 1:
        return tree
    return jax.tree.map(lambda x: jax.lax.with_sharding_constraint(x, NamedSharding(mesh, BATCH_SPEC)), tree)


def call_with_auto_axes(function: Callable[..., jax.Array], batch: jax.Array, *args) -> jax.Array:
    """Returns `function(batch, *args)`, computed with all axes of a user's mesh of type Auto.

    On a mesh with axes of type Explicit (`jax.make_mesh`'s default) every operation must say how its output is sharded;
    here the partitioner decides inside `function`, and the output is sharded like the first axis of `batch`.
    """
    sharding = jax.typeof(batch).sharding
    mesh = jax.sharding.get_abstract_mesh() if sharding.mesh.empty else sharding.mesh.abstract_mesh
    if AxisType.Explicit not in mesh.axis_types:
        return function(batch, *args)
    output = PartitionSpec(*sharding.spec[:1])
    with jax.sharding.use_abstract_mesh(mesh):
        return jax.sharding.auto_axes(function, out_sharding=output)(batch, *args)  # pyright: ignore[reportReturnType] (auto_axes has no annotations)
