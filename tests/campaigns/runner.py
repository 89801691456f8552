"""Runs in processes that fork from one that has imported JAX, which saves most of the cost of a start."""

import contextlib
import json
import os
import pathlib
import signal
import subprocess
import sys
import time

from softvq_jax.train.speed import TIMES
from softvq_jax.weights.files import read_tensors
from tests.programs import ROOT


class Runner:
    """Starts runs.

    Args:
      cache: folder of compiled programs.
      env: further environment variables of the processes.
    """

    def __init__(self, cache, env=None):
        variables = {"JAX_PLATFORMS": "cpu", "JAX_COMPILATION_CACHE_DIR": str(cache)}
        variables |= {"JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"} | (env or {})
        self._server = subprocess.Popen(
            [sys.executable, "-m", "tests.programs.fork_runs"],
            cwd=ROOT,
            env=os.environ | variables,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def start(self, config, workdir, *cluster) -> int:
        """Starts a run, or with `cluster` (coordinator, count, number) one of its processes; returns its process number.

        Args:
          config: path of the config as JSON.
          workdir: of the run.
        """
        return self._ask("start", config, workdir, log_of(workdir, *cluster[2:]), *cluster)

    def code(self, pid: int) -> int:
        """Returns the exit code of a process when it has ended."""
        return self._ask("wait", pid)

    def close(self) -> None:
        self._server.stdin.close()
        self._server.wait(60)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def _ask(self, *words):
        self._server.stdin.write(" ".join(map(str, words)) + "\n")
        self._server.stdin.flush()
        return int(self._server.stdout.readline())


def log_of(workdir, process=0) -> pathlib.Path:
    """Path of the output of a process."""
    return pathlib.Path(f"{workdir}.log.{process}")


def complete(workdir) -> list[int]:
    """Steps of the complete checkpoints."""
    folder = workdir / "checkpoints"
    return sorted(int(path.name) for path in folder.iterdir() if path.name.isdigit()) if folder.exists() else []


def content(workdir, steps):
    """Everything that a run of `steps` steps leaves which must not depend on interruptions."""
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    for line in lines:
        for name in TIMES:
            line.pop(name, None)
    record = json.loads((workdir / "checkpoints" / str(steps) / "record" / "metadata").read_text())
    kept = [path for path in (workdir / "tokenizer", workdir / "generator", workdir / "best") if path.exists()]
    weights = {
        str(path.relative_to(workdir)): read_tensors(path) for folder in kept for path in folder.rglob("*.safetensors")
    }
    return lines, record["digest"], weights


def runs(pid) -> bool:
    """Whether a process has not ended yet."""
    try:
        return pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def kill_when(pid, condition) -> None:
    """Kills a process when `condition()` holds; returns when it is killed or has ended by itself."""
    while runs(pid):
        if condition():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            return
        time.sleep(0.004)  # a poll of the folders takes half a millisecond
