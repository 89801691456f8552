"""Samplers, which turn noise into latents by evaluating a network repeatedly.

A sampler is a traceable function. Its time grid, and everything that depends only on the grid, is computed in float64
NumPy and enters the program as float32 constants.

Guidance doubles the cost of an evaluation. The time grid determines which steps are inside the guidance interval, so
steps inside and outside run as separate loops, and the steps outside evaluate the network without guidance.
"""

import dataclasses
import itertools
from collections.abc import Callable, Iterator, Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from softvq_jax.diffusion import states
from softvq_jax.diffusion.gaussian import ancestral_step
from softvq_jax.diffusion.guidance import ModelFn
from softvq_jax.diffusion.paths import Path
from softvq_jax.diffusion.schedules import Schedule

NoiseFn = Callable[[ArrayLike], jax.Array]  # step index -> standard normal noise of the sample's shape
SDE_LAST_TIME = 0.04
# Tolerance for rounding: a grid time equal to an end of the interval is inside.
_INTERVAL_SLACK = 1e-9


@dataclasses.dataclass(frozen=True)
class Model:
    """A network without guidance (`plain`) and with it (`guided`), as functions of `(x [B, ..., D], t [B])`.

    `guided` is used where `low <= t <= high`; None means no guidance.
    """

    plain: ModelFn
    guided: ModelFn | None = None
    low: float = 0.0
    high: float = 1.0

    def is_guided(self, times: np.ndarray) -> np.ndarray:
        """Returns whether each of the steps that begin at `times` is guided."""
        inside = (times >= self.low - _INTERVAL_SLACK) & (times <= self.high + _INTERVAL_SLACK)
        return inside if self.guided is not None else np.zeros_like(inside)


def noise_from_keys(keys: jax.Array, shape: tuple[int, ...]) -> NoiseFn:
    """Returns a `NoiseFn` of noise `[B, *shape]` with one key `[B]` per example, independent of the rest of the batch."""
    return lambda step: jax.vmap(lambda key: jax.random.normal(jax.random.fold_in(key, step), shape))(keys)


def ode_times(steps: int) -> np.ndarray:
    """Returns the times of an ODE sampler from noise (1) to data (0), `[steps + 1]`."""
    return np.linspace(1.0, 0.0, steps + 1)


def sde_times(steps: int) -> np.ndarray:
    """Returns the times of an SDE sampler from noise (1) to data (0), `[steps + 1]`; the last step starts at 0.04."""
    return np.append(np.linspace(1.0, SDE_LAST_TIME, steps), 0.0)


def ode_euler(model: Model, x: jax.Array, steps: int) -> jax.Array:
    """Solves the probability flow `dx/dt = v` from `x` at t = 1 by Euler's method: one evaluation per step.

    Raises:
      ValueError: `steps` is below 1.
    """
    check_steps(steps, 1)
    return _solve(_euler_step, model, x, _grid(model, ode_times(steps)))


def ode_heun(model: Model, x: jax.Array, steps: int) -> jax.Array:
    """Solves the probability flow by Heun's second-order method: two evaluations per step, and an Euler step at the end.

    Both evaluations of a step are guided if the step begins inside the guidance interval.

    Raises:
      ValueError: `steps` is below 1.
    """
    check_steps(steps, 1)
    before_last, last = _split_last(_grid(model, ode_times(steps)))
    return _solve(_euler_step, model, _solve(_heun_step, model, x, before_last), last)


def _euler_step(fn, x, step):
    return x + step["dt"] * fn(x, step["t"])


def _heun_step(fn, x, step):
    velocity = fn(x, step["t"])
    corrected = fn(x + step["dt"] * velocity, step["t_next"])
    return x + step["dt"] * (velocity + corrected) / 2


