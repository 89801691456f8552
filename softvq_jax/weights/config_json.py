"""Reads and checks fields of a published `config.json`; null means the default."""

from collections.abc import Mapping
from typing import Any

from softvq_jax.config.fields import Allowed, number
from softvq_jax.weights.layout import WeightsError


def _one_or_for_each_channel(one: Allowed) -> Allowed:
    def check(value):
        return bool(value) and all(map(one.check, value)) if isinstance(value, list) else one.check(value)

    return Allowed(f"{one.text}, or a list of them for the channels", check)


# Latent statistics of tokenizers and generators; lists in generators trained with statistics of each channel.
STATISTICS = {"vq_mean": _one_or_for_each_channel(number()), "vq_std": _one_or_for_each_channel(number(above=0))}


def stated(fields: Mapping[str, Any], allowed: Mapping[str, Allowed], *, source: str) -> dict[str, Any]:
    """Returns the fields that are not null, after a check of their values.

    Args:
      fields: the content of a `config.json`.
      allowed: the values of the fields that are read; others are returned unchecked.
      source: the file's name, for messages.

    Raises:
      WeightsError: a value is not allowed; the message names the file, the field, the value and what was expected.
    """
    for name, values in allowed.items():
        if fields.get(name) is not None and not values.check(fields[name]):
            raise WeightsError(f"{source}: {name} is {fields[name]!r}; expected {values.text}, or null for the default")
    return {name: value for name, value in fields.items() if value is not None}


def section(fields: Mapping[str, Any], name: str, *, source: str) -> dict[str, Any]:
    """Returns a section of a nested `config.json`, such as "model.vq_model"; {} if it is missing or null.

    Raises:
      WeightsError: it is not an object of fields.
    """
    inner: Any = fields
    for part in name.split("."):
        inner = inner.get(part)
        if inner is None:
            return {}
        if not isinstance(inner, Mapping):
            raise WeightsError(f"{source}: {part} of {name} is {inner!r}; expected an object of fields")
    return dict(inner)
