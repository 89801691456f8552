"""Code shared by the commands: start, reporting of errors, and common flags."""

import argparse
import sys
from collections.abc import Callable, Sequence
from typing import Any

from absl import app

from softvq_jax.data.decoding import MAX_PIXELS
from softvq_jax.data.folder import CLASSES
from softvq_jax.progress import set_up_log


def run_tool(
    main: Callable[[argparse.Namespace], int | None], parse: Callable[[Sequence[str]], argparse.Namespace]
) -> None:
    """Runs a command and ends the program with its exit code.

    Errors that the user can fix (OSError, ValueError, ImportError) print one line to standard error,
    `NAME: error: MESSAGE`, and give exit code 1. Wrong flags print argparse's usage and give exit code 2. With several
    processes, an error in one ends all of them.

    Args:
      main: does the work and returns the exit code, None for 0. The command is named after its module.
      parse: parses the command line (`argv[0]` is the program) with a parser of `absl.flags.argparse_flags`.
    """
    set_up_log()
    app.run(lambda args: _guarded(main, args), argv=sys.argv, flags_parser=parse)


def _guarded(main: Callable[[argparse.Namespace], int | None], args: argparse.Namespace) -> int:
    try:
        return main(args) or 0
    except (OSError, ValueError, ImportError) as error:
        message = f"{tool_name(main)}: error: {error}"
        if "jax" in sys.modules:
            from softvq_jax.parallel import errors

            return errors.report_error(message)
        print(message, file=sys.stderr)
        return 1


def tool_name(main: Callable) -> str:
    """Returns the command's name, which is that of the module of `main`, also under `python -m`."""
    spec = getattr(sys.modules.get(main.__module__), "__spec__", None)
    return (spec.name if spec is not None else main.__module__).rpartition(".")[2]


def add_reading(parser: argparse.ArgumentParser, *, classes: bool = True) -> None:
    """Adds flags for how images are read, as the fields of `config.data` of the same names.

    Args:
      parser: of a command.
      classes: whether the command uses the classes of images.
    """
    add = parser.add_argument_group("how images are read").add_argument
    if classes:
        add(
            "--classes", choices=CLASSES, default="auto", help="classes of a folder: its subfolders, or from file names"
        )
        add("--label_file", default="", help="file with the class of each image of a folder")
    add("--exif", choices=["apply", "ignore"], default="apply", help="EXIF orientation (default: apply)")
    add("--background", default="white", help="color under transparent pixels, or ignore (default: white)")
    add("--max_pixels", type=int, default=MAX_PIXELS, help="larger images are unreadable (default: 300 million)")


def reading(args: argparse.Namespace) -> dict[str, Any]:
    """The flags of `add_reading` as the fields of a `data` section."""
    names = ("classes", "label_file", "exif", "background", "max_pixels")
    return {name: getattr(args, name) for name in names if hasattr(args, name)}


def add_processes(parser: argparse.ArgumentParser) -> None:
    """Adds --coordinator, --num_processes and --process_id, as `parallel.distributed.initialize` takes them."""
    add = parser.add_argument_group("several processes, if they are not detected").add_argument
    add("--coordinator", help="host:port of process 0")
    add("--num_processes", type=int, help="number of processes")
    add("--process_id", type=int, help="index of this process, from 0")


def check_at_least_one(parser: argparse.ArgumentParser, args: argparse.Namespace, *names: str) -> None:
    """Ends the program if one of the flags `names` is given and below 1."""
    for name in names:
        if getattr(args, name) is not None and getattr(args, name) < 1:
            parser.error(f"--{name}={getattr(args, name)}: expected at least 1")
