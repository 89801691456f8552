"""What a compiled program sends: its collectives by kind, how often they run and the bytes that leave a chip."""

import math
import re
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from softvq_jax.aot import hlo

KINDS = ("all-gather", "reduce-scatter", "all-reduce", "all-to-all", "collective-permute")


class Collective(NamedTuple):
    """One collective of the program.

    `bytes` is the size of the whole array it works on, summed over the arrays that were combined: what an all-gather
    gives, what a reduce-scatter and an all-reduce take. `group` holds the members' positions in the mesh, of the group
    of the first device. `dcn` marks those that leave the slice.
    """

    kind: str
    bytes: float
    group: tuple[int, ...]
    times: int
    in_loop: bool
    dcn: bool

    @property
    def sent(self) -> float:
        """Bytes a chip sends each time, by the algorithms that send least: rings (Chan et al., 2007)."""
        members = len(self.group)
        share = (members - 1) / members
        return self.bytes * {"all-reduce": 2 * share, "collective-permute": 1.0}.get(self.kind, share)


def collectives(program: hlo.Program) -> list[Collective]:
    """Every collective the program runs.

    The TPU compiler overlaps a collective with several fusions, each holding a piece of it under the same channel: it
    is counted once. A fusion that reduces and keeps a slice is the reduce-scatter it is made from.
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
    """`calls` collectives of one kind, of `bytes` in all, for which a chip sends `sent` bytes."""

    calls: int
    bytes: float
    sent: float


def by_kind(found: Iterable[Collective]) -> dict[str, Total]:
    """Totals of a step, per kind; those between slices have ` (between slices)` after it."""
    totals: dict[str, Total] = {}
    for one in found:
        name = f"{one.kind} (between slices)" if one.dcn else one.kind
        calls, size, sent = totals.get(name, Total(0, 0.0, 0.0))
        totals[name] = Total(calls + one.times, size + one.times * one.bytes, sent + one.times * one.sent)
    return totals


def _inside(instruction: hlo.Instruction, program: hlo.Program, fused_into: str = ""):
    """The instruction, or all that a fusion holds, each with the name of the computation it is fused into."""
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
        size = max(array.bytes for array in instruction.arrays)  # The result stands beside its operand.
    group = _group(instruction)
    if kind == "reduce-scatter":
        size *= len(group)
    if kind == "all-reduce" and fused_into.startswith("all-reduce-scatter"):
        kind = "reduce-scatter"
    return Collective(kind, size, group, times, in_loop=times > 1, dcn=False)


def _between_slices(instruction: hlo.Instruction, times: int) -> Collective | None:
    """Collectives over the data-centre network are compiled as messages to the host, which runs them."""
    kind = instruction.attribute(r'_xla_megascale_transfer_type="(\w+)"')
    if kind is None:
        return None
    slices = instruction.attribute(r'_xla_megascale_target="\{([^}]*)\}').count(",") + 1
    size = instruction.arrays[0].bytes
    return Collective(kind.lower().replace("_", "-"), size, tuple(range(slices)), times, in_loop=times > 1, dcn=True)


def _group(instruction: hlo.Instruction) -> tuple[int, ...]:
    """Positions in the mesh of the members of one group, from any of the notations the compiler writes."""
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
    """`'a'=8,'b'=32`, `[32,8]T(1,0)`, `'b'`: the devices along axis b through the first one."""
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
    """`[2,4]<=[4,2]T(1,0)` as an array of groups."""
    shape, source, order = re.fullmatch(r"\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?", text).groups()
    ids = np.arange(math.prod(_ints(source))).reshape(_ints(source))
    return (ids.transpose(_ints(order)) if order else ids).reshape(_ints(shape))


def _ints(text: str) -> tuple[int, ...]:
    return tuple(int(number) for number in text.split(","))
