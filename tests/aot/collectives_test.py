"""Parsing of collectives: sizes, groups and number of calls, on hand-written programs."""

import re

import pytest

from softvq_jax.aot import hlo
from softvq_jax.aot.collectives import by_kind, collectives

OPTIMIZED = True  # see conftest.py

PROGRAM = """HloModule step

%add (a: f32[], b: f32[]) -> f32[] {
  %a = f32[] parameter(0)
  %b = f32[] parameter(1)
  ROOT %sum = f32[] add(%a, %b)
}

%all-reduce-scatter.1 (input: bf16[1024,64]) -> bf16[128,64] {
  %input = bf16[1024,64]{1,0:T(8,128)(2,1)} parameter(0)
  %reduced = bf16[1024,64]{1,0} all-reduce(%input), channel_id=7, replica_groups={{0,1,2,3,4,5,6,7}}, to_apply=%add
  ROOT %kept = bf16[128,64]{1,0} slice(%reduced), slice={[0:128], [0:64]}
}

%condition (state: (s32[], bf16[128,64])) -> pred[] {
  %state = (s32[]{:T(128)}, bf16[128,64]{1,0}) parameter(0)
  %limit = s32[] constant(26)
  %count = s32[] get-tuple-element(%state), index=0
  ROOT %less = pred[] compare(%count, %limit), direction=LT
}

%body (state.1: (s32[], bf16[128,64])) -> (s32[], bf16[128,64]) {
  %state.1 = (s32[], /*index=1*/bf16[128,64]{1,0}) parameter(0)
  %count.1 = s32[] get-tuple-element(%state.1), index=0
  %shard = bf16[128,64]{1,0} get-tuple-element(%state.1), index=1
  %two = s32[] constant(2)
  %next = s32[] add(%count.1, %two)
  %whole = bf16[1024,64]{1,0} all-gather(%shard), channel_id=3, replica_groups=[1,8]<=[8], dimensions={0}
  %part = bf16[128,64]{1,0} fusion(%whole), kind=kCustom, calls=%all-reduce-scatter.1
  ROOT %out = (s32[], bf16[128,64]{1,0}) tuple(%next, %part)
}

ENTRY %main (x: bf16[128,64]) -> f32[16] {
  %x = bf16[128,64]{1,0} parameter(0)
  %start = s32[] constant(2)
  %init = (s32[], bf16[128,64]{1,0}) tuple(%start, %x)
  %loop = (s32[], bf16[128,64]{1,0}) while(%init), condition=%condition, body=%body
  %loss = f32[16]{0} constant({...})
  ROOT %mean = f32[16]{0} all-reduce(%loss), channel_id=9, replica_groups=GROUPS, to_apply=%add
}
"""
WHOLE = 1024 * 64 * 2


def _read(groups: str):
    return collectives(hlo.parse(PROGRAM.replace("GROUPS", groups)))


def test_loops_count_as_often_as_they_run():
    totals = by_kind(_read("{{0,1}}"))
    # From 2 to 26 in twos: 12 times. A ring of 8 sends 7/8.
    assert totals["all-gather"] == (12, 12 * WHOLE, 12 * WHOLE * 7 / 8)
    assert totals["reduce-scatter"] == (12, 12 * WHOLE, 12 * WHOLE * 7 / 8)
    assert totals["all-reduce"] == (1, 64, 64)


def test_elements_of_a_tuple_written_in_the_operand_are_the_same():
    short = re.sub(r"\n  %\S+ = \S+ get-tuple-element.*", "", PROGRAM)
    for name, element in (("count.1", "state.1#0"), ("count", "state#0"), ("shard", "state.1#1")):
        short = re.sub(rf"%{re.escape(name)}(?=[,)])", f"%{element}", short)
    assert "get-tuple-element" not in short and short.count("#") == 3
    assert by_kind(collectives(hlo.parse(short.replace("GROUPS", "{{0,1}}")))) == by_kind(_read("{{0,1}}"))


@pytest.mark.parametrize(
    ("groups", "members"),
    [
        ("{{0,4},{1,5}}", (0, 4)),
        ("[2,4]<=[8]", (0, 1, 2, 3)),
        ("[4,2]<=[2,4]T(1,0)", (0, 4)),
        ("mesh['a'=2,'b'=4] {'b'}", (0, 1, 2, 3)),
        ("mesh['a'=2,'b'=4] {'a'}", (0, 4)),
        ("mesh['a'=4,'b'=2], device_ids=([2,4]T(1,0)) {'b'}", (0, 4)),
        ("mesh['a'=4,'b'=1,'c'=2], device_ids=([2,4]T(1,0)) {'a','b'}", (0, 1, 2, 3)),
    ],
)
def test_notations_of_groups(groups, members):
    assert _read(groups)[-1].group == members


def test_on_chip_arrays_are_not_in_hbm():
    main, fast, flag = hlo.arrays_of("(f32[8,128]{1,0:T(8,128)}, bf16[2,3]{1,0:T(8,128)(2,1)S(1)}, u32[])")
    assert main == (4096, True) and fast == (12, False) and flag == (4, True)


def test_text_without_an_entry_is_refused():
    with pytest.raises(ValueError, match="no ENTRY"):
        hlo.parse("module @jit_step {}")
