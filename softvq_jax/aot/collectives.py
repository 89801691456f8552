"""Collectives of a compiled program by kind: number of calls, and bytes that a chip sends."""

import math
import re
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from softvq_jax.aot import hlo

KINDS = ("all-gather", "reduce-scatter", "all-reduce", "all-to-all", "collective-permute")


class Collective(NamedTuple):
    """One collective of the program.

    `bytes` is the size of the full array, summed over combined arrays: the result of an all-gather, the operand of a
    reduce-scatter or all-reduce. `group` holds the mesh positions of the first device's group. `dcn` marks collectives
    between slices.
    """

    kind: str
    bytes: float
    group: tuple[int, ...]
    times: int
    in_loop: bool
    dcn: bool

    @property
    def sent(self) -> float:
        """Bytes that a chip sends per call with ring algorithms, which send the least (Chan et al., 2007)."""
        members = len(self.group)
        share = (members - 1) / members
        return self.bytes * {"all-reduce": 2 * share, "collective-permute": 1.0}.get(self.kind, share)


def collectives(program: hlo.Program) -> list[Collective]:
    """Returns every collective that the program runs.

    The TPU compiler may overlap a collective with several fusions, each with a piece of it on the same channel; these
    pieces count once. A fusion that reduces and keeps a slice counts as the reduce-scatter that it was made from.
    """
    found: dict[tuple[str, str], Collective] = {}
    for execution in hlo.executions(program):
        for instruction, fused_into in _inside(execution.instruction, program):
            collective = _collective(instruction, fused_into, execution.times)
            if collective is not None:
                channel = instruction.attribute(r"channel_id=(\d+)") or instruction.name
                found.setdefault((execution.where.name, channel), collective)
    return list(found.values())


class Total(NamedTuple):
    """Totals of one kind of collective: number of calls, bytes of the full arrays, bytes that a chip sends."""

    calls: int
    bytes: float
    sent: float


def by_kind(found: Iterable[Collective]) -> dict[str, Total]:
    """Returns the totals of a step by kind; kinds between slices end in ` (between slices)`."""
    totals: dict[str, Total] = {}
    for collective in found:
        name = f"{collective.kind} (between slices)" if collective.dcn else collective.kind
        calls, size, sent = totals.get(name, Total(0, 0.0, 0.0))
        totals[name] = Total(
            calls + collective.times,
            size + collective.times * collective.bytes,
            sent + collective.times * collective.sent,
        )
    return totals


def _inside(instruction: hlo.Instruction, program: hlo.Program, fused_into: str = ""):
    """Yields the instruction, or all instructions of a fusion, each with the name of the computation it is fused into."""
    if instruction.opcode != "fusion":
        yield instruction, fused_into
        return
    for name in instruction.called:
        for inner in program.computations[name].instructions.values():
            yield from _inside(inner, program, name)


def _collective(instruction: hlo.Instruction, fused_into: str, times: int) -> Collective | None:
    kind = instruction.opcode.removesuffix("-start")
    if kind == "send":
        return _between_slices(instruction, times)
    if kind not in KINDS:
        return None
    size = instruction.bytes
    if instruction.opcode in ("all-gather-start", "collective-permute-start"):
        size = max(array.bytes for array in instruction.arrays)  # the arrays include the operand
    group = _group(instruction)
    if kind == "reduce-scatter":
        size *= len(group)
    if kind == "all-reduce" and fused_into.startswith("all-reduce-scatter"):
        kind = "reduce-scatter"
    return Collective(kind, size, group, times, in_loop=times > 1, dcn=False)


def _between_slices(instruction: hlo.Instruction, times: int) -> Collective | None:
    """Returns a collective over the data-center network, which is compiled to messages to the host."""
    kind = instruction.attribute(r'_xla_megascale_transfer_type="(\w+)"')
    if kind is None:
        return None
    slices = instruction.required(r'_xla_megascale_target="\{([^}]*)\}').count(",") + 1
    size = instruction.arrays[0].bytes
    return Collective(kind.lower().replace("_", "-"), size, tuple(range(slices)), times, in_loop=times > 1, dcn=True)


def _group(instruction: hlo.Instruction) -> tuple[int, ...]:
    """Returns the mesh positions of the members of one group, from any of the compiler's notations."""
    text = instruction.attributes
    pairs = re.search(r"source_target_pairs=\{\{(\d+),(\d+)\}", text)
    if pairs:
        return tuple(map(int, pairs.groups()))
    listed = re.search(r"replica_groups=\{\{([\d,]+)\}", text)
    if listed:
        return tuple(map(int, listed.group(1).split(",")))
    iota = re.search(r"replica_groups=(\[[\d,]+\]<=\[[\d,]+\](?:T\([\d,]+\))?)", text)
    if iota:
        return tuple(map(int, _iota(iota.group(1))[0]))
    mesh = re.search(r"replica_groups=mesh\[([^\]]*)\](?:, device_ids=\((.*?)\))? \{([^}]*)\}", text)
    if mesh:
        return _mesh_group(*mesh.groups())
    raise ValueError(f"cannot read the replica groups of {instruction.name}: {text[:200]}")


def _mesh_group(axes: str, device_ids: str | None, used: str) -> tuple[int, ...]:
    """Returns the group of the first device; `'a'=8,'b'=32`, `[32,8]T(1,0)`, `'b'` gives the devices along axis b."""
    sizes = {name: int(size) for name, size in re.findall(r"'(\w+)'=(\d+)", axes)}
    shape, names = tuple(sizes.values()), list(sizes)
    order = re.match(r"\[([\d,]+)\](?:T\(([\d,]+)\))?", device_ids or "")
    ids = np.arange(math.prod(shape))
    if order:
        ids = ids.reshape(_ints(order.group(1)))
        ids = ids.transpose(_ints(order.group(2))) if order.group(2) else ids
    group_axes = [names.index(name) for name in re.findall(r"'(\w+)'", used)]
    rest = [axis for axis in range(len(shape)) if axis not in group_axes]
    members = math.prod(shape[axis] for axis in group_axes)
    return tuple(map(int, ids.reshape(shape).transpose(rest + group_axes).reshape(-1, members)[0]))


def _iota(text: str) -> np.ndarray:
    """Parses `[2,4]<=[4,2]T(1,0)` into an array of groups."""
    match = re.fullmatch(r"\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?", text)
    if match is None:
        raise ValueError(f"cannot read the replica groups {text!r}")
    shape, source, order = match.groups()
    ids = np.arange(math.prod(_ints(source))).reshape(_ints(source))
    return (ids.transpose(_ints(order)) if order else ids).reshape(_ints(shape))


def _ints(text: str) -> tuple[int, ...]:
    return tuple(int(number) for number in text.split(","))
