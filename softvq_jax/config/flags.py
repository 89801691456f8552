"""The flags `--config` and `--config.FIELD` of the commands that take a config, and how these commands are parsed."""

import sys
from collections.abc import Sequence

from absl import app, flags
from ml_collections import ConfigDict, config_flags

from softvq_jax.config.arguments import resolve_arguments
from softvq_jax.config.reference import text_reference


def define_config() -> flags.FlagHolder[ConfigDict]:
    """Defines `--config`, `--config.FIELD` for each of its fields, and `--help_config`."""
    flags.DEFINE_bool("help_config", False, "Print every field of the config, and exit.")
    text = "A config by name (l64, sit:xl_l64, studies/bottlenecks) or the path of its file. See --help_config."
    return config_flags.DEFINE_config_file("config", None, text, lock_config=True)


def require(*names: str) -> None:
    """Requires flags, except with `--help_config`."""
    flags.mark_flag_as_required("config")
    for name in names:
        flags.register_multi_flags_validator(
            [name, "help_config"],
            lambda values, name=name: values["help_config"] or values[name] is not None,
            message=f"--{name} is required",
        )


def parse_flags(argv: Sequence[str]) -> list[str]:
    """Parses a command line for `absl.app.run`; errors end the program with one line.

    With `--help_config` prints the fields of the config and ends the program with code 0.
    """
    try:
        sys.argv = resolve_arguments(argv)  # ml_collections reads the config's fields from there
    except ValueError as error:
        sys.exit(f"error: {error}")
    rest = app.parse_flags_with_usage(sys.argv)
    if len(rest) > 1:
        sys.exit(f"error: unexpected argument {rest[1]!r}; flags start with --")
    if flags.FLAGS.help_config:
        print(text_reference(flags.FLAGS.config))
        sys.exit(0)
    return rest
