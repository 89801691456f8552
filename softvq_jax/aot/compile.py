"""Compiling a jitted function for devices that are not here."""

import pathlib
import re
import tempfile
from collections.abc import Callable
from concurrent import futures
from typing import Any, NamedTuple

import jax
from jax.sharding import Mesh

from softvq_jax.aot.flops import matmul_flops

_OUT_OF_MEMORY = re.compile(r"\(([\d.]+)([KMG])\) exceeds available HBM \(([\d.]+)([KMG])\)")
_UNITS = {"K": 2**10, "M": 2**20, "G": 2**30}
_ALLOCATION = re.compile(r"^allocation \d+: size (\d+),( color \d+,)?(.*)$", re.MULTILINE)
_POLL_SECONDS = 0.2


class Compiled(NamedTuple):
    """A program for one chip of many.

    `text` is what `hlo.parse` reads; `arguments` and `temporaries` (results included) are bytes of a chip's main
    memory; `flops` is the arithmetic of the function that was compiled, over all chips.
    """

    text: str
    arguments: int
    temporaries: int
    flops: float


class OutOfMemory(Exception):
    """The program needs `needed` bytes of a chip's `available`; `flops` are the function's."""

    def __init__(self, needed: int, available: int, flops: float):
        super().__init__(f"needs {needed / 2**30:.2f} GiB of main memory a chip, which has {available / 2**30:.2f} GiB")
        self.needed, self.available, self.flops = needed, available, flops


def compile_for(function: Any, arguments: tuple, mesh: Mesh) -> Compiled:
    """Traces and compiles `function`, made by `jax.jit`, for the devices of `mesh`, machine code included.

    Args:
      arguments: trees of `jax.ShapeDtypeStruct`s with shardings on `mesh`. Nothing in the function or in making the
        arguments may compute: the devices cannot.

    Raises:
      OutOfMemory: the program does not fit.
    """
    lowered, flops = _lower(function, arguments, mesh)
    return _finished(lowered.compile, flops)


def plan_for(function: Any, arguments: tuple, mesh: Mesh) -> Compiled:
    """Like `compile_for`, without waiting for machine code, which is nine tenths of a compilation for TPUs.

    When the compiler turns to it, the program is final: partitioned, fused, scheduled, and every buffer in its place, or
    refused as too large. That state the compiler can write down; it is read here as soon as it is complete. The
    compiler itself cannot be stopped and works on in a thread, for which the process waits at its end unless it is killed.
    """
    lowered, flops = _lower(function, arguments, mesh)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name:
        options = {"xla_dump_to": name, "xla_dump_hlo_as_text": True}
        compiling = futures.ThreadPoolExecutor(1).submit(lowered.compile, compiler_options=options)
        while not futures.wait([compiling], _POLL_SECONDS).done:
            if (plan := _read_plan(pathlib.Path(name), flops)) is not None:
                return plan
        return _finished(compiling.result, flops)  # refused; or a compiler that names its files otherwise


def _lower(function, arguments, mesh):
    with jax.set_mesh(mesh):
        traced = function.trace(*arguments)
        return traced.lower(), matmul_flops(traced.jaxpr)


def _finished(compilation: Callable[[], jax.stages.Compiled], flops: float) -> Compiled:
    """What a compilation ends with: a program, or `OutOfMemory` if that is what the compiler's error says."""
    try:
        program = compilation()
    except jax.errors.JaxRuntimeError as error:
        sizes = _OUT_OF_MEMORY.search(str(error))
        if sizes is None:
            raise
        needed, unit, available, available_unit = sizes.groups()
        raise OutOfMemory(
            int(float(needed) * _UNITS[unit]), int(float(available) * _UNITS[available_unit]), flops
        ) from error
    sizes = program.memory_analysis()
    results = sizes.output_size_in_bytes - sizes.alias_size_in_bytes
    temporaries = sizes.temp_size_in_bytes + sizes.generated_code_size_in_bytes + results
    return Compiled(program.as_text(), sizes.argument_size_in_bytes, temporaries, flops)


def _read_plan(folder: pathlib.Path, flops: float) -> Compiled | None:
    """What the compiler wrote before it turned to machine code; None if that is not all there yet."""
    programs = list(folder.glob("*.after_optimizations_after_buffer_assignment.txt"))
    buffers = list(folder.glob("*.after_optimizations-buffer-assignment.txt"))
    if not programs or not buffers:
        return None
    text = programs[0].read_text()
    if "\nENTRY " not in text or not text.rstrip().endswith("\n}"):  # ENTRY comes last
        return None
    arguments, temporaries = read_allocations(buffers[0].read_text())
    return Compiled(text, arguments, temporaries, flops)


def read_allocations(text: str) -> tuple[int, int]:
    """Bytes of arguments and of all else in main memory, from a buffer assignment as XLA writes it down.

    An allocation of a colour lies elsewhere than in main memory: on the chip.
    """
    sizes = {True: 0, False: 0}
    for size, colour, kind in _ALLOCATION.findall(text):
        if not colour and "thread-local" not in kind:
            sizes["parameter" in kind.split("shape")[0]] += int(size)
    return sizes[True], sizes[False]
