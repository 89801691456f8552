"""Mean and standard deviation of a tokenizer's latents, by which generators normalize their data."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from softvq_jax.metrics.feature_statistics import Moments

FIELDS = ("vq_mean", "vq_std")  # fields of config.json in published tokenizers, and in generators trained here
KINDS = ("scalar", "channel")
"""Kinds of statistics: over all values of the latents, as published, or over the values of each channel."""


@dataclasses.dataclass(frozen=True)
class LatentStatistics:
    """Mean and standard deviation of a data set's latents; generators model `(latents - mean) / std`.

    Attributes:
      mean, std: floats, over all values; or tuples of `D` floats, over the values of each channel.

    Raises:
      ValueError: a value is not finite, or `std` is not positive, or they have different lengths.
    """

    mean: float | tuple[float, ...]
    std: float | tuple[float, ...]

    def __post_init__(self):
        for name in ("mean", "std"):
            if isinstance(value := getattr(self, name), Sequence | np.ndarray):
                object.__setattr__(self, name, tuple(map(float, value)))
        means, stds = (value if isinstance(value, tuple) else (value,) for value in (self.mean, self.std))
        if isinstance(self.mean, tuple) != isinstance(self.std, tuple) or len(means) != len(stds) or not means:
            raise ValueError(
                f"latent statistics: {len(means)} means and {len(stds)} standard deviations; expected one of each, or one "
                "of each for every channel"
            )
        if not (all(map(math.isfinite, (*means, *stds))) and min(stds) > 0):
            raise ValueError(f"latent statistics: mean {self.mean}, std {self.std}; expected finite, std positive")

    @property
    def channels(self) -> int | None:
        """Number of channels if each channel has its own statistics; None if one pair is for all values."""
        return len(self.mean) if isinstance(self.mean, tuple) else None

    def normalize(self, latents: jax.Array) -> jax.Array:
        """Converts a tokenizer's latents `[..., D]` to normalized latents, `(latents - mean) / std`."""
        return (latents - _as_array(self.mean)) / _as_array(self.std)

    def denormalize(self, latents: jax.Array) -> jax.Array:
        """Converts normalized latents `[..., D]` to latents that the tokenizer decodes."""
        return latents * _as_array(self.std) + _as_array(self.mean)

    @classmethod
    def from_moments(cls, moments: Moments, kind: str = "scalar") -> "LatentStatistics":
        """Returns the statistics of measured latents, one of `KINDS`; see `add_latents`.

        Raises:
          ValueError: the latents, or those of a channel, are constant, so that they cannot be normalized.
        """
        variances = np.diag(moments.scatter) / moments.count
        if kind == "channel":
            return cls(tuple(moments.mean), tuple(np.sqrt(variances)))
        mean = np.mean(moments.mean)
        # The variance of all values is that within the channels plus that of the channels' means.
        return cls(float(mean), math.sqrt(np.mean(variances + np.square(moments.mean - mean))))

    @classmethod
    def from_fields(cls, config: Mapping[str, Any]) -> "LatentStatistics | None":
        """Returns the statistics in a `config.json`; None if it has none."""
        if any(config.get(field) is None for field in FIELDS):
            return None
        mean, std = (value if isinstance(value := config[field], list) else float(value) for field in FIELDS)
        return cls(mean, std)  # pyright: ignore[reportArgumentType] (lists become tuples)

    def to_fields(self) -> dict[str, float | list[float]]:
        """Returns the fields of a `config.json`, the inverse of `from_fields`; those of channels are lists."""
        values = (list(value) if isinstance(value, tuple) else value for value in (self.mean, self.std))
        return dict(zip(FIELDS, values, strict=True))


def _as_array(value: float | tuple[float, ...]) -> float | np.ndarray:
    return np.asarray(value, np.float32) if isinstance(value, tuple) else value


def add_latents(moments: Moments, latents: np.ndarray) -> None:
    """Adds latents `[..., D]` to the moments of the channels, in float64; batch sizes do not matter.

    Raises:
      ValueError: latents are not finite.
    """
    finite = np.isfinite(latents)
    if not finite.all():
        raise ValueError(
            f"{latents.size - finite.sum()} of {latents.size} latent values are not finite: the tokenizer's weights may "
            "be broken"
        )
    moments.update(latents.reshape(-1, latents.shape[-1]))


def moments_to_fields(moments: Moments) -> dict[str, Any]:
    """Returns count, means and variances of the channels as JSON values; covariances are left out."""
    return {
        "count": moments.count,
        "channel_means": moments.mean.tolist(),
        "channel_scatters": np.diag(moments.scatter).tolist(),
    }


def moments_from_fields(fields: Mapping[str, Any]) -> Moments:
    """Returns moments from JSON values, the inverse of `moments_to_fields`; without covariances."""
    moments = Moments(len(fields["channel_means"]))
    moments.count, moments.mean = fields["count"], np.asarray(fields["channel_means"])
    moments.scatter = np.diag(fields["channel_scatters"])
    return moments
