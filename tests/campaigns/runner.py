"""Runs in processes that fork from one that has imported JAX, which saves most of the cost of a start."""

import contextlib
import json
import os
import pathlib
import signal
import subprocess
import sys
import time

from softvq_jax.storage.json_lines import read_metrics
from softvq_jax.train.speed import TIMES
from softvq_jax.weights.checkpoints import step_of
from softvq_jax.weights.files import read_tensors
from tests.programs import ROOT


class Runner:
    """Starts runs.

    Args:
      cache: folder of compiled programs.
      logs: folder of the processes' output, for workdirs in a bucket; by default it is beside the workdirs.
      env: further environment variables of the processes.
    """

    def __init__(self, cache, env=None, logs=None):
        self._logs = logs
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
          workdir: of the run, perhaps in a bucket.
        """
        return self._ask("start", config, workdir, self.log_of(workdir, *cluster[2:]), *cluster)

    def log_of(self, workdir, process=0) -> pathlib.Path:
        """Path of the output of a process."""
        return (self._logs or pathlib.Path(workdir).parent) / f"{workdir.name}.log.{process}"

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


def complete(workdir) -> list[int]:
    """Steps of the complete checkpoints."""
    return sorted(step for path in (workdir / "checkpoints").glob("*") if (step := step_of(path)) is not None)


def content(workdir, steps):
    """Everything that a run of `steps` steps leaves which must not depend on interruptions."""
    lines = read_metrics(workdir / "metrics.jsonl")
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


def kill_when(pid, condition, pause=0.004) -> None:
    """Kills a process when `condition()` holds; returns when it is killed or has ended by itself.

    It looks every `pause` seconds; a look at a local folder takes half a millisecond.
    """
    while runs(pid):
        if condition():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            return
        time.sleep(pause)
