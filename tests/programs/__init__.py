"""Programs that need several devices or processes: tests start them as `python -m tests.programs.<name>`.

A backend's number of devices is fixed at its first use, so these cannot run inside pytest's own process.
"""

import importlib.metadata
import json
import os
import pathlib
import socket
import subprocess
import sys

ROOT = pathlib.Path(__file__).parents[2]
CLUSTER = "SOFTVQ_TEST_CLUSTER"
# Forty percent less compile time on CPUs. Newer versions, and libtpu, end with an error if they get these flags.
_KNOWN = int(importlib.metadata.version("jaxlib").split(".")[1]) < 11
XLA_FLAGS = "--xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1" if _KNOWN else ""
QUICK_COMPILATION = {"JAX_DISABLE_MOST_OPTIMIZATIONS": "1", "XLA_FLAGS": XLA_FLAGS}  # for programs that take few steps
OPTIMIZED = {"JAX_DISABLE_MOST_OPTIMIZATIONS": "0", "XLA_FLAGS": ""}  # less rounding adds up over steps


def start(name: str, *args, processes: int = 1, devices: int = 1, env: dict[str, str] | None = None):
    """Starts `processes` copies of a program, each with `devices` CPU devices; returns a list of `subprocess.Popen`.

    Their standard error goes to standard output. A program joins the other processes through `join`. It is compiled
    quickly, unless `env` says otherwise.
    """
    # Collectives of simulated devices block a thread each; with few cores there are too few, and they deadlock.
    threads = {"NPROC": str(8 * devices)}
    coordinator = f"127.0.0.1:{free_port()}"
    running = []
    for process in range(processes):
        environment = os.environ | {"JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": str(devices)} | threads
        environment |= QUICK_COMPILATION | (env or {})
        if processes > 1:
            environment[CLUSTER] = json.dumps([coordinator, processes, process])
        command = [sys.executable, "-m", f"tests.programs.{name}", *map(str, args)]
        options = {"cwd": ROOT, "env": environment, "text": True}
        running.append(subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, **options))
    return running


def run(name: str, *args, processes: int = 1, devices: int = 1, timeout: float = 300.0, env=None) -> list[str]:
    """Returns the output of each process; AssertionError with all outputs where one failed."""
    running = start(name, *args, processes=processes, devices=devices, env=env)
    try:
        outputs = [process.communicate(timeout=timeout)[0] for process in running]
    finally:
        for process in running:
            process.kill()
    codes = [process.returncode for process in running]
    combined = "\n".join(f"--- process {i}, exit code {codes[i]}\n{text}" for i, text in enumerate(outputs))
    assert not any(codes), combined
    return outputs


def join(config: dict | None = None) -> None:
    """Joins the other processes of a program, if there are any; called first in a program."""
    from softvq_jax.parallel import distributed

    if CLUSTER in os.environ:
        distributed.initialize(*json.loads(os.environ[CLUSTER]), config=config, timeout=120.0)


def process_id() -> int:
    """Returns the number of this process before it has joined the others."""
    return json.loads(os.environ[CLUSTER])[2]


def join_flags(address: str, processes: int, process: int) -> list[str]:
    """Returns the flags of `python -m softvq_jax.main` that join the other processes."""
    return [f"--coordinator={address}", f"--num_processes={processes}", f"--process_id={process}"]


def free_port() -> int:
    """Returns a port of this machine that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
