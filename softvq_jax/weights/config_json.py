"""Values of a published `config.json`: null means the default, and a value of another type is named."""

from collections.abc import Mapping
from typing import Any

from softvq_jax.config.fields import Allowed, number
from softvq_jax.weights.layout import WeightsError

STATISTICS = {"vq_mean": number(), "vq_std": number(above=0)}  # of the latents, in tokenizers and generators


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
