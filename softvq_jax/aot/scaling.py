"""Communication of data parallelism and ZeRO-3 in closed form, and the batch from which arithmetic takes longer.

With W trained weights sharded over `fsdp` and C replicated, each sent as b bytes, a step

- gathers every sharded weight for each pass that needs it, 2 for a trained one (forward, backward): 2 b W in all;
- reduces and scatters their gradient: b W;
- sums it over the replicas, each chip its own shard: b W / fsdp over `data`, the same over `slice`;
- sums the gradients of replicated weights over all chips: b C.

A ring of n sends (n - 1) / n of what it gathers or scatters, and twice that of what it sums. None of this depends on
the batch, so there is a number of images per chip below which the network is the slowest part.
"""

from typing import NamedTuple

import jax

from softvq_jax.aot.chips import Chip


class Weights(NamedTuple):
    """Number of weights that a step communicates, and bytes of each (2: gathered and reduced in bfloat16)."""

    sharded: float
    replicated: float = 0.0
    frozen: float = 0.0
    """Sharded weights that are not trained, times the passes that gather them."""
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
    """Counts the trained `params` (arrays or shapes), sharded and replicated ones by their `shardings`."""
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
        # Gradients of replicated weights cross as the shard that each chip of a slice has summed.
        between_slices=2 * (share + replicated / inside) * _ring(mesh.slices),
    )


def network_seconds(weights: Weights, mesh: Mesh, chip: Chip) -> float:
    """Returns the seconds that the network needs in a step, with `fsdp` on one ring of the torus and `data` on the others.

    Links inside a slice and between slices work at the same time.
    """
    sent, ring = bytes_sent(weights, mesh), 2 * chip.link_bandwidth
    others = ring * max(1, len(chip.pod) - (mesh.fsdp > 1))
    inside = (sent.gather + sent.scatter) / ring + sent.reduce / others
    return max(inside, sent.between_slices / chip.dcn_bandwidth)


def least_images_per_chip(weights: Weights, mesh: Mesh, chip: Chip, flops_per_image: float) -> float:
    """Returns the images per chip and step below which the network takes longer than the arithmetic at peak."""
    return network_seconds(weights, mesh, chip) * chip.matmul_flops / flops_per_image


def _ring(members: int) -> float:
    return (members - 1) / members
