"""Communication of data parallelism and ZeRO-3 in closed form, and the batch above which arithmetic takes longer.

With W trained weights sharded over `fsdp`, C replicated weights, and b bytes for each number, a step

- gathers every sharded weight for each pass that uses it (2 for trained weights, forward and backward): 2 b W bytes;
- reduce-scatters their gradients: b W;
- all-reduces each chip's shard of the gradients over the replicas: b W / fsdp over `data`, the same over `slice`;
- all-reduces the gradients of replicated weights over all chips: b C.

In a ring of n chips, each chip sends (n - 1) / n of the bytes that are gathered or scattered, and twice that for an
all-reduce. None of this depends on the batch, so below some number of images per chip the network is the bottleneck.
"""

from typing import NamedTuple

import jax

from softvq_jax.aot.chips import Chip


class Weights(NamedTuple):
    """Number of weights that a step communicates, and bytes of each (2 for bfloat16)."""

    sharded: float
    replicated: float = 0.0
    frozen: float = 0.0
    """Number of sharded weights that are not trained, times the number of passes that gather them."""
    width: int = 2


class Mesh(NamedTuple):
    """Chips by mesh axis."""

    slices: int
    data: int
    fsdp: int

    @property
    def chips(self) -> int:
        return self.slices * self.data * self.fsdp


class Sent(NamedTuple):
    """Bytes that one chip sends in a step."""

    gather: float
    scatter: float
    reduce: float
    between_slices: float

    @property
    def inside_slice(self) -> float:
        return self.gather + self.scatter + self.reduce


def count_weights(params, shardings, width: int = 2) -> Weights:
    """Counts the sharded and the replicated weights among the trained `params` (arrays or shapes)."""
    sizes = [
        (leaf.size, any(s.spec)) for leaf, s in zip(jax.tree.leaves(params), jax.tree.leaves(shardings), strict=True)
    ]
    sharded = sum(size for size, is_sharded in sizes if is_sharded)
    return Weights(sharded, sum(size for size, _ in sizes) - sharded, width=width)


def bytes_sent(weights: Weights, mesh: Mesh) -> Sent:
    """Returns the bytes that one chip sends in a step on `mesh`, by the closed form above."""
    sharded, replicated, frozen = (weights.width * count for count in weights[:3])
    if mesh.fsdp == 1:
        sharded, replicated, frozen = 0.0, sharded + replicated, 0.0
    inside, share = mesh.data * mesh.fsdp, sharded / mesh.fsdp
    return Sent(
        gather=(2 * sharded + frozen) * _ring(mesh.fsdp),
        scatter=sharded * _ring(mesh.fsdp),
        reduce=2 * share * _ring(mesh.data) + 2 * replicated * _ring(inside),
        # Between slices, each chip sends only the shard of the gradients of replicated weights that it has summed.
        between_slices=2 * (share + replicated / inside) * _ring(mesh.slices),
    )


def network_seconds(weights: Weights, mesh: Mesh, chip: Chip) -> float:
    """Returns the seconds of communication per step, with `fsdp` on one ring of the torus and `data` on the others.

    Links inside a slice and between slices are used at the same time.
    """
    sent, ring = bytes_sent(weights, mesh), 2 * chip.link_bandwidth
    others = ring * max(1, len(chip.pod) - (mesh.fsdp > 1))
    inside = (sent.gather + sent.scatter) / ring + sent.reduce / others
    return max(inside, sent.between_slices / chip.dcn_bandwidth)


def least_images_per_chip(weights: Weights, mesh: Mesh, chip: Chip, flops_per_image: float) -> float:
    """Returns the images per chip below which communication takes longer than arithmetic at peak rate."""
    return network_seconds(weights, mesh, chip) * chip.matmul_flops / flops_per_image


def _ring(members: int) -> float:
    return (members - 1) / members
