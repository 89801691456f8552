"""What a compiled program reads from and writes to a chip's main memory."""

import re
from collections.abc import Iterator

from softvq_jax.aot import hlo

_FREE = {
    "parameter", "constant", "tuple", "get-tuple-element", "bitcast", "while", "conditional", "call", "after-all",
    "partition-id", "replica-id", "opt-barrier", "async-start", "async-update", "recv",
}  # fmt: skip
# The TPU compiler's names for handing on a buffer, or a part of one, as it lies.
_FREE_CALLS = {"AllocateBuffer", "ConcatBitcast", "SliceId", "ZeroCrop", "AsyncCollectiveStart", "AsyncCollectiveDone"}


def hbm_traffic(program: hlo.Program) -> float:
    """Bytes one chip moves to and from its main memory in one run, by the compiler's own placement of buffers.

    Each instruction outside fusions reads its operands and writes its results; what lies on the chip costs nothing.
    Slices count what they take and updates in place what they put, not the array they work on: the stacked parameters
    and activations of a scan would otherwise count once for every block.
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
    operands = [where.instructions[name] for name in instruction.operands]
    if opcode == "copy-start":
        return instruction.hbm_bytes  # Its result is the pair of destination and source.
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
    # A piece of an overlapped collective hands its buffers through.
    through = re.findall(r"\{(\d+)\}: \((\d+), \{\}", instruction.attributes)
    passed_in, passed_out = ({int(pair[side]) for pair in through} for side in (1, 0))
    read = sum(_on_hbm(operand, _read(fused, i, program)) for i, operand in enumerate(operands) if i not in passed_in)
    return read + sum(_written(instruction, fused, passed_out))


def _on_hbm(instruction: hlo.Instruction, size: float) -> float:
    return size if any(array.in_hbm for array in instruction.arrays) else 0.0


def _read(fused: hlo.Computation, index: int, program: hlo.Program) -> float:
    """Bytes a fusion takes of its operand `index`."""
    return _taken(fused, fused.parameter(index), program)


def _taken(fused: hlo.Computation, source: hlo.Instruction, program: hlo.Program) -> float:
    total = 0.0
    for user in fused.users(source.name):
        if user.opcode == "bitcast":
            total += _taken(fused, user, program)
        elif user.opcode == "dynamic-slice" and user.operands[0] == source.name:
            total += user.bytes
        elif user.opcode == "fusion":
            inner = program.computations[user.called[0]]
            total += sum(_read(inner, i, program) for i, name in enumerate(user.operands) if name == source.name)
        elif not (user.opcode == "dynamic-update-slice" and user.operands[0] == source.name):
            return source.bytes
    return min(total, source.bytes)


def _written(fusion: hlo.Instruction, fused: hlo.Computation, passed: set[int]) -> Iterator[float]:
    """Bytes of each of a fusion's results in main memory, of those updated in place only the update."""
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
