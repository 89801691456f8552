"""Times of starting: imports, `--help`, and a training run up to its first step.

    python benchmarks/start_up.py --python=TORCH_ENVIRONMENT/bin/python

Each command runs in a new process, and the fastest of `--rounds` counts; beside it the CPU time, which hardly depends on
what else the machine does. The first step is that of `configs/tiny.py`:
without a cache of compiled programs, and with the cache that such a run has left.
"""

import argparse
import os
import pathlib
import subprocess
import sys
import tempfile
import time
from typing import NamedTuple

ROOT = pathlib.Path(__file__).parents[1]
FIRST_STEP = "step 1/"  # begins a line of the log


class Seconds(NamedTuple):
    """Wall-clock and CPU time."""

    wall: float
    cpu: float

    def __str__(self) -> str:
        return f"{self.wall:.2f} | {self.cpu:.2f}"


def seconds(command: list[str]) -> Seconds:
    """Returns the time that a command takes."""
    began, before = time.perf_counter(), _cpu_of_children()
    done = subprocess.run(command, capture_output=True, cwd=ROOT)
    if done.returncode > ("--help" in command):  # absl ends `--help` with exit code 1
        raise SystemExit(f"error: {' '.join(command)} failed:\n{done.stderr.decode()}")
    return Seconds(time.perf_counter() - began, _cpu_of_children() - before)


def _cpu_of_children() -> float:
    """CPU time of the processes that have ended."""
    times = os.times()
    return times.children_user + times.children_system


def first_step(workdir: pathlib.Path, cache: pathlib.Path) -> Seconds:
    """Returns the time from a process's start to the end of its first training step, and the CPU time of the whole run.

    `cache` is the user's cache folder for this run, in which the command keeps compiled programs.
    """
    settings = ["--config.train.num_steps=2", "--config.log.every_steps=1", "--config.evals.held_out.every_steps=0"]
    environment = {name: value for name, value in os.environ.items() if "_CACHE_" not in name}  # the default cache
    began, before = time.perf_counter(), _cpu_of_children()
    process = subprocess.Popen(
        [sys.executable, "-m", "softvq_jax.main", "--config=tiny", f"--workdir={workdir}", *settings],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment | {"XDG_CACHE_HOME": str(cache)},
    )
    lines = []
    assert process.stdout is not None  # a pipe
    for line in process.stdout:
        lines.append(line)
        if FIRST_STEP in line:
            found = time.perf_counter() - began
            process.communicate()
            return Seconds(found, _cpu_of_children() - before)
    raise SystemExit("error: the run took no step:\n" + "".join(lines))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", help="interpreter of an environment with torch, for comparison")
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    commands = {
        "`import softvq_jax`": [sys.executable, "-c", "import softvq_jax"],
        "`import softvq_jax; softvq_jax.Tokenizer`": [sys.executable, "-c", "import softvq_jax; softvq_jax.Tokenizer"],
        "`softvq --help`": [sys.executable, "-m", "softvq_jax.cli", "--help"],
        "`python -m softvq_jax.main --help`": [sys.executable, "-m", "softvq_jax.main", "--help"],
        "`import jax`": [sys.executable, "-c", "import jax"],
    }
    if args.python:
        commands["`import torch`"] = [args.python, "-c", "import torch"]
    print("| | seconds | CPU seconds |\n|---|---|---|")
    for name, command in commands.items():
        print(f"| {name} | {min(seconds(command) for _ in range(args.rounds))} |", flush=True)
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        times = [first_step(folder / f"run{i}", folder / "cache") for i in range(1 + args.rounds)]
    print(f"| first step of `tiny`, nothing compiled | {times[0]} |")
    print(f"| first step of `tiny`, all compiled before | {min(times[1:])} |")


if __name__ == "__main__":
    main()