def sde_euler_maruyama(model: Model, x: jax.Array, steps: int, *, path: Path, noise_fn: NoiseFn) -> jax.Array:
    """Solves the reverse SDE `dx = (v - t s) dt + sqrt(2t) dw` by Euler-Maruyama (SiT, equation 6); `s` is the score.

    One evaluation per step, since the score is a function of the velocity. The last step has no noise.

    Args:
      noise_fn: noise of the steps 0 to `steps - 2`.

    Raises:
      ValueError: `steps` is below 2.
    """
    check_steps(steps, 2)
    grid = _grid(model, sde_times(steps))
    t, dt = grid["t"], grid["dt"]
    score_on_velocity, score_on_x = path.score_coefficients(t)
    grid |= {
        "drift_on_velocity": 1 - t * score_on_velocity,
        "drift_on_x": -t * score_on_x,
        "diffusion": np.sqrt(2 * t * np.abs(dt)),
    }

    def mean_step(fn, x, step):
        return x + step["dt"] * (step["drift_on_velocity"] * fn(x, step["t"]) + step["drift_on_x"] * x)

    def noisy_step(fn, x, step):
        return mean_step(fn, x, step) + step["diffusion"] * noise_fn(step["number"])

    before_last, last = _split_last(grid)
    return _solve(mean_step, model, _solve(noisy_step, model, x, before_last), last)


def ddpm(model: Model, x: jax.Array, schedule: Schedule, *, noise_fn: NoiseFn, temperature=1.0) -> jax.Array:
    """Samples by the ancestral steps of a schedule (DDPM, algorithm 2); the last step has no noise.

    The network takes the original timesteps. The guidance interval refers to `timestep / num_timesteps`.

    Args:
      noise_fn: noise of the steps 0 to `len(schedule) - 2`.
      temperature: factor on the noise of every step.
    """
    timesteps = schedule.timesteps[::-1]
    grid = {
        "t": timesteps.astype(np.float64),
        "index": np.arange(len(schedule))[::-1],
        "number": np.arange(len(schedule)),
        "guided": model.is_guided(timesteps / schedule.num_timesteps),
    }

    def mean_step(fn, x, step):
        return ancestral_step(schedule, fn(x, step["t"]), x, step["index"], None)

    def noisy_step(fn, x, step):
        noise = noise_fn(step["number"])
        return ancestral_step(schedule, fn(x, step["t"]), x, step["index"], noise, temperature)

    before_last, last = _split_last(grid)
    return _solve(mean_step, model, _solve(noisy_step, model, x, before_last), last)


def check_steps(steps: int, least: int) -> None:
    """Raises ValueError for fewer than `least` steps."""
    if steps < least:
        raise ValueError(f"{steps} sampling steps; this sampler takes at least {least}")


def _grid(model, times):
    """Returns begin, end, length, index and guidance of each step of a time grid, as float64."""
    t, t_next = times[:-1], times[1:]
    guided = model.is_guided(t)
    return {"t": t, "t_next": t_next, "dt": t_next - t, "number": np.arange(len(t)), "guided": guided}


def _split_last(grid):
    return tuple({name: values[part] for name, values in grid.items()} for part in (slice(-1), slice(-1, None)))


def _solve(step_fn, model: Model, x: jax.Array, grid: Mapping[str, np.ndarray]) -> jax.Array:
    """Applies `x = step_fn(fn, x, step)` along the grid; consecutive steps with equal guidance form one compiled loop."""
    batch = x.shape[:1]
    for start, stop, is_guided in _runs(grid["guided"]):
        network = model.guided if is_guided and model.guided is not None else model.plain
        fn = lambda x, t, network=network: network(x, jnp.broadcast_to(t, batch))  # noqa: E731
        steps = {name: _to_32_bits(values[start:stop]) for name, values in grid.items() if name != "guided"}
        x = states.scan(lambda x, step, fn=fn: step_fn(fn, x, step), x, steps)
    return x


def _runs(flags: np.ndarray) -> Iterator[tuple[int, int, bool]]:
    """Yields `(start, stop, flag)` for each run of equal flags."""
    start = 0
    for flag, run in itertools.groupby(flags.tolist()):
        stop = start + len(list(run))
        yield start, stop, flag
        start = stop


def _to_32_bits(constants: np.ndarray) -> jax.Array:
    """Converts floating-point numbers to float32 and integers to int32."""
    return jnp.asarray(constants, jnp.float32 if np.issubdtype(constants.dtype, np.floating) else jnp.int32)
