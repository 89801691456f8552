"""Roofline model: a program's least time on a slice is the largest of the times of arithmetic, memory and network."""

from collections.abc import Iterable
from typing import NamedTuple

import jax

from softvq_jax.aot.chips import Chip
from softvq_jax.aot.collectives import Collective


class Roofline(NamedTuple):
    """Seconds per step for which each resource of a chip is busy at its peak rate (Williams et al., 2009)."""

    compute: float
    hbm: float
    ici: float
    """Links inside a slice."""
    dcn: float
    """Data-center network between slices."""

    @property
    def bound(self) -> str:
        """The resource that takes the longest."""
        return max(self._fields, key=lambda name: getattr(self, name))

    @property
    def overlapped(self) -> float:
        """Seconds of a step if all resources work at the same time: a lower bound."""
        return max(self)

    @property
    def serial(self) -> float:
        """Seconds of a step if only one resource works at a time."""
        return sum(self)


def roofline(
    chip: Chip,
    shape: tuple[int, ...],
    devices: list[jax.Device],  # pyright: ignore[reportInvalidTypeForm] (jaxlib has no stubs)
    flops_per_chip: float,
    hbm_bytes: float,
    collectives: Iterable[Collective],
) -> Roofline:
    """Returns the roofline of a program on slices of `shape` chips; `devices` are in the order of the mesh."""
    ici = dcn = 0.0
    for collective in collectives:
        sent = collective.times * collective.sent
        if collective.dcn:
            dcn += sent / chip.dcn_bandwidth
        elif len(collective.group) > 1:
            coordinates = [devices[position].coords for position in collective.group]
            ici += sent / group_bandwidth(chip, shape, coordinates)
    return Roofline(flops_per_chip / chip.matmul_flops, hbm_bytes / chip.hbm_bandwidth, ici, dcn)


def group_bandwidth(chip: Chip, shape: tuple[int, ...], coordinates: list[tuple[int, ...]]) -> float:
    """Returns the bytes per second that each chip of a group can send inside the group.

    A chip uses one link on every axis of the torus along which the group extends, or two if the group covers an axis that
    is a ring. Other groups on the same links are ignored.
    """
    links = 0
    for axis, length in enumerate(shape):
        extent = len({place[axis] for place in coordinates})
        if extent > 1:
            links += 2 if extent == length and length % chip.ring_multiple == 0 else 1
    return links * chip.link_bandwidth
