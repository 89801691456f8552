"""Traces of chosen steps, read back, and the HLO."""

import gzip
import json

import jax
import jax.numpy as jnp
import pytest

from softvq_jax.train.closing import at_end
from softvq_jax.train.profile import Profile, ProfileSteps
from softvq_jax.train.step_clock import StepClock


def steps(profile, first, last):
    """Takes the steps `first` to `last`, as the loop does."""
    step = jax.jit(lambda x: (x @ x, jnp.sum(x))).lower(jnp.eye(64)).compile()
    profile.write_program(step, first - 1, last)
    clock, state = StepClock(), jnp.eye(64)
    with at_end(profile.end):
        for number in range(first, last + 1):
            profile.before(number)
            state, metrics = clock.call(number, step, state)
            with clock.during("data"):
                jax.block_until_ready(metrics)
            if profile.ends(number):
                profile.end(metrics)
    clock.close()


def traced(workdir, name):
    """The events of the trace with a name."""
    [path] = workdir.glob(f"profile/plugins/profile/{name}/*.trace.json.gz")
    return json.loads(gzip.decompress(path.read_bytes()))["traceEvents"]


def test_the_chosen_steps_are_traced(tmp_path):
    steps(Profile(ProfileSteps.parse("3:4"), tmp_path), 1, 6)
    events = traced(tmp_path, "steps_3_4")
    assert sorted(event["args"]["step_num"] for event in events if event.get("name") == "train") == ["3", "4"]
    assert any(event.get("name") == "data" for event in events)
    [trace] = tmp_path.glob("profile/plugins/profile/steps_3_4/*.xplane.pb")
    assert b"dot" in trace.read_bytes()
    program = (tmp_path / "profile" / "step.hlo.txt").read_text()
    assert program.startswith("HloModule") and "dot(" in program


def test_a_run_that_ends_early_leaves_its_trace(tmp_path):
    steps(Profile(ProfileSteps(2, 100), tmp_path), 1, 3)
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


@pytest.mark.parametrize("text", ["100", "5:3", "0:3", "a:b", "1:2:3"])
def test_other_texts_are_refused(text):
    with pytest.raises(ValueError, match=f"--profile_steps must be FIRST:LAST, such as 100:110; got '{text}'"):
        ProfileSteps.parse(text)
