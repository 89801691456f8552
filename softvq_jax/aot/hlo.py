"""Parses the text of a compiled program: instructions, sizes of arrays, and execution counts."""

import math
import re
from collections.abc import Iterator
from typing import NamedTuple

DTYPE_BYTES = {
    "pred": 1, "s4": 0.5, "u4": 0.5, "s8": 1, "u8": 1, "f8e4m3fn": 1, "f8e5m2": 1, "s16": 2, "u16": 2, "f16": 2,
    "bf16": 2, "s32": 4, "u32": 4, "f32": 4, "s64": 8, "u64": 8, "f64": 8, "c64": 8, "c128": 16,
}  # fmt: skip
_ARRAY = re.compile(r"([a-z]\w*)\[([\d,]*)\](?:\{([^}]*)\})?")
_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\{$")
_INSTRUCTION = re.compile(r"^\s+(ROOT )?%?([\w.\-]+) = (.*)$")
_OPCODE = re.compile(r"([a-z][\w\-]*)\(")
_CALLED = re.compile(r"(?:calls|to_apply|body|condition|true_computation|false_computation)=%?([\w.\-]+)")
_BRANCHES = re.compile(r"branch_computations=\{([^}]*)\}")


class Array(NamedTuple):
    """One array of an instruction's result; `in_hbm` is True in main memory (HBM), False in on-chip memory."""

    bytes: float
    in_hbm: bool


class Instruction(NamedTuple):
    name: str
    arrays: tuple[Array, ...]
    opcode: str
    operands: tuple[str, ...]
    arguments: str
    attributes: str

    @property
    def bytes(self) -> float:
        return sum(array.bytes for array in self.arrays)

    @property
    def hbm_bytes(self) -> float:
        return sum(array.bytes for array in self.arrays if array.in_hbm)

    @property
    def called(self) -> list[str]:
        """Names of the computations that this instruction calls."""
        branches = _BRANCHES.search(self.attributes)
        names = branches.group(1).replace("%", "").split(", ") if branches else []
        return names + _CALLED.findall(self.attributes)

    def attribute(self, pattern: str) -> str | None:
        """Returns the first group of `pattern` in the attributes, or None if it does not match."""
        found = re.search(pattern, self.attributes)
        return found.group(1) if found else None

    def required(self, pattern: str) -> str:
        """Returns `attribute(pattern)`; raises ValueError if the pattern does not match."""
        found = self.attribute(pattern)
        if found is None:
            raise ValueError(f"{self.name} has no attribute {pattern}: {self.attributes[:200]}")
        return found


class Computation(NamedTuple):
    name: str
    instructions: dict[str, Instruction]
    root: str

    def parameter(self, index: int) -> Instruction:
        parameters = (i for i in self.instructions.values() if i.opcode == "parameter")
        return next(i for i in parameters if i.arguments == str(index))

    def users(self, name: str) -> list[Instruction]:
        return [i for i in self.instructions.values() if name in i.operands]


class Program(NamedTuple):
    computations: dict[str, Computation]
    entry: str


class Execution(NamedTuple):
    """An instruction that runs `times` times in a step, in the computation `where`."""

    instruction: Instruction
    where: Computation
    times: int


def parse(text: str) -> Program:
    """Parses the text of `compiled.as_text()`."""
    computations, entry, current, root = {}, "", None, ""
    for line in text.splitlines():
        if current is None:
            head = _COMPUTATION.match(line)
            if head:
                name, current = head.group(2), {}
                entry = name if head.group(1) else entry
        elif line.startswith("}"):
            computations[name] = Computation(name, current, root)
            current = None
        else:
            match = _INSTRUCTION.match(line)
            if match:
                instruction = _instruction(match.group(2), match.group(3))
                for operand in instruction.operands:
                    if "#" in operand:
                        current.setdefault(operand, _element(operand, current))
                current[instruction.name] = instruction
                root = instruction.name if match.group(1) else root
    if not entry:
        raise ValueError("this is not the text of a compiled program: it has no ENTRY computation")
    return Program(computations, entry)


def arrays_of(shape: str) -> tuple[Array, ...]:
    """Returns the arrays of a result type such as `(bf16[8,128]{1,0:T(8,128)S(1)}, u32[])`."""
    found = []
    for dtype, sizes, layout in _ARRAY.findall(shape):
        if dtype in DTYPE_BYTES:
            elements = math.prod(int(size) for size in sizes.split(",") if size)
            # Memory spaces other than 0 are on the chip: vector memory, scalars, semaphores.
            found.append(Array(elements * DTYPE_BYTES[dtype], not re.search(r"S\([1-9]", layout)))
    return tuple(found)


def executions(program: Program) -> Iterator[Execution]:
    """Yields every instruction outside fusions with its execution count; every branch of a conditional counts."""

    def visit(name: str, times: int) -> Iterator[Execution]:
        where = program.computations[name]
        for instruction in where.instructions.values():
            yield Execution(instruction, where, times)
            if instruction.opcode == "while":
                yield from visit(
                    instruction.required(r"body=%?([\w.\-]+)"), times * trip_count(instruction, where, program)
                )
            elif instruction.opcode in ("conditional", "call", "async-start"):
                for called in instruction.called:
                    yield from visit(called, times)

    return visit(program.entry, 1)


def trip_count(loop: Instruction, where: Computation, program: Program) -> int:
    """Returns the number of iterations of a `while`, from the compiler's annotation or the loop's counter.

    The counter is the loop-carried number that the condition compares with a constant. It starts at a constant, and the
    body adds a constant to it.

    Raises:
      ValueError: the number of iterations cannot be determined.
    """
    noted = loop.attribute(r'known_trip_count"?:\{"n":"(\d+)"')
    if noted:
        return int(noted)
    condition = program.computations[loop.required(r"condition=%?([\w.\-]+)")]
    body = program.computations[loop.required(r"body=%?([\w.\-]+)")]
    test = condition.instructions[condition.root]
    counter, limit = (condition.instructions[name] for name in test.operands)
    index, last = counter.attribute(r"index=(\d+)"), _constant(condition, limit.name)
    if test.opcode != "compare" or test.attribute(r"direction=(\w+)") != "LT" or index is None or last is None:
        raise ValueError(f"cannot tell how often the loop {loop.name} runs")
    start = _constant(where, where.instructions[loop.operands[0]].operands[int(index)])
    after = body.instructions[body.instructions[body.root].operands[int(index)]]
    steps = [_constant(body, name) for name in after.operands if after.opcode == "add"]
    [step] = [value for value in steps if value is not None] or [1]
    return math.ceil((last - (start or 0)) / step)


def _constant(where: Computation, name: str) -> int | None:
    instruction = where.instructions[name]
    while instruction.opcode in ("copy", "bitcast", "convert"):
        instruction = where.instructions[instruction.operands[0]]
    return int(instruction.arguments) if instruction.opcode == "constant" else None


def _instruction(name: str, rest: str) -> Instruction:
    """Parses an instruction, `type opcode(operands), attributes`."""
    end = _closing(rest) + 1 if rest.startswith("(") else rest.index(" ")
    opcode = _OPCODE.match(rest, end + 1)
    if opcode is None:
        raise ValueError(f"instruction {name} has no opcode: {rest[:80]!r}")
    close = _closing(rest, opcode.end() - 1)
    arguments = rest[opcode.end() : close]
    operands = tuple(re.findall(r"%([\w.\-]+(?:#\d+)?)", arguments))
    return Instruction(name, arrays_of(rest[:end]), opcode.group(1), operands, arguments, rest[close + 1 :])


def _element(operand: str, instructions: dict[str, Instruction]) -> Instruction:
    """Returns the instruction of an operand. `%name#2` is element 2 of a flat tuple, in newer compilers' notation."""
    name, index = operand.rsplit("#", 1)
    arrays = instructions[name].arrays[int(index) : int(index) + 1]
    return Instruction(operand, arrays, "get-tuple-element", (name,), f"%{name}", f", index={index}")


def _closing(text: str, start: int = 0) -> int:
    """Returns the index of the parenthesis that closes the one at `start`."""
    depth = 0
    for match in re.compile(r"[()]").finditer(text, start):
        depth += 1 if match.group() == "(" else -1
        if depth == 0:
            return match.start()
    raise ValueError(f"unbalanced parentheses in {text[:80]!r}")
