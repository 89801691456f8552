"""Records the states that a sampler goes through, while its program is traced."""

import contextlib
import contextvars
from collections.abc import Iterator

import jax

_recorded: contextvars.ContextVar[list[jax.Array] | None] = contextvars.ContextVar("recorded", default=None)


@contextlib.contextmanager
def recording() -> Iterator[list[jax.Array]]:
    """Collects the states after each step of samplers that are traced inside, in arrays `[steps, B, ..., D]`, in order."""
    states: list[jax.Array] = []
    token = _recorded.set(states)
    try:
        yield states
    finally:
        _recorded.reset(token)


@contextlib.contextmanager
def not_recording() -> Iterator[None]:
    """Keeps samplers inside another sampler's step, such as those of MAR's tokens, out of the record."""
    token = _recorded.set(None)
    try:
        yield
    finally:
        _recorded.reset(token)


def scan(step, x: jax.Array, steps) -> jax.Array:
    """`jax.lax.scan` of `x = step(x, inputs)` over a sampler's steps; records `x` after each if something is recording."""
    states = _recorded.get()

    def recorded(x, inputs):
        with not_recording():
            x = step(x, inputs)
        return x, x if states is not None else None

    x, after = jax.lax.scan(recorded, x, steps)
    if states is not None and after is not None:
        states.append(after)
    return x
