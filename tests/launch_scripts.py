"""Runs launch scripts, with programs that log their arguments in place of those that they call."""

import os
import pathlib
import shlex
import subprocess

LAUNCH = pathlib.Path(__file__).parents[1] / "launch"


SCRIPTS = sorted(path.name for path in LAUNCH.glob("*.sh") if path.name != "common.sh")


TRAINING = ["--", "--config=configs/tiny.py", "--workdir=/shared/my runs/a", "--config.train.batch_size=8"]


OPTIONS = {
    "gke_xpk.sh": "--workload w-1 --cluster c --tpu-type v5litepod-256 --docker-image i:1 --slices 2",
    "local_processes.sh": "--processes 2 --cpu-devices 4",
    "slurm.sh": "--nodes 2 --gpus-per-node 8 --time 24:00:00 --sbatch --partition=gpu",
    "tpu_vm.sh": "--name n --zone z --project p",
}


def launch(script: str, *arguments: str, path: pathlib.Path | None = None, **environment: str):
    env = os.environ | environment
    if path is not None:
        env["PATH"] = f"{path}:{env['PATH']}"
    return subprocess.run([LAUNCH / script, *arguments], env=env, text=True, capture_output=True, timeout=60)


def fake_program(folder: pathlib.Path, name: str, body: str) -> None:
    """Writes a program `name` that appends its quoted arguments to `folder/name.log`, then runs `body`."""
    program = folder / name
    program.write_text(
        f'#!/usr/bin/env bash\nprintf "%q " "$@" >> {folder}/{name}.log; echo >> {folder}/{name}.log\n{body}\n'
    )
    program.chmod(0o755)


def calls(folder: pathlib.Path, name: str) -> list[list[str]]:
    return [shlex.split(line) for line in (folder / f"{name}.log").read_text().splitlines()]


def printed_words(printed: str) -> list[str]:
    """The words of the commands that a dry run printed."""
    return shlex.split(printed.replace("\\\n", " "))
