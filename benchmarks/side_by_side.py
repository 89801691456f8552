"""Ratios of speed between this package and the same networks in PyTorch, which take turns.

    python benchmarks/side_by_side.py --python=TORCH_ENVIRONMENT/bin/python                # B-64, 8 images, float32
    python benchmarks/side_by_side.py --python=... --case=sit --size=B --batch=16
    python benchmarks/side_by_side.py --python=... --case=gan_step --config=s64 --batch=4  # the whole training step
    python benchmarks/side_by_side.py --python=... --case=tokenizer --config=l64 --dtype=bfloat16 --batch=128  # on a GPU

The peer is the package `benchmarks/peer`, in a process of its own with the interpreter `--python`, which needs torch and
numpy. Both load the same random weights, and results and gradients must agree before anything is timed. Then this package
and the peer's variants (eager, `torch.compile`) take turns; only one runs at a time. The ratio is the peer's time divided
by ours: above 1, ours is faster. It is printed for the fastest calls and for the median of the rounds, against the peer's
faster variant. Then the peak memory of one more call on both sides: resident memory of the processes on CPUs, allocated
memory on GPUs, where ours is that of the first call, because JAX's peak cannot be reset: functions that need more memory
come later. On CPUs, measure it with one of the `--variants`, because all are in one process.
"""

import argparse
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time
from typing import Any

import compared_networks
import jax
import numpy as np
from compared_networks import Case
from compared_step import GanStep
from peak_memory import peak_rss, reset_peak_rss

FOLDER = pathlib.Path(__file__).parent
TOLERANCE = {"float32": 2e-4, "bfloat16": 3e-2}  # of results, relative to their norm
SMALLEST = {"alignment": 0.1}  # a mean of cosines, which cancel
NETWORKS = ("tokenizer", "sit", "lpips", "discriminator")
CASES = {name: getattr(compared_networks, name) for name in NETWORKS} | {"gan_step": GanStep}
VARIANTS = ("eager", "compiled")


