"""Takes steps under a profile, as the loop does.

    python -m tests.programs.profiled_steps <workdir> <steps of the profile> <first step> <last step>

A process of its own, because a trace that starts where libtpu has been loaded ends the process with a segmentation fault.
"""

import pathlib
import sys

import jax
import jax.numpy as jnp

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


if __name__ == "__main__":
    workdir, chosen, first, last = sys.argv[1:]
    steps(Profile(ProfileSteps.parse(chosen), pathlib.Path(workdir)), int(first), int(last))
