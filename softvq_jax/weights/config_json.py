"""Values of a published `config.json`: null means the default, and a value of another type is named."""

from collections.abc import Mapping
from typing import Any

from softvq_jax.config.fields import Allowed, number
from softvq_jax.weights.layout import WeightsError


def _one_or_for_each_channel(one: Allowed) -> Allowed:
    def check(value):
        return bool(value) and all(map(one.check, value)) if isinstance(value, list) else one.check(value)

    return Allowed(f"{one.text}, or a list of them for the channels", check)


# Of the latents, in tokenizers and generators; lists in generators trained with statistics of each channel.
STATISTICS = {"vq_mean": _one_or_for_each_channel(number()), "vq_std": _one_or_for_each_channel(number(above=0))}


def stated(fields: Mapping[str, Any], allowed: Mapping[str, Allowed], *, source: str) -> dict[str, Any]:
    """The fields that are not null, checked.

    Args:
      fields: the content of a `config.json`.
      allowed: the values of the fields that are read; others are returned unchecked.
      source: the file's name, for messages.

    Raises:
      WeightsError: a field has another value; names the file, the field, the value and what was expected.
    """
    for name, values in allowed.items():
        if fields.get(name) is not None and not values.check(fields[name]):
            raise WeightsError(f"{source}: {name} is {fields[name]!r}; expected {values.text}, or null for the default")
    return {name: value for name, value in fields.items() if value is not None}


def section(fields: Mapping[str, Any], name: str, *, source: str) -> dict[str, Any]:
    """A section of a nested `config.json`, such as "model.vq_model"; {} if it is missing or null.

    Raises:
      WeightsError: something else stands in its place.
    """
    inner: Any = fields
    for part in name.split("."):
        inner = inner.get(part)
        if inner is None:
            return {}
        if not isinstance(inner, Mapping):
            raise WeightsError(f"{source}: {part} of {name} is {inner!r}; expected an object of fields")
    return dict(inner)