class Peer:
    """The process of the peer."""

    def __init__(self, python: str, case: Case, folder: pathlib.Path, dtype: str, variants: list[str]):
        self.folder = folder
        weights: dict[str, Any] = case.tensors
        inputs: dict[str, Any] = {name: _peer_type(array) for name, array in case.inputs.items()}
        np.savez(folder / "weights.npz", **weights)
        np.savez(folder / "inputs.npz", **inputs)
        fields = {"kind": case.kind, "config": case.config, "dtype": dtype, "variants": variants}
        (folder / "case.json").write_text(json.dumps(fields))
        self.process = subprocess.Popen(
            [python, "-m", "peer", str(folder)], cwd=FOLDER, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self.process.stdin is not None and self.process.stdout is not None  # pipes
        self.requests, self.replies = self.process.stdin, self.process.stdout
        self.version = self._reply()["version"]

    def _reply(self):
        line = self.replies.readline()
        if not line:
            raise SystemExit(f"error: the peer ended with code {self.process.wait()}; its message is above")
        return json.loads(line)

    def ask(self, what: str, variant: str, name: str) -> dict:
        """Sends a command and waits for its answer."""
        self.requests.write(json.dumps({"do": what, "variant": variant, "name": name}) + "\n")
        self.requests.flush()
        return self._reply()

    def numbers(self, variant: str, name: str) -> dict[str, np.ndarray]:
        """Results of a function, to compare with ours."""
        self.ask("check", variant, name)
        with np.load(self.folder / "numbers.npz") as arrays:
            return dict(arrays)

    def close(self):
        self.requests.close()
        self.process.wait()


def _peer_type(array):
    array = np.asarray(array)
    return array.astype(np.int64) if array.dtype == np.int32 else array


def check(case: Case, peer: Peer, variants: list[str], names: list[str], tolerance: float) -> dict[str, float]:
    """Compares results and gradient norms of the two sides; raises SystemExit where they differ.

    Returns:
      Our peak memory on an accelerator since the start of the process, when each function has run for the first time, MiB.
    """
    peaks = {}
    for name, factor in [(name, factor) for name in names for factor in case.tolerances]:
        ours = case.numbers(name)
        if jax.default_backend() != "cpu":
            peaks.setdefault(name, jax.devices()[0].memory_stats()["peak_bytes_in_use"] / 2**20)
        for variant in variants:
            theirs = peer.numbers(variant, name)
            errors = {key: _difference(key, ours[key], value) for key, value in theirs.items()}
            line = ", ".join(f"{key} {error:.1e}" for key, error in errors.items())
            if max(errors.values()) > factor * tolerance:
                raise SystemExit(
                    f"error: {name}, {variant}: not the same networks, nothing is timed; differences: {line}"
                )
            print(f"{name}, {variant}: relative differences: {line}", flush=True)
    return peaks


def _difference(name, ours, theirs):
    """Relative to the norm; small numbers, which can be differences of larger ones, count as `SMALLEST`."""
    ours, theirs = ours.astype(np.float64), theirs.astype(np.float64)
    return float(np.linalg.norm(ours - theirs) / max(np.linalg.norm(ours), SMALLEST.get(name, 0.01)))


def in_turns(case: Case, peer: Peer, variants: list[str], name: str, rounds: int) -> np.ndarray:
    """Seconds `[rounds, 1 + variants]`: ours, then each variant of the peer."""
    seconds = np.empty((rounds + 1, 1 + len(variants)))
    for row in seconds:
        began = time.perf_counter()
        case.run(name)
        row[0] = time.perf_counter() - began
        row[1:] = [peer.ask("time", variant, name)["seconds"] for variant in variants]
    return seconds[1:]  # The first round warms up.


def own_peak_mib(case: Case, name: str) -> float:
    """Peak resident memory of one more call on our side."""
    reset_peak_rss()
    case.run(name)
    return peak_rss() / 2**20


def report(name: str, batch: int, variants: list[str], seconds: np.ndarray) -> str:
    """A row of the table: images/s of both sides, and the ratios."""
    least = seconds.min(axis=0)
    best = 1 + int(np.argmin(least[1:]))
    median = float(np.median(seconds[:, best] / seconds[:, 0]))
    return (
        f"| {name} | {batch / least[0]:.3g} | {batch / least[best]:.3g} ({variants[best - 1]}) "
        f"| {least[best] / least[0]:.2f} | {median:.2f} |"
    )


def main(argv=None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", default=sys.executable, help="interpreter of an environment with torch")
    parser.add_argument("--case", choices=CASES, default="tokenizer")
    parser.add_argument("--config", default="b64", help="config of the tokenizer")
    parser.add_argument("--size", default="B", help="size of SiT")
    parser.add_argument("--dtype", choices=TOLERANCE, default="float32")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--only", nargs="*", help="functions to time; default: all")
    parser.add_argument("--variants", nargs="*", choices=VARIANTS, default=list(VARIANTS))
    args = parser.parse_args(argv)
    case = CASES[args.case](args)
    names = args.only or list(case.names)
    with tempfile.TemporaryDirectory() as folder:
        peer = Peer(args.python, case, pathlib.Path(folder), args.dtype, args.variants)
        case.tensors = {}  # not part of our memory
        peaks = check(case, peer, args.variants, names, TOLERANCE[args.dtype])
        device = jax.devices()[0]
        print(f"{device.device_kind}, {len(os.sched_getaffinity(0))} CPU cores, jax {jax.__version__}, {peer.version}")
        print(f"{args.case}, {args.dtype}, batch {args.batch}, {args.rounds} rounds\n")
        print("| | ours, per s | PyTorch, per s | ratio | median ratio |\n|---|---|---|---|---|", flush=True)
        for name in names:
            seconds = in_turns(case, peer, args.variants, name, args.rounds)
            print(report(name, args.batch, args.variants, seconds), flush=True)
        print("\n| peak memory | ours, MiB | PyTorch, MiB | ratio |\n|---|---|---|---|")
        for name in names:
            ours = peaks[name] if peaks else own_peak_mib(case, name)
            theirs = peer.ask("memory", args.variants[0], name)["peak_mib"]
            print(f"| {name} | {ours:,.0f} | {theirs:,.0f} ({args.variants[0]}) | {ours / theirs:.2f} |", flush=True)
        peer.close()


if __name__ == "__main__":
    main()
