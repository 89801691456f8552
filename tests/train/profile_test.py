"""Traces of chosen steps, read back, and the HLO."""

import gzip
import json
import pathlib

import jax
import pytest

from softvq_jax.train.profile import Profile, ProfileSteps
from softvq_jax.train.write_errors import WriteFailed
from tests import programs
from tests.programs.profiled_steps import steps


def traced(workdir, name):
    """The events of the trace with a name."""
    [path] = workdir.glob(f"profile/plugins/profile/{name}/*.trace.json.gz")
    return json.loads(gzip.decompress(path.read_bytes()))["traceEvents"]


def test_the_chosen_steps_are_traced(tmp_path):
    programs.run("profiled_steps", tmp_path, "3:4", 1, 6)
    events = traced(tmp_path, "steps_3_4")
    assert sorted(event["args"]["step_num"] for event in events if event.get("name") == "train") == ["3", "4"]
    assert any(event.get("name") == "data" for event in events)
    [trace] = tmp_path.glob("profile/plugins/profile/steps_3_4/*.xplane.pb")
    assert b"dot" in trace.read_bytes()
    program = (tmp_path / "profile" / "step.hlo.txt").read_text()
    assert program.startswith("HloModule") and "dot(" in program


def test_a_run_that_ends_early_leaves_its_trace(tmp_path):
    programs.run("profiled_steps", tmp_path, "2:100", 1, 3)
    assert {event["args"]["step_num"] for event in traced(tmp_path, "steps_2_100") if event.get("name") == "train"} == {
        "2",
        "3",
    }


def test_steps_that_are_past_are_named(tmp_path, caplog):
    steps(Profile(ProfileSteps(2, 4), tmp_path), 3, 5)
    assert "--profile_steps=2:4: nothing is traced, because this start of the run takes the steps 3 to 5" in caplog.text
    assert not list(tmp_path.iterdir())
    steps(Profile(None, tmp_path), 1, 2)
    assert not list(tmp_path.iterdir())


def test_a_profile_that_cannot_be_written_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(jax.profiler, "start_trace", lambda folder, **_: pathlib.Path(folder, "trace").touch())
    monkeypatch.setattr(jax.profiler, "stop_trace", lambda: None)
    profile = Profile(ProfileSteps(1, 2), tmp_path)
    profile.before(1)
    (tmp_path / "profile").touch()
    with pytest.raises(
        WriteFailed, match=rf"{tmp_path}/profile/plugins/profile/steps_1_2 could not be written: Not a dir"
    ):
        profile.end()
    with pytest.raises(WriteFailed, match=rf"{tmp_path}/profile/step\.hlo\.txt could not be written: Not a dir"):
        profile.write_program(jax.jit(lambda x: x).lower(1.0).compile(), 0, 2)


@pytest.mark.parametrize("text", ["100", "5:3", "0:3", "a:b", "1:2:3"])
def test_other_texts_are_refused(text):
    with pytest.raises(ValueError, match=f"--profile_steps must be FIRST:LAST, such as 100:110; got '{text}'"):
        ProfileSteps.parse(text)
