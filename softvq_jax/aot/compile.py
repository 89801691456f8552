"""Compiles a jitted function for devices that are not present."""

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
    """A compiled program, the same for all chips.

    `text` is the input of `hlo.parse`; `arguments` and `temporaries` (including results) are bytes of a chip's main
    memory; `flops` is the arithmetic of the function, summed over all chips.
    """

    text: str
    arguments: int
    temporaries: int
    flops: float


class OutOfMemory(Exception):
    """The program needs `needed` bytes of a chip's main memory, which has `available`; `flops` is its arithmetic."""

    def __init__(self, needed: int, available: int, flops: float):
        super().__init__(f"needs {needed / 2**30:.2f} GiB of main memory a chip, which has {available / 2**30:.2f} GiB")
        self.needed, self.available, self.flops = needed, available, flops


def compile_for(function: Any, arguments: tuple, mesh: Mesh) -> Compiled:
    """Traces and compiles `function` for the devices of `mesh`, up to machine code.

    Args:
      function: a function made by `jax.jit`.
      arguments: trees of `jax.ShapeDtypeStruct`s with shardings on `mesh`. Nothing may be computed on the devices, because
        they are not present.
      mesh: the mesh, made of devices of a `Topology`.

    Raises:
      OutOfMemory: the program does not fit.
    """
    lowered, flops = _lower(function, arguments, mesh)
    return _finished(lowered.compile, flops)


def plan_for(function: Any, arguments: tuple, mesh: Mesh) -> Compiled:
    """Compiles like `compile_for`, but does not wait for machine code, which takes nine tenths of a compilation for TPUs.

    Before that stage the program is final: partitioned, fused and scheduled, with all buffers assigned, or refused as too
    large. The compiler dumps this state to files, which are read as soon as they are complete. The compiler cannot be
    stopped. It continues in a thread, and the process waits for it on exit unless it is killed.
    """
    lowered, flops = _lower(function, arguments, mesh)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name:
        options = {"xla_dump_to": name, "xla_dump_hlo_as_text": True}
        compiling = futures.ThreadPoolExecutor(1).submit(lowered.compile, compiler_options=options)
        while not futures.wait([compiling], _POLL_SECONDS).done:
            if (plan := _read_plan(pathlib.Path(name), flops)) is not None:
                return plan
        return _finished(compiling.result, flops)  # the program was refused, or this compiler uses other file names


def _lower(function, arguments, mesh):
    with jax.set_mesh(mesh):
        traced = function.trace(*arguments)
        return traced.lower(), matmul_flops(traced.jaxpr)


def _finished(compilation: Callable[[], jax.stages.Compiled], flops: float) -> Compiled:
    """Returns the program of a compilation; raises `OutOfMemory` for a compiler error about memory."""
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
    memory, text = program.memory_analysis(), program.as_text()
    assert memory is not None and text is not None, "XLA's compilers for CPU, GPU and TPU give both"
    results = memory.output_size_in_bytes - memory.alias_size_in_bytes
    temporaries = memory.temp_size_in_bytes + memory.generated_code_size_in_bytes + results
    return Compiled(text, memory.argument_size_in_bytes, temporaries, flops)


def _read_plan(folder: pathlib.Path, flops: float) -> Compiled | None:
    """Reads the files that the compiler dumps before machine code; returns None while they are incomplete."""
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
    """Returns the bytes of arguments and of other buffers in main memory, given XLA's dump of the buffer assignment.

    Allocations with a color are in on-chip memory and do not count.
    """
    sizes = {True: 0, False: 0}
    for size, color, kind in _ALLOCATION.findall(text):
        if not color and "thread-local" not in kind:
            sizes["parameter" in kind.split("shape")[0]] += int(size)
    return sizes[True], sizes[False]
