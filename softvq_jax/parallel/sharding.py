"""Shardings of all arrays of a state, by ordered rules from paths to shardings; the first rule that matches is used.

Paths of optimizer moments and averages contain the paths of parameters (`opt/0/mu/encoder/...`), so one rule places a
parameter and its moments and average.
"""

import math
import re
from collections.abc import Callable, Sequence
from typing import Any

import jax
from jax.sharding import AbstractMesh, Mesh, NamedSharding, PartitionSpec

Shape = tuple[int, ...]
Policy = Callable[[Shape, int], PartitionSpec]

MIN_SIZE_TO_SHARD = 2**16
"""Arrays with fewer elements are replicated, which costs at most 256 KiB; gathering them would cost a network latency."""


def replicate(shape: Shape, fsdp: int) -> PartitionSpec:
    """Policy that replicates an array on all devices."""
    return PartitionSpec()


def largest_axis(first: int = 0, min_size: int = MIN_SIZE_TO_SHARD) -> Policy:
    """Returns a policy that shards the largest axis with a length divisible by the number of `fsdp` devices.

    Args:
      first: axes before this one are not sharded and do not count towards the size. It is 1 for stacked blocks, which
        are scanned one at a time, so their leading axis must not be sharded.
      min_size: arrays with fewer elements are replicated.
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


def shardings_for(tree, mesh: Mesh | AbstractMesh, rules: Sequence[tuple[str, Policy]] = DEFAULT_RULES):
    """Returns a tree with a `NamedSharding` for every leaf of `tree` (arrays or `jax.ShapeDtypeStruct`s).

    A rule is a policy and a regular expression, which is searched in the '/'-joined path of the leaf.

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
    """Returns `jax.ShapeDtypeStruct`s of `tree` with `shardings`, to lower a function or restore a checkpoint."""
    return jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), tree, shardings)


def init_sharded(
    init: Callable, mesh: Mesh, *args, rules: Sequence[tuple[str, Policy]] = DEFAULT_RULES, shardings: Any = None
):
    """Computes `init(*args)` directly as shards, so that no device or host ever holds the full tree.

    The shardings are by default those of `rules`.
    """
    if shardings is None:
        shardings = shardings_for(jax.eval_shape(init, *args), mesh, rules)
    return jax.jit(init, out_shardings=shardings)(*args)
