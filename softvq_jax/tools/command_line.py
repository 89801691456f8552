"""Flags that several commands have, and their checks."""

import argparse


def add_processes(parser: argparse.ArgumentParser) -> None:
    """--coordinator, --num_processes and --process_id, as `parallel.distributed.initialize` takes them."""
    add = parser.add_argument_group("several processes, where they are not detected").add_argument
    add("--coordinator", help="host:port of process 0")
    add("--num_processes", type=int)
    add("--process_id", type=int)


def check_at_least_one(parser: argparse.ArgumentParser, args: argparse.Namespace, *names: str) -> None:
    """Ends the program where one of the flags `names` is given and below 1."""
    for name in names:
        if getattr(args, name) is not None and getattr(args, name) < 1:
            parser.error(f"--{name}={getattr(args, name)}: expected at least 1")
