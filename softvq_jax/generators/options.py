"""Checks the arguments of `Generator.sample`, and fills in defaults from the family and the generator's files."""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from softvq_jax import user_arrays
from softvq_jax.diffusion.masked_tokens import GUIDANCE_SCHEDULES
from softvq_jax.generators.family import Family, GeneratorConfig, Settings

STATIC = ("head_steps", "guidance_schedule", "anneal_softmax")  # fields of `Settings` that few samplers take
NAMES = ("sampler", "steps", "guidance", "guidance_interval", *STATIC)  # options other than arrays


def sampling_settings(
    family: Family, config: GeneratorConfig, published: Mapping[str, Any], options: Mapping[str, Any]
) -> tuple[Settings, Any]:
    """Returns the settings of the sampling program, and the scale of guidance.

    Args:
      family: family of the generator.
      config: config of its network.
      published: content of its `config.json`, which may hold defaults.
      options: arguments of `Generator.sample` with names in `NAMES`; None for the default.

    Raises:
      ValueError: an option is out of range, or the sampler does not take it.
    """
    given = {name: options.get(name) for name in NAMES}
    defaults, sampler = family.sampling_defaults(published), given["sampler"]
    sampler = next(iter(family.samplers)) if sampler is None else sampler
    if sampler not in family.samplers:
        raise ValueError(f"sampler is {sampler!r}; a {family.name} has {', '.join(family.samplers)}")
    low, high = map(float, given["guidance_interval"] or (0.0, 1.0))
    if not 0 <= low <= high <= 1:
        raise ValueError(f"guidance_interval is ({low}, {high}); expected (low, high) with 0 <= low <= high <= 1")
    interval = None if (low, high) == (0, 1) else (low, high)
    refuse(family, sampler, guidance_interval=interval, **{name: given[name] for name in STATIC})
    accepted, steps = family.samplers[sampler].optional_arguments, given["steps"]
    if steps is None:
        default = family.samplers[sampler].steps
        steps = defaults.get("steps", config.num_tokens if default is None else default)
    if not isinstance(steps, int | np.integer):
        raise ValueError(f"steps is {steps!r}; expected an integer")
    least, most = family.samplers[sampler].least_steps, family.samplers[sampler].most_steps
    if steps < least or (most is not None and steps > most(config)):
        limit = f"at least {least}" if most is None else f"{least} to {most(config)}"
        raise ValueError(f"steps is {steps}; expected {limit} for sampler {sampler} of this {family.name}")
    static = {name: defaults.get(name) if given[name] is None else given[name] for name in STATIC}
    static = {name: value for name, value in static.items() if value is not None and name in accepted}
    schedule = static.get("guidance_schedule", GUIDANCE_SCHEDULES[0])
    if schedule not in GUIDANCE_SCHEDULES:
        raise ValueError(f"guidance_schedule is {schedule!r}; expected one of {', '.join(GUIDANCE_SCHEDULES)}")
    guidance = defaults.get("guidance", 1.0) if given["guidance"] is None else given["guidance"]
    check_finite(guidance=guidance)
    guided = not user_arrays.has_values(guidance) or bool(guidance != 1)
    return Settings(sampler, int(steps), guided, (low, high), **static), guidance


def sampling_arrays(
    family: Family, config: GeneratorConfig, published: Mapping[str, Any], settings: Settings, batch: int, **given: Any
) -> dict[str, Any]:
    """Returns `noise`, `step_noises` and `temperature` as arrays, as far as they are given or have a default.

    Raises:
      ValueError: one is given that the sampler does not take, or it has another shape.
    """
    refuse(family, settings.sampler, **given)
    check_temperature(given["temperature"])
    if given["temperature"] is None and "temperature" in family.samplers[settings.sampler].optional_arguments:
        given["temperature"] = family.sampling_defaults(published).get("temperature", 1.0)
    shape = (batch, config.num_tokens, config.channels)
    arrays = {
        name: user_arrays.as_array(name, value, jnp.float32) for name, value in given.items() if value is not None
    }
    for name, expected in (("noise", shape), ("step_noises", (settings.steps - 1, *shape))):
        if name in arrays and arrays[name].shape != expected:
            raise ValueError(f"{name} has shape {arrays[name].shape}; expected {expected}")
    return arrays


def check_temperature(temperature: Any) -> None:
    """Raises ValueError if a temperature is given, and it is negative or not finite; a traced one is not checked."""
    if temperature is not None:
        check_finite(temperature=temperature)
        if user_arrays.has_values(temperature) and np.any(user_arrays.as_numbers("temperature", temperature) < 0):
            raise ValueError(f"temperature is {temperature}; expected at least 0")


def check_finite(**numbers: Any) -> None:
    """Raises ValueError if a number is NaN or infinite; traced numbers are not checked."""
    for name, value in numbers.items():
        if user_arrays.has_values(value) and not np.all(np.isfinite(user_arrays.as_numbers(name, value))):
            raise ValueError(f"{name} is {value}; expected a finite number")


def refuse(family: Family, sampler: str, **arguments: Any) -> None:
    """Raises ValueError if an argument is not None and the sampler does not take it."""
    for name, value in arguments.items():
        if value is not None and name not in family.samplers[sampler].optional_arguments:
            raise ValueError(f"{name} was given, but sampler {sampler} of a {family.name} does not take it")
