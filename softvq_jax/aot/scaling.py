"""What data parallelism and ZeRO-3 must send, in closed form, and where that overtakes the arithmetic.

With W numbers of trained weights divided over `fsdp` and C copied, each of b bytes on the way, a step

- gathers every divided weight for each pass that needs it, 2 for a trained one (forward, backward): 2 b W in all;
- reduces and scatters their gradient: b W;
- sums it over the copies, each chip its own part: b W / fsdp over `data`, the same over `slice`;
- sums the gradients of copied weights over all chips: b C.

A ring of n sends (n - 1) / n of what it gathers or scatters, and twice that of what it sums. None of this depends on
the batch, so the network sets a number of images a chip below which it is the slowest part.
"""

from typing import NamedTuple

import jax

from softvq_jax.aot.chips import Chip


class Weights(NamedTuple):
    """Numbers a step communicates, and bytes of each on the way (2: gathered and reduced in bfloat16)."""

    divided: float
    copied: float = 0.0
    frozen: float = 0.0
    """Divided weights that are not trained, times the passes that gather them."""
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
    """Bytes one chip sends a step."""

    gather: float
    scatter: float
    reduce: float
    between_slices: float

    @property
    def inside_slice(self) -> float:
        return self.gather + self.scatter + self.reduce


def count_weights(params, shardings, width: int = 2) -> Weights:
    """The trained `params` (arrays or shapes) by whether `shardings` divides them."""
    sizes = [
        (leaf.size, any(s.spec)) for leaf, s in zip(jax.tree.leaves(params), jax.tree.leaves(shardings), strict=True)
    ]
    divided = sum(size for size, is_divided in sizes if is_divided)
    return Weights(divided, sum(size for size, _ in sizes) - divided, width=width)


def bytes_sent(weights: Weights, mesh: Mesh) -> Sent:
    """Bytes one chip sends a step on `mesh`, by the closed form above."""
    divided, copied, frozen = (weights.width * count for count in weights[:3])
    if mesh.fsdp == 1:
        divided, copied, frozen = 0.0, divided + copied, 0.0
    inside, share = mesh.data * mesh.fsdp, divided / mesh.fsdp
    return Sent(
        gather=(2 * divided + frozen) * _ring(mesh.fsdp),
        scatter=divided * _ring(mesh.fsdp),
        reduce=2 * share * _ring(mesh.data) + 2 * copied * _ring(inside),
        # Copied gradients cross as the part each chip of a slice has summed.
        between_slices=2 * (share + copied / inside) * _ring(mesh.slices),
    )


def network_seconds(weights: Weights, mesh: Mesh, chip: Chip) -> float:
    """Seconds a step that the network needs, `fsdp` filling one ring of the torus and `data` the others.

    Links inside a slice and between slices work at the same time.
    """
    sent, ring = bytes_sent(weights, mesh), 2 * chip.link_bandwidth
    others = ring * max(1, len(chip.pod) - (mesh.fsdp > 1))
    inside = (sent.gather + sent.scatter) / ring + sent.reduce / others
    return max(inside, sent.between_slices / chip.dcn_bandwidth)


def least_images_per_chip(weights: Weights, mesh: Mesh, chip: Chip, flops_per_image: float) -> float:
    """Images a chip and step below which the network takes longer than the arithmetic at peak."""
    return network_seconds(weights, mesh, chip) * chip.matmul_flops / flops_per_image


def _ring(members: int) -> float:
    return (members - 1) / members
