"""The schema of a loaded config, and the check of its values.

Each task registers a function that declares its fields, so that this package does not depend on any task.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from ml_collections import ConfigDict

from softvq_jax.config.fields import Schema, flatten

_SCHEMAS: dict[str, Callable[[ConfigDict], Schema]] = {}


def register_schema(task: str, schema: Callable[[ConfigDict], Schema]) -> None:
    """Registers the schema of a task's configs.

    Args:
      task: `config.task`.
      schema: returns the fields of a config of that task.
    """
    _SCHEMAS[task] = schema


def schema_of(config: ConfigDict) -> Schema:
    """Returns the declared fields of a config.

    Raises:
      ValueError: no schema is registered for the config's task.
    """
    if config.task not in _SCHEMAS:
        raise ValueError(f"config.task={config.task!r}: expected one of {', '.join(sorted(_SCHEMAS))}")
    return _SCHEMAS[config.task](config)


def check_values(config: ConfigDict) -> None:
    """Checks the value of each field. Undeclared fields may have any value except nan.

    Raises:
      ValueError: a value is not allowed; the message names the first such field, its value and the allowed values.
    """
    declared = flatten(schema_of(config))
    for name, value in field_values(config):
        if name in declared:
            if not declared[name].allowed.check(value):
                raise ValueError(f"config.{name}={value!r}: expected {declared[name].allowed.text}")
        elif any(isinstance(number, float) and math.isnan(number) for number in _leaves(value)):
            raise ValueError(f"config.{name}={value!r}: expected a number")


def field_values(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yields the dotted names and the values of all fields, in the config's order."""
    for name, value in config.items():
        if isinstance(value, ConfigDict):
            yield from field_values(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def fields(config: Mapping[str, Any]) -> list[str]:
    """Returns the dotted names of all fields."""
    return [name for name, _ in field_values(config)]


def _leaves(value):
    return [leaf for item in value for leaf in _leaves(item)] if isinstance(value, list | tuple) else [value]
