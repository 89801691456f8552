"""Where every array of a state lives: ordered rules from its path to a sharding, the first match wins.

Optimiser moments and averages repeat the parameters' paths (`opt/0/mu/encoder/...`), so one rule places a parameter and
everything that mirrors it.
"""

import math
import re
from collections.abc import Callable, Sequence

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

Shape = tuple[int, ...]
Policy = Callable[[Shape, int], PartitionSpec]

MIN_SIZE_TO_SHARD = 2**16
"""Smaller tensors are copied: gathering one costs a network latency, keeping it a quarter of a megabyte."""


def copied(shape: Shape, fsdp: int) -> PartitionSpec:
    """The policy of a whole copy on every device."""
    return PartitionSpec()


def largest_axis(first: int = 0, min_size: int = MIN_SIZE_TO_SHARD) -> Policy:
    """The policy that divides the largest axis the `fsdp` devices can share equally.

    Args:
      first: axes before this one stay whole and do not count towards the size. It is 1 for stacked blocks, which are
        scanned one at a time: their leading axis must lie whole on every device.
      min_size: tensors of fewer elements are copied.
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
    """A `NamedSharding` for every leaf of `tree` (arrays or `jax.ShapeDtypeStruct`s), in the same tree.

    A rule is a regular expression searched in the leaf's '/'-joined path, and a policy.

    Raises:
      ValueError: a leaf that no rule matches.
    """

    def place(path, leaf):
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        for pattern, policy in rules:
            if re.search(pattern, name):
                return NamedSharding(mesh, policy(leaf.shape, mesh.shape["fsdp"]))
        raise ValueError(f"no sharding rule matches {name!r}: end the rules with ('', policy)")

    return jax.tree_util.tree_map_with_path(place, tree)


def abstract(tree, shardings):
    """The `jax.ShapeDtypeStruct`s of `tree` with `shardings`: what lowering, and a restore straight to shards, take."""
    return jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), tree, shardings)


def init_sharded(init: Callable, mesh: Mesh, *args, rules: Sequence[tuple[str, Policy]] = DEFAULT_RULES):
    """`init(*args)` computed straight into its shards: no device or host ever holds the whole tree."""
    shardings = shardings_for(jax.eval_shape(init, *args), mesh, rules)
    return jax.jit(init, out_shardings=shardings)(*args)
