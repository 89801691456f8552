"""Optimizer moments and the moving average of parameters in the hosts' memory (`config.optim.offload`).

A step needs them only once its gradients are complete. In host memory, they take no memory of a chip or GPU during the
forward and backward pass, for two transfers of each in every step.
"""

import math
import re
from collections.abc import Callable

import jax
from jax.sharding import Mesh, NamedSharding

from softvq_jax.parallel.sharding import MIN_SIZE_TO_SHARD, shardings_for

MEMORY_KIND = "pinned_host"
_OFFLOADED = re.compile(r"(^|/)(opt|ema)/")
_MIN_SIZE = MIN_SIZE_TO_SHARD  # elements; smaller arrays would each cost a transfer and save nothing


def check_devices(mesh: Mesh) -> None:
    """Raises ValueError if the devices cannot keep arrays in their hosts' memory."""
    device = mesh.local_devices[0]
    kinds = [memory.kind for memory in device.addressable_memories()]
    if MEMORY_KIND not in kinds:
        raise ValueError(
            f"optim.offload=True needs {MEMORY_KIND} memory, which {device.device_kind} devices with jax "
            f"{jax.__version__} do not have (only {', '.join(kinds)}): set --config.optim.offload=False"
        )


def state_shardings(state, mesh: Mesh, offload: bool):
    """Returns the `NamedSharding` of every leaf of a state (arrays or `jax.ShapeDtypeStruct`s).

    Args:
      state: a state of `train.state`.
      mesh: from `parallel.mesh.make_mesh`.
      offload: `config.optim.offload`: whether moments and averages are in host memory.
    """
    shardings = shardings_for(state, mesh)
    if not offload:
        return shardings
    return _map_offloaded(lambda _, sharding: sharding.with_memory_kind(MEMORY_KIND), state, shardings)


def offloading(step: Callable) -> Callable:
    """Returns a training step, for `jax.jit`, whose state comes from host memory and goes back there."""

    def with_transfers(state, frozen, batch, key):
        state = _map_offloaded(lambda leaf: jax.device_put(leaf, jax.memory.Space.Device), state)
        state, metrics = step(state, frozen, batch, key)
        return _map_offloaded(lambda leaf: jax.device_put(leaf, jax.memory.Space.Host), state), metrics

    return with_transfers


def on_devices(tree):
    """Copies the arrays of a tree that are in host memory to the devices, with the same sharding."""

    def moved(leaf):
        sharding = getattr(leaf, "sharding", None)
        if isinstance(sharding, NamedSharding) and sharding.memory_kind == MEMORY_KIND:
            return jax.device_put(leaf, NamedSharding(sharding.mesh, sharding.spec))
        return leaf

    return jax.tree.map(moved, tree)


def _map_offloaded(function: Callable, state, *others):
    """Maps `function(leaf, *others)` over the leaves of a state that are offloaded; the others keep their last value."""

    def place(path, *leaves):
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        offloaded = _OFFLOADED.search(name) and math.prod(leaves[0].shape) >= _MIN_SIZE
        return function(*leaves) if offloaded else leaves[-1]

    return jax.tree_util.tree_map_with_path(place, state, *others)
