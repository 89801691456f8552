"""The TPU generations, from their public data sheets.

Peak, HBM and pod size: https://cloud.google.com/tpu/docs/v4 (and v5e, v5p, v6e). One link's one-way bandwidth and the
data-center network per chip: "How to Scale Your Model", https://jax-ml.github.io/scaling-book/tpus. `hbm` is the memory
that the compiler allows a program, from its out-of-memory message: the data sheet's size minus the runtime's memory.
"""

from typing import NamedTuple

GIB = 2**30


class Chip(NamedTuple):
    """One TPU chip; rates per second, sizes in bytes."""

    name: str
    matmul_flops: float
    """bfloat16 peak; a multiply-add counts as two."""
    hbm: int
    hbm_bandwidth: float
    link_bandwidth: float
    """One inter-chip link in one direction; a chip has two links on each axis of its torus."""
    dcn_bandwidth: float
    """From one chip into the data-center network, between slices."""
    pod: tuple[int, ...]
    """Shape of the largest slice, a torus."""
    ring_multiple: int
    """An axis of a slice is a ring if its length is a multiple of this."""


CHIPS = {
    chip.name: chip
    for chip in (
        Chip("v4", 275e12, int(30.75 * GIB), 1.20e12, 4.5e10, 6.25e9, (16, 16, 16), 4),
        Chip("v5e", 197e12, int(15.75 * GIB), 8.19e11, 4.5e10, 3.125e9, (16, 16), 16),
        Chip("v5p", 459e12, int(95.74 * GIB), 2.765e12, 9.0e10, 6.25e9, (16, 20, 28), 4),
        Chip("v6e", 918e12, int(31.25 * GIB), 1.64e12, 9.0e10, 1.25e10, (16, 16), 16),
    )
}
