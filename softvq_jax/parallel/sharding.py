"""Shardings of all arrays of a state: ordered rules from paths to shardings, of which the first match is used.

Optimizer moments and averages contain the paths of the parameters (`opt/0/mu/encoder/...`), so that one rule places a
parameter and all arrays of the same shape that belong to it.
"""

import math
import re
from collections.abc import Callable, Sequence

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

Shape = tuple[int, ...]
Policy = Callable[[Shape, int], PartitionSpec]

MIN_SIZE_TO_SHARD = 2**16
"""Smaller tensors are replicated: gathering one costs a network latency, keeping it at most 256 KiB."""


def replicate(shape: Shape, fsdp: int) -> PartitionSpec:
    """Policy that replicates an array on every device."""
    return PartitionSpec()


def largest_axis(first: int = 0, min_size: int = MIN_SIZE_TO_SHARD) -> Policy:
    """Returns a policy that shards the largest axis whose length the number of `fsdp` devices divides.

    Args:
      first: axes before this one are not sharded and do not count towards the size. It is 1 for stacked blocks, which
        are scanned one at a time: their leading axis must not be sharded.
      min_size: tensors with fewer elements are replicated.
    """

    def policy(shape: Shape, fsdp: int) -> PartitionSpec:
        divisible = [axis for axis in range(first, len(shape)) if shape[axis] and shape[axis] % fsdp == 0]
        if fsdp == 1 or not divisible or math.prod(shape[first:]) < min_size:
            return PartitionSpec()
        axis = max(divisible, key=lambda axis: shape[axis])
        return PartitionSpec(*(None,) * axis, "fsdp")

    return policy


DEFAULT_RULES: tuple[tuple[str, Policy], ...] = (
    (r"(^|/)(blocks|heads)/", largest_axis(first=1)),
    (r"", largest_axis()),
)


def shardings_for(tree, mesh: Mesh, rules: Sequence[tuple[str, Policy]] = DEFAULT_RULES):
    """Returns a tree with a `NamedSharding` for every leaf of `tree` (arrays or `jax.ShapeDtypeStruct`s).

    A rule is a regular expression, searched in the '/'-joined path of the leaf, and a policy.

    Raises:
      ValueError: no rule matches a leaf.
    """

    def place(path, leaf):
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        for pattern, policy in rules:
            if re.search(pattern, name):
                return NamedSharding(mesh, policy(leaf.shape, mesh.shape["fsdp"]))
        raise ValueError(f"no sharding rule matches {name!r}: end the rules with ('', policy)")

    return jax.tree_util.tree_map_with_path(place, tree)


def abstract(tree, shardings):
    """Returns the `jax.ShapeDtypeStruct`s of `tree` with `shardings`, for lowering or for restoring a checkpoint."""
    return jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), tree, shardings)


def init_sharded(init: Callable, mesh: Mesh, *args, rules: Sequence[tuple[str, Policy]] = DEFAULT_RULES):
    """Computes `init(*args)` directly into its shards: no device or host ever holds the full tree."""
    shardings = shardings_for(jax.eval_shape(init, *args), mesh, rules)
    return jax.jit(init, out_shardings=shardings)(*args)
