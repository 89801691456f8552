"""Rewrites a command line before its flags are parsed: finds the config by name and checks the names of its fields."""

import difflib
import re
import sys
from collections.abc import Sequence

from ml_collections import ConfigDict

from softvq_jax.config.names import find_config, load_config
from softvq_jax.config.schemas import fields
from softvq_jax.storage.paths import expand_arguments

RENAMED = {"fid.": "evals.fid.", "eval.": "evals.held_out."}  # sections of older versions


def resolve_arguments(argv: Sequence[str]) -> list[str]:
    """Returns the command line with the path of its config, with the current names of renamed fields,
    and with `~` and `$NAME` expanded.

    Args:
      argv: the program and its arguments. Without `--config`, they are returned unchanged.

    Raises:
      ValueError: there is no such config, or it has no such field; the message names the nearest.
    """
    argv = [*argv[:1], *expand_arguments(argv[1:])]
    position = next((i for i, word in enumerate(argv) if re.fullmatch(r"--?config(=.*)?", word)), None)
    if position is None:
        return argv
    flag, equals, name = argv[position].partition("=")
    if not equals:
        if position + 1 == len(argv):
            return argv
        name = argv[position + 1]
    found = find_config(name)
    if found.renamed:
        print(f"--config={name} is now {found.path.name}:{found.argument}", file=sys.stderr)
    argv[position : position + (1 if equals else 2)] = [f"{flag}={found}"]
    config = load_config(str(found))
    return [_translated(word, config) for word in argv]


def _translated(word: str, config: ConfigDict) -> str:
    """Returns an argument with the current name of its field if it is `--config.FIELD`."""
    match = re.fullmatch(r"(--?config\.)(base\.)?([^=]+)(=.*)?", word, re.DOTALL)
    if match is None:
        return word
    flag, base, field, value = (group or "" for group in match.groups())
    section = config.base if base and "base" in config else config
    if field == "log.tensorboard":
        field, value = "log.writers", "=tensorboard" if _is_true(value) else "="
    if "evals" in section:
        if field == "eval.nearest_class":
            field, value = _nearest_class_schedule(section, value)
        for old, new in RENAMED.items():
            if field.startswith(old):
                field = new + field.removeprefix(old)
    check_field(base + field, config)
    return f"{flag}{base}{field}{value}"


def _nearest_class_schedule(config: ConfigDict, value: str) -> tuple[str, str]:
    """Converts the older field `eval.nearest_class`, a boolean: every held-out evaluation, or never."""
    return "evals.nearest_class.every_steps", f"={config.evals.held_out.every_steps if _is_true(value) else 0}"


def _is_true(value: str) -> bool:
    return value.lower() in ("", "=true", "=1", "=t")


def check_field(name: str, config: ConfigDict) -> None:
    """Checks that a config has a field or section of this name.

    Args:
      name: dotted name; an index at its end, as in "sampling.guidance_interval[0]", is ignored.
      config: the config.

    Raises:
      ValueError: there is no such field; the message names the nearest.
    """
    name, section = re.sub(r"\[.*", "", name), config
    for part in name.split("."):
        if not isinstance(section, ConfigDict) or part not in section:
            break
        section = section[part]
    else:
        return

    def similarity(field):
        last = difflib.SequenceMatcher(None, name.rsplit(".", 1)[-1], field.rsplit(".", 1)[-1]).ratio()
        return last, difflib.SequenceMatcher(None, name, field).ratio()

    nearest = max(fields(config), key=similarity)
    raise ValueError(f"the config has no field {name!r}; the nearest is --config.{nearest}")
