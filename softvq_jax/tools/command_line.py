"""Code shared by the commands: start, reporting of errors, and common flags."""

import argparse
import sys
from collections.abc import Callable, Sequence
from typing import Any

from absl import app

from softvq_jax.data.decoding import MAX_PIXELS
from softvq_jax.data.folder import CLASSES
from softvq_jax.progress import set_up_log

Main = Callable[[argparse.Namespace], int | None]


def run_tool(main: Main, parse: Callable[[Sequence[str]], argparse.Namespace]) -> None:
    """Runs a command and ends the program with its exit code, see `exit_code`.

    Wrong flags print argparse's usage and give exit code 2. (`main` and `aot_compile`, whose flags are fields of a
    config, are not run by this function.)

    Args:
      main: does the work and returns the exit code, None for 0. The command is named after its module.
      parse: parses the command line (`argv[0]` is the program) with a parser of `absl.flags.argparse_flags`.
    """
    set_up_log()
    app.run(lambda args: exit_code(main, args), argv=sys.argv, flags_parser=parse)


def exit_code(main: Main, args: argparse.Namespace) -> int:
    """Runs a command and returns its exit code.

    Errors that the user can fix (OSError, ValueError, ImportError) print one line to standard error,
    `NAME: error: MESSAGE`, and give 1. With several processes, an error in one ends all of them.
    """
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


SAMPLING = {  # flags of arguments of `Generator.sample`: type and help
    "--sampler": (str, "sampler (default: the family's first)"),
    "--steps": (int, "number of steps (default: the sampler's default)"),
    "--guidance": (float, "scale of classifier-free guidance; 1 is none (default: 1; of MaskGIT, its own)"),
    "--temperature": (float, "factor on the noise (MAR); noise on the confidence (MaskGIT)"),
    "--head_steps": (int, "denoising steps of each token (MAR)"),
}


def add_sampling(parser: argparse.ArgumentParser) -> None:
    """Adds flags for how a generator samples."""
    add = parser.add_argument_group("sampling").add_argument
    for flag, (kind, text) in SAMPLING.items():
        add(flag, type=kind, help=text)
    add("--guidance_low", type=float, default=0.0, help="lowest time with guidance; 0 is data (SiT, DiT)")
    add("--guidance_high", type=float, default=1.0, help="highest time with guidance; 1 is noise (SiT, DiT)")


def sampling_options(args: argparse.Namespace, *, discrete: bool) -> dict[str, Any]:
    """The flags of `add_sampling` that were given, as arguments of `Generator.sample` and as JSON values.

    Args:
      args: the parsed flags.
      discrete: whether the generator is discrete; such a one has the settings of its files, others guidance 1.
    """
    options: dict[str, Any] = {} if discrete else {"guidance": 1.0}
    names = [flag.removeprefix("--") for flag in SAMPLING]
    options |= {name: getattr(args, name) for name in names if getattr(args, name) is not None}
    if (args.guidance_low, args.guidance_high) != (0.0, 1.0):
        options["guidance_interval"] = [args.guidance_low, args.guidance_high]
    return options


def add_processes(parser: argparse.ArgumentParser) -> None:
    """Adds --coordinator, --num_processes and --process_id, as `parallel.start.start` takes them."""
    add = parser.add_argument_group("several processes, if they are not detected").add_argument
    add("--coordinator", help="host:port of process 0")
    add("--num_processes", type=int, help="number of processes")
    add("--process_id", type=int, help="index of this process, from 0")


def check_at_least_one(parser: argparse.ArgumentParser, args: argparse.Namespace, *names: str) -> None:
    """Ends the program if one of the flags `names` is given and below 1."""
    for name in names:
        if getattr(args, name) is not None and getattr(args, name) < 1:
            parser.error(f"--{name}={getattr(args, name)}: expected at least 1")
