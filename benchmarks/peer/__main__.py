"""Serves the case in a folder: commands on stdin, answers on stdout, a JSON object each.

cd benchmarks && python -m peer FOLDER
"""

import json
import os
import pathlib
import sys
import time

import numpy as np
import torch
from peak_memory import peak_rss, reset_peak_rss

from peer.cases import runners


def _wait():
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def _run_command(folder, runner, command):
    name = command["name"]
    if command["do"] == "check":
        np.savez(folder / "numbers.npz", **runner.numbers(name))
        return {}
    if command["do"] == "memory":
        return {"peak_mib": _peak_mib(runner, name)}
    began = time.perf_counter()
    runner(name)
    _wait()
    return {"seconds": time.perf_counter() - began}


def _peak_mib(runner, name):
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
        runner(name)
        return torch.cuda.max_memory_allocated() / 2**20
    reset_peak_rss()
    runner(name)
    return peak_rss() / 2**20


def serve(folder: pathlib.Path) -> None:
    """Serves `check` (saves numbers.npz), `time` (returns seconds) and `memory` (returns MiB) until stdin is closed."""
    if not torch.cuda.is_available():
        torch.set_num_threads(len(os.sched_getaffinity(0)))
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.conv.fp32_precision = "ieee"
    found = runners(folder)
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
    print(json.dumps({"version": f"torch {torch.__version__}, {device}"}), flush=True)
    for line in sys.stdin:
        command = json.loads(line)
        print(json.dumps(_run_command(folder, found[command["variant"]], command)), flush=True)


if __name__ == "__main__":
    serve(pathlib.Path(sys.argv[1]))
