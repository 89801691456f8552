"""Compiling a jitted function for devices that are not here."""

import re
from typing import Any, NamedTuple

import jax
from jax.sharding import Mesh

from softvq_jax.aot.flops import matmul_flops

_OUT_OF_MEMORY = re.compile(r"\(([\d.]+)([KMG])\) exceeds available HBM \(([\d.]+)([KMG])\)")
_UNITS = {"K": 2**10, "M": 2**20, "G": 2**30}


class Compiled(NamedTuple):
    """A program for one chip of many, and the arithmetic of the function it came from, over all chips."""

    program: jax.stages.Compiled
    flops: float


class OutOfMemory(Exception):
    """The program needs `needed` bytes of a chip's `available`; `flops` are the function's."""

    def __init__(self, needed: int, available: int, flops: float):
        super().__init__(f"needs {needed / 2**30:.2f} GiB of main memory a chip, which has {available / 2**30:.2f} GiB")
        self.needed, self.available, self.flops = needed, available, flops


def compile_for(function: Any, arguments: tuple, mesh: Mesh) -> Compiled:
    """Traces and compiles `function`, made by `jax.jit`, for the devices of `mesh`.

    Args:
      arguments: trees of `jax.ShapeDtypeStruct`s with shardings on `mesh`. Nothing in the function or in making the
        arguments may compute: the devices cannot.

    Raises:
      OutOfMemory: the program does not fit.
    """
    with jax.set_mesh(mesh):
        traced = function.trace(*arguments)
        flops = matmul_flops(traced.jaxpr)
        try:
            return Compiled(traced.lower().compile(), flops)
        except jax.errors.JaxRuntimeError as error:
            sizes = _OUT_OF_MEMORY.search(str(error))
            if sizes is None:
                raise
            needed, unit, available, available_unit = sizes.groups()
            raise OutOfMemory(
                int(float(needed) * _UNITS[unit]), int(float(available) * _UNITS[available_unit]), flops
            ) from error
