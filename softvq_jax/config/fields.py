"""Declares config fields: default, meaning, unit and allowed values, each in one place.

A schema is a nested dict of `Field`s. The config's defaults, the checks of its values and the reference of all fields are
all made from the schema, so they cannot disagree. Nothing here imports jax.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any


@dataclasses.dataclass(frozen=True)
class Allowed:
    """The values that a field may have.

    Attributes:
      text: the values in words, such as "a number above 0".
      check: returns whether a value is allowed; called with any type of value.
    """

    text: str
    check: Callable[[Any], bool]


@dataclasses.dataclass(frozen=True)
class Field:
    """One field of a config.

    Attributes:
      default: the value unless a config file or the command line sets another one.
      doc: the meaning, in one or two plain sentences.
      allowed: the values that the field may have.
      unit: unit of a number, such as "steps" or "pixels"; "" for none.
    """

    default: Any
    doc: str
    allowed: Allowed
    unit: str = ""


Schema = Mapping[str, "Field | Schema"]


def defaults(schema: Schema) -> dict[str, Any]:
    """Returns the default values of a schema, as nested dicts."""
    return {name: item.default if isinstance(item, Field) else defaults(item) for name, item in schema.items()}


def with_defaults(schema: Schema, values: Mapping[str, Any]) -> Schema:
    """Returns a schema with other default values for some fields.

    Args:
      schema: the fields.
      values: new defaults by field name, nested like the schema.

    Raises:
      KeyError: the schema has no such field.
    """
    changed = dict(schema)
    for name, value in values.items():
        item = schema[name]
        changed[name] = (
            dataclasses.replace(item, default=value) if isinstance(item, Field) else with_defaults(item, value)
        )
    return changed


def flatten(schema: Schema, prefix: str = "") -> dict[str, Field]:
    """Returns all fields of a schema by their dotted names, in order."""
    flat = {}
    for name, item in schema.items():
        flat |= {f"{prefix}{name}": item} if isinstance(item, Field) else flatten(item, f"{prefix}{name}.")
    return flat


def is_number(value: Any) -> bool:
    """Returns whether `value` is a finite int or float, but not a bool."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def is_integer(value: Any) -> bool:
    """Returns whether `value` is an int, but not a bool."""
    return isinstance(value, int) and not isinstance(value, bool)


def integer(low: int, high: int | None = None) -> Allowed:
    """Allows integers from `low` to `high`, inclusive."""
    text = f"an integer of at least {low:,}" if high is None else f"an integer from {low:,} to {high:,}"
    return Allowed(text, lambda x: is_integer(x) and x >= low and (high is None or x <= high))


def number(
    low: float | None = None, high: float | None = None, *, above: float | None = None, below: float | None = None
) -> Allowed:
    """Allows finite numbers from `low` to `high`, inclusive; `above` and `below` are exclusive limits."""
    limits = ((low, "of at least"), (above, "above"), (high, "of at most"), (below, "below"))
    words = " and ".join(f"{word} {limit:g}" for limit, word in limits if limit is not None)
    return Allowed(
        f"a number {words}".strip(),
        lambda x: (
            is_number(x)
            and (low is None or x >= low)
            and (high is None or x <= high)
            and (above is None or x > above)
            and (below is None or x < below)
        ),
    )


def one_of(*values: Any) -> Allowed:
    """Allows the listed values."""
    return Allowed(
        f"one of {', '.join(map(repr, values))}", lambda x: any(x == v and type(x) is type(v) for v in values)
    )


def text(*, empty: bool = True) -> Allowed:
    """Allows any string; with `empty=False`, any string except the empty one."""
    return Allowed(
        "a string" if empty else "a string that is not empty", lambda x: isinstance(x, str) and (empty or bool(x))
    )


def optional(allowed: Allowed) -> Allowed:
    """Allows None, and the values that `allowed` allows."""
    return Allowed(f"None or {allowed.text}", lambda x: x is None or allowed.check(x))


BOOLEAN = Allowed("True or False", lambda x: isinstance(x, bool))
STEPS = integer(0, 2**31 - 1)  # what the counter of steps can hold
