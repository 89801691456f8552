"""Noise schedules of DDPM in float64: betas, respacing, and the constants derived from them.

Ho et al., 2020 (DDPM); Nichol and Dhariwal, 2021 (improved DDPM: cosine betas, learned variance, respacing).
"""

import dataclasses
import functools

import numpy as np


def linear_betas(count: int = 1000) -> np.ndarray:
    """Returns DDPM's betas, 1e-4 to 0.02 for 1,000 steps, scaled for other counts so that the total noise is similar."""
    scale = 1000 / count
    return np.linspace(scale * 1e-4, scale * 0.02, count, dtype=np.float64)


def cosine_betas(count: int = 1000, largest: float = 0.999) -> np.ndarray:
    """Returns betas for which the product of `1 - beta` follows a squared cosine (improved DDPM, equation 17)."""
    remaining = np.cos((np.arange(count + 1) / count + 0.008) / 1.008 * np.pi / 2) ** 2
    return np.minimum(1 - remaining[1:] / remaining[:-1], largest)


BETAS = {"linear": linear_betas, "cosine": cosine_betas}


def space_timesteps(num_timesteps: int, steps: int) -> np.ndarray:
    """Returns timesteps `[steps]` out of `num_timesteps`: ascending, nearly equally spaced, including both ends.

    Raises:
      ValueError: `steps` is below one or above `num_timesteps`.
    """
    if not 1 <= steps <= num_timesteps:
        raise ValueError(f"{steps} steps out of {num_timesteps}: expected 1 to {num_timesteps}")
    stride = (num_timesteps - 1) / (steps - 1) if steps > 1 else 1.0
    # A cumulative sum instead of a product rounds as improved DDPM's code does.
    return np.round(np.cumsum([0.0] + [stride] * (steps - 1))).astype(np.int64)


@dataclasses.dataclass(frozen=True, eq=False)
class Schedule:
    """A noise schedule on a subset of its steps. Arrays are float64 over that subset, in ascending time.

    Attributes:
      timesteps: indices of the steps in the original schedule, an input of the network.
      betas: variance of the noise that each step adds.
      num_timesteps: number of steps of the original schedule.
      signal: product of `1 - beta` up to and including the step (DDPM's alpha bar).
      signal_before: the same up to the previous step.
      posterior_variance: variance of `x_{t-1}` given `x_t` and `x_0` (DDPM, equation 7). Its first value, 0, is replaced
        by the second one so that the logarithm exists.
      mean_on_x, mean_on_noise: `x_{t-1}` has mean `mean_on_x * x_t - mean_on_noise * noise` (DDPM, equation 11).
    """

    timesteps: np.ndarray
    betas: np.ndarray
    num_timesteps: int

    @functools.cached_property
    def signal(self) -> np.ndarray:
        return np.cumprod(1 - self.betas)

    @functools.cached_property
    def signal_before(self) -> np.ndarray:
        return np.append(1.0, self.signal[:-1])

    @functools.cached_property
    def posterior_variance(self) -> np.ndarray:
        variance = self.betas * (1 - self.signal_before) / (1 - self.signal)
        return np.append(variance[1:2] if len(variance) > 1 else self.betas, variance[1:])

    @functools.cached_property
    def mean_on_x(self) -> np.ndarray:
        return 1 / np.sqrt(1 - self.betas)

    @functools.cached_property
    def mean_on_noise(self) -> np.ndarray:
        return self.betas / np.sqrt((1 - self.betas) * (1 - self.signal))

    def __len__(self) -> int:
        return len(self.timesteps)


@functools.cache
def make_schedule(name: str, *, steps: int | None = None, num_timesteps: int = 1000) -> Schedule:
    """Returns the noise schedule `name`, "linear" or "cosine", on `steps` of its `num_timesteps`; on all by default.

    Raises:
      ValueError: the name is unknown, or the number of steps is out of range.
    """
    if name not in BETAS:
        raise ValueError(f"noise schedule is {name!r}; expected one of {', '.join(BETAS)}")
    betas = BETAS[name](num_timesteps)
    timesteps = space_timesteps(num_timesteps, num_timesteps if steps is None else steps)
    signal = np.cumprod(1 - betas)[timesteps]
    return Schedule(timesteps, 1 - signal / np.append(1.0, signal[:-1]), num_timesteps)
