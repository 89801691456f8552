"""How long a program takes at best on a slice: the slowest of its arithmetic, its memory and its network."""

from collections.abc import Iterable
from typing import NamedTuple

import jax

from softvq_jax.aot.chips import Chip
from softvq_jax.aot.collectives import Collective


class Roofline(NamedTuple):
    """Seconds a step that each resource of a chip is busy at full rate (Williams et al., 2009)."""

    compute: float
    hbm: float
    ici: float
    """The links inside a slice."""
    dcn: float
    """The data-centre network between slices."""

    @property
    def bound(self) -> str:
        """The resource that takes longest."""
        return max(self._fields, key=lambda name: getattr(self, name))

    @property
    def overlapped(self) -> float:
        """Seconds a step if all resources work at the same time: no program is faster."""
        return max(self)

    @property
    def serial(self) -> float:
        """Seconds a step if they never do."""
        return sum(self)


def roofline(
    chip: Chip,
    shape: tuple[int, ...],
    devices: list[jax.Device],
    flops_per_chip: float,
    hbm_bytes: float,
    collectives: Iterable[Collective],
) -> Roofline:
    """The roofline of a program on slices of `shape` chips; `devices` in the order of the mesh."""
    ici = dcn = 0.0
    for one in collectives:
        if one.dcn:
            dcn += one.times * one.sent / chip.dcn_bandwidth
        elif len(one.group) > 1:
            coordinates = [devices[position].coords for position in one.group]
            ici += one.times * one.sent / group_bandwidth(chip, shape, coordinates)
    return Roofline(flops_per_chip / chip.matmul_flops, hbm_bytes / chip.hbm_bandwidth, ici, dcn)


def group_bandwidth(chip: Chip, shape: tuple[int, ...], coordinates: list[tuple[int, ...]]) -> float:
    """Bytes a second that each chip of a group can send inside the group.

    One link along every axis of the torus on which the group extends, two where it covers an axis that closes into a
    ring. Other groups on the same links are not accounted for.
    """
    links = 0
    for axis, length in enumerate(shape):
        extent = len({place[axis] for place in coordinates})
        if extent > 1:
            links += 2 if extent == length and length % chip.ring_multiple == 0 else 1
    return links * chip.link_bandwidth
