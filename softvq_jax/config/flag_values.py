"""Values of config fields on the command line that ml_collections cannot parse, or refuses without the allowed values."""

import re
from collections.abc import Mapping, Sequence

from ml_collections import ConfigDict

from softvq_jax.config.fields import Field, flatten
from softvq_jax.config.names import load_config
from softvq_jax.config.schemas import schema_of


def take_optional(argv: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    """Takes the fields that may be None out of a command line.

    Args:
      argv: from `resolve_arguments`.

    Returns:
      The other words, and the values of these fields by dotted name, as written.
    """
    config = next((word.partition("=")[2] for word in argv if re.match(r"--?config=", word)), None)
    if config is None:
        return list(argv), {}
    optional = [name for name, field in _declared(load_config(config)).items() if field.allowed.check(None)]
    rest, values, words = [], {}, iter(argv)
    for word in words:
        flag, equals, value = word.partition("=")
        name = re.sub(r"^--?config\.", "", flag)
        if name == flag or name not in optional:
            rest.append(word)
            continue
        values[name] = value if equals else next(words, "")
    return rest, values


def set_optional(config: ConfigDict, values: Mapping[str, str]) -> None:
    """Sets fields that may be None from their values on the command line.

    Raises:
      ValueError: a value is neither None nor a number; the message names it and the allowed values.
    """
    for name, text in values.items():
        *sections, last = name.split(".")
        section = config
        for part in sections:
            section = section[part]
        try:
            value = None if text.lower() == "none" else float(text)
        except ValueError:
            raise ValueError(f"config.{name}={text!r}: expected {_declared(config)[name].allowed.text}") from None
        with section.ignore_type():
            section[last] = value


def wrong_type(message: str, config: ConfigDict | None) -> str:
    """Returns the message for a flag's value that cannot be parsed: for a field of the config, with its allowed values.

    Args:
      message: absl's, "flag --NAME=VALUE: REASON".
      config: the config, None if it is not known.
    """
    message = " ".join(message.split())
    match = re.match(r"flag --config\.([\w.]+)=(.*?): ", message)
    declared = {} if config is None else _declared(config)
    if match is None or match[1] not in declared:
        return message
    return f"config.{match[1]}={match[2]!r}: expected {declared[match[1]].allowed.text}"


def _declared(config: ConfigDict) -> dict[str, Field]:
    """Returns the declared fields by dotted name; none for a config of an unknown task, which is refused later."""
    try:
        return flatten(schema_of(config))
    except (ValueError, AttributeError, KeyError):
        return {}
