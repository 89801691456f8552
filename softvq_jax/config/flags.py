"""The flags `--config` and `--config.FIELD`, and parsing of the commands that have them."""

import sys
from collections.abc import Sequence

from absl import flags
from ml_collections import ConfigDict, config_flags

from softvq_jax.config.arguments import resolve_arguments
from softvq_jax.config.flag_values import set_optional, take_optional, wrong_type
from softvq_jax.config.reference import text_reference

flags.disclaim_key_flags()  # so that --help lists them as flags of the command, not of this module


def define_config() -> flags.FlagHolder[ConfigDict]:
    """Defines `--config`, `--config.FIELD` for each field of the config, and `--help_config`."""
    flags.DEFINE_bool("help_config", False, "Print every field of the config, and exit.")
    text = "A config by name (l64, sit:xl_l64, studies/bottlenecks) or the path of its file. See --help_config."
    return config_flags.DEFINE_config_file("config", None, text, lock_config=True)


def parse_flags(argv: Sequence[str], required: Sequence[str] = ()) -> list[str]:
    """Parses a command line for `absl.app.run`; errors end the program with one line.

    `--help_config` prints the fields of the config and ends the program with exit code 0.

    Args:
      argv: the program and its arguments.
      required: names of flags that must be set in addition to `--config`.
    """
    try:
        # ml_collections reads the config's fields from sys.argv, but cannot set one to None, nor change one that is None.
        sys.argv, optional = take_optional(resolve_arguments(argv))
        rest = flags.FLAGS(sys.argv)
        if optional:
            config = flags.FLAGS["config"].value
            assert config is not None, "its fields are on the command line"
            set_optional(config, optional)
    except flags.IllegalFlagValueError as error:
        sys.exit(f"error: {wrong_type(str(error), flags.FLAGS['config'].value)}")
    except (ValueError, flags.Error) as error:
        sys.exit(f"error: {' '.join(str(error).split())}")
    if len(rest) > 1:
        sys.exit(f"error: unexpected argument {rest[1]!r}; flags start with --")
    help_config = flags.FLAGS["help_config"].value
    for name in ("config",) if help_config else ("config", *required):
        if flags.FLAGS[name].value is None:
            sys.exit(f"error: --{name} is required")
    if help_config:
        config = flags.FLAGS["config"].value
        assert config is not None, "checked above"
        print(text_reference(config))
        sys.exit(0)
    return rest
