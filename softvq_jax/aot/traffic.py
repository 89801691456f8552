"""Bytes that a compiled program reads from and writes to a chip's main memory."""

import re
from collections.abc import Iterator
from functools import partial

from softvq_jax.aot import hlo

_FREE = {
    "parameter", "constant", "tuple", "get-tuple-element", "bitcast", "while", "conditional", "call", "after-all",
    "partition-id", "replica-id", "opt-barrier", "async-start", "async-update", "recv",
}  # fmt: skip
# The TPU compiler's operations that return their operand's buffer, or a part of it, without copying.
_FREE_CALLS = {"AllocateBuffer", "ConcatBitcast", "SliceId", "ZeroCrop", "AsyncCollectiveStart", "AsyncCollectiveDone"}

# Each element of the result depends on one element of the operand.
_SAME_ELEMENTS = {"bitcast", "copy", "convert", "reshape", "transpose", "negate", "abs", "exponential", "log", "tanh"}


def hbm_traffic(program: hlo.Program) -> float:
    """Returns the bytes that one chip moves to and from main memory in one run, given the compiler's buffer placement.

    Each instruction outside fusions reads its operands and writes its results; on-chip buffers do not count. A slice
    counts only the part that it reads, an update in place only the part that it writes. Otherwise the stacked parameters
    and activations of a scan would count in full for every block.
    """
    return sum(
        execution.times * _moved(execution.instruction, execution.where, program)
        for execution in hlo.executions(program)
    )


def _moved(instruction: hlo.Instruction, where: hlo.Computation, program: hlo.Program) -> float:
    opcode = instruction.opcode
    if opcode in _FREE or opcode.endswith("-done"):
        return 0.0
    if opcode == "custom-call" and instruction.attribute(r'custom_call_target="(\w+)"') in _FREE_CALLS:
        return 0.0
    if opcode == "custom-call" and (stated := instruction.attribute(r'"bytes_accessed":\s*"?(\d+)')):
        return float(stated)  # A kernel reads parts of its operands, or all of them several times; only it knows.
    operands = [where.instructions[name] for name in instruction.operands]
    if opcode == "copy-start":
        return instruction.hbm_bytes  # the result is a pair of destination and source
    if opcode == "slice-start":
        source, taken = instruction.arrays[:2]
        return taken.bytes * (source.in_hbm + taken.in_hbm)
    if opcode in ("slice", "dynamic-slice"):
        return _on_hbm(operands[0], instruction.bytes) + instruction.hbm_bytes
    if opcode == "dynamic-update-slice":
        return 2 * _on_hbm(instruction, operands[1].bytes)
    if opcode == "fusion":
        return _fusion(instruction, operands, program)
    return instruction.hbm_bytes + sum(operand.hbm_bytes for operand in operands)


def _fusion(instruction: hlo.Instruction, operands: list[hlo.Instruction], program: hlo.Program) -> float:
    fused = program.computations[instruction.called[0]]
    # A piece of an overlapped collective returns its buffers unchanged.
    through = re.findall(r"\{(\d+)\}: \((\d+), \{\}", instruction.attributes)
    passed_in, passed_out = ({int(pair[side]) for pair in through} for side in (1, 0))
    read = sum(
        _on_hbm(operand, operand.bytes * _share_of_operand(fused, i, 1.0, program))
        for i, operand in enumerate(operands)
        if i not in passed_in
    )
    return read + sum(_written(instruction, fused, passed_out))


def _on_hbm(instruction: hlo.Instruction, size: float) -> float:
    return size if any(array.in_hbm for array in instruction.arrays) else 0.0


def _share_of_operand(fused: hlo.Computation, index: int, needed: float, program: hlo.Program) -> float:
    """Returns the share of operand `index` that a fusion reads if the share `needed` of its result is used."""
    return _share(fused, fused.parameter(index), needed, program)


def _share(fused: hlo.Computation, source: hlo.Instruction, needed: float, program: hlo.Program) -> float:
    """Returns the share of `source` that the result depends on; for example, a slice of a copy reads only the slice."""
    share = needed if source.name == fused.root else 0.0
    for user in fused.users(source.name):
        of_user = partial(_share, fused, user, needed, program)
        if user.opcode in _SAME_ELEMENTS:
            share += of_user()
        elif user.opcode in ("slice", "dynamic-slice", "pad") and user.operands[0] == source.name:
            share += of_user() * user.bytes / source.bytes
        elif user.opcode == "fusion":
            inner, of_inner = program.computations[user.called[0]], of_user()
            indices = [i for i, name in enumerate(user.operands) if name == source.name]
            share += sum(_share_of_operand(inner, i, of_inner, program) for i in indices)
        elif not _updated_in_place(fused, user, source):
            share += 1.0
    return min(share, 1.0)


def _updated_in_place(fused: hlo.Computation, user: hlo.Instruction, source: hlo.Instruction) -> bool:
    return user.opcode == "dynamic-update-slice" and user.operands[0] == source.name


def _written(fusion: hlo.Instruction, fused: hlo.Computation, passed: set[int]) -> Iterator[float]:
    """Yields the bytes in main memory of each result of a fusion; an update in place counts only the update."""
    root = fused.instructions[fused.root]
    results = [fused.instructions[name] for name in root.operands] if root.opcode == "tuple" else [root]
    for i, (result, array) in enumerate(zip(results, fusion.arrays, strict=False)):
        if array.in_hbm and i not in passed:
            yield _update_size(fused, result, array.bytes)


def _update_size(fused: hlo.Computation, result: hlo.Instruction, size: float) -> float:
    while result.opcode == "bitcast":
        result = fused.instructions[result.operands[0]]
    if result.opcode == "dynamic-update-slice":
        return fused.instructions[result.operands[1]].bytes
    return size
