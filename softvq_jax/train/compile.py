"""The one place where a training step is jitted: shardings, donation, compiler options."""

import jax
from jax.sharding import Mesh

from softvq_jax.parallel.mesh import batch_sharding, replicated
from softvq_jax.parallel.sharding import shardings_for
from softvq_jax.train.offload import offloading, state_shardings

# If all chips form one ring, the TPU compiler multiplies by the pieces of a sharded weight one after the other, and reads
# the tokens again for each piece: B-64 on v5e:4x4 then moves 77 GB of main memory per step, but 48 GB with gathered
# weights.
TPU_OPTIONS = {"xla_jf_spmd_threshold_for_windowed_einsum_mib": 1_000_000}
# Without this, the CPU's compiler orders a program for many cores, with the results of all loops allocated at its start:
# by its plan, half a GiB more of temporary buffers in a GAN step of S-64 with 4 images.
CPU_OPTIONS = {"xla_cpu_scheduler_type": "CPU_SCHEDULER_TYPE_MEMORY_OPTIMIZED"}


def compiler_options(mesh: Mesh) -> dict[str, int | str]:
    """Returns the compiler options for the devices of `mesh`."""
    platform = mesh.devices.flat[0].platform
    if platform == "cpu" and jax.__version_info__ < (0, 10, 2):  # earlier versions may not know the option
        return {}
    return {"tpu": TPU_OPTIONS, "cpu": CPU_OPTIONS}.get(platform, {})


def jit_step(step, state_shapes, frozen_shapes, mesh: Mesh, *, offload: bool = False):
    """Returns `step` jitted for a mesh. Call and lower it inside `jax.set_mesh(mesh)`.

    The state is donated: the input state cannot be used afterwards.

    Args:
      step: the pure step, `(state, frozen, batch, key) -> (state, metrics)`.
      state_shapes, frozen_shapes: trees of arrays or `ShapeDtypeStruct`s; their shapes determine the shardings.
      mesh: from `parallel.mesh.make_mesh`.
      offload: whether moments and averages of the state are in host memory; see `offload.state_shardings`.
    """
    state_sharding = state_shardings(state_shapes, mesh, offload)
    return jax.jit(
        offloading(step) if offload else step,
        in_shardings=(state_sharding, shardings_for(frozen_shapes, mesh), batch_sharding(mesh), replicated(mesh)),
        out_shardings=(state_sharding, replicated(mesh)),
        donate_argnums=0,
        compiler_options=compiler_options(mesh),
    )


def put(tree, mesh: Mesh):
    """Shards host arrays over the mesh. All processes must pass the same arrays."""

    def place(leaf, sharding):
        return jax.make_array_from_callback(leaf.shape, sharding, lambda index: leaf[index])

    return jax.tree.map(place, tree, shardings_for(tree, mesh))
