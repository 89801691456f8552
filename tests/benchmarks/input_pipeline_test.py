"""The input pipeline's speed relative to Pillow alone, by the benchmark's own functions."""

import pytest

from benchmarks import input_pipeline

SOURCES = {"folder", "tar", "array_record"}


def shares(folder, count: int, processes: int, rounds: int) -> tuple[dict[str, float], dict[str, input_pipeline.Speed]]:
    """Returns each source's images per second of processor time, over those of bare Pillow; and all speeds."""
    input_pipeline.make_jpegs(folder / "jpegs", count)
    speeds = input_pipeline.measure(str(folder / "jpegs"), size=256, processes=processes, rounds=rounds)
    bare = speeds["bare"].per_core
    return {name: speed.per_core / bare for name, speed in speeds.items() if name != "bare"}, speeds


def test_every_source_is_measured_and_the_needs_of_pods_are_listed(tmp_path, monkeypatch):
    """Few images on a busy machine: the bound is wide enough that only a broken pipeline misses it."""
    monkeypatch.setattr(input_pipeline, "BATCH", 16)
    found, speeds = shares(tmp_path, count=64, processes=1, rounds=1)
    assert found.keys() == SOURCES
    assert all(0.5 < share < 2 for share in found.values()), found
    text = input_pipeline.report(speeds, {"v5e": 80.0})
    assert all(f"| {name} | {speed.rate:,.0f} |" in text for name, speed in speeds.items())
    [row] = [line for line in text.splitlines() if line.startswith("| v5e: 112 cores, 4 chips |")]
    slowest = min(speed.per_core for name, speed in speeds.items() if name != "bare")
    assert f"| {112 * slowest:,.0f} |" in row and f"80 ({320 / (112 * slowest):.0%} of the cores)" in row


@pytest.mark.heavy
def test_the_pipeline_reaches_nine_tenths_of_bare_pillow(tmp_path):
    found, _ = shares(tmp_path, count=512, processes=2, rounds=8)
    assert found.keys() == SOURCES
    assert min(found.values()) >= 0.9, found
