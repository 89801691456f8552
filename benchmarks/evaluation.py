"""Cost of evaluation: speed of Inception relative to matmuls and convolutions, and memory for 1,000 and 20,000 images.

    python benchmarks/evaluation.py
    python benchmarks/evaluation.py --images=2048 --batch_size=256 --counts 1000 50000      # on an accelerator

Speed is that of `FeatureExtractor` with all features on 256 px images, in float32 at full precision and with random
weights, relative to the best float32 matmul and the best 3 x 3 convolution of the same run. Memory is the peak of a
separate process that measures that many images against 1,000 others and computes every metric of the `adm` protocol, with
a small network of equally wide features in place of Inception.
"""

import argparse
import pathlib
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from types import MappingProxyType

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from peak_memory import peak_rss

from softvq_jax.evaluate.devices import LocalDevices
from softvq_jax.evaluate.evaluated_set import EvaluatedSet
from softvq_jax.evaluate.extractors import FEATURES as NAMES
from softvq_jax.evaluate.extractors import FeatureExtractor
from softvq_jax.evaluate.measure import measure
from softvq_jax.evaluate.numbers import distribution_metrics
from softvq_jax.evaluate.predictions import ImageSet
from softvq_jax.evaluate.protocols import PROTOCOLS
from softvq_jax.evaluate.row_cache import RowCache
from softvq_jax.models.functional import Functional, functional
from softvq_jax.models.inception import FEATURES, Inception

SIZE = 256
EXACT = jax.lax.Precision.HIGHEST
REFERENCES = 1000


Timed = tuple[float, Callable]  # FLOPs, and the function that executes them


def matmuls() -> list[Timed]:
    """Returns large square float32 matmuls."""
    multiply = jax.jit(lambda a: jnp.matmul(a, a, precision=EXACT))
    inputs = [jnp.ones((side, side)) for side in (1024, 2048, 4096)]
    return [(2.0 * len(a) ** 3, partial(multiply, a)) for a in inputs]


def convolutions(batch: int) -> list[Timed]:
    """Returns 3 x 3 convolutions with sizes of Inception's layers."""

    @jax.jit
    def convolve(x, kernel):
        return jax.lax.conv_general_dilated(
            x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"), precision=EXACT
        )

    timed = []
    for side, channels in ((73, 80), (35, 96), (17, 192), (8, 448)):
        x, kernel = jnp.ones((batch, side, side, channels)), jnp.ones((3, 3, channels, channels))
        timed.append((18.0 * channels * x.size, partial(convolve, x, kernel)))
    return timed


def inception(devices: LocalDevices, count: int) -> Timed:
    """Returns `(FLOPs, function)` for extracting all features of `count` images; XLA counts the FLOPs of one image."""
    net = functional(Inception)
    params, _ = net.init(jax.random.key(0))
    images = random_images(0, count)
    features = jax.jit(lambda params, images: {name: net(params)(images)[name] for name in NAMES})
    costs = features.lower(params, images[:1]).compile().cost_analysis()
    assert costs is not None
    return costs["flops"] * count, partial(FeatureExtractor(net, params, devices=devices), images)


def rates(groups: Sequence[Sequence[Timed]], rounds: int) -> list[float]:
    """Returns the best FLOP/s of each group. Groups take turns, so that other load on the machine affects all."""
    best = [0.0] * len(groups)
    for turn in range(rounds + 1):
        for i, group in enumerate(groups):
            for flops, function in group:
                begin = time.perf_counter()
                jax.block_until_ready(function())
                if turn:  # the first turn compiles
                    best[i] = max(best[i], flops / (time.perf_counter() - begin))
    return best


def random_images(start: int, stop: int) -> np.ndarray:
    """Returns noise, uint8 `[stop - start, 256, 256, 3]`."""
    return np.random.default_rng(start).integers(0, 256, (stop - start, SIZE, SIZE, 3), dtype=np.uint8)


class RandomImages:
    """Image set of noise, which is drawn when it is read."""

    shape, unreadable = (SIZE, SIZE, 3), MappingProxyType({})

    def __init__(self, count: int, seed: int):
        self.name, self._count, self._seed = f"noise {seed}", count, seed

    def __len__(self) -> int:
        return self._count

    def read(self, start: int, stop: int) -> np.ndarray:
        return random_images(self._seed + start, self._seed + stop)

    def version(self) -> str:
        return self.name

    def crop(self) -> str:
        return "none"

    def describe(self, i: int) -> str:
        return f"image {i} of {self.name}"


class StandIn(nnx.Module):
    """Stand-in for Inception: random projections of means over 16 x 16 pixels, as wide as its features."""

    def __init__(self, rngs: nnx.Rngs):
        widths = {name: FEATURES[name] for name in NAMES}
        self.kernels = nnx.data({n: nnx.Param(jax.random.normal(rngs.params(), (768, w))) for n, w in widths.items()})

    def __call__(self, images: jax.Array) -> dict[str, jax.Array]:
        means = images.astype(jnp.float32).reshape(-1, 16, 16, 16, 16, 3).mean(axis=(2, 4)) / 128 - 1
        return {name: means.reshape(len(means), -1) @ kernel[...] for name, kernel in self.kernels.items()}


def evaluate_and_print_memory(count: int, batch_size: int | None) -> None:
    """Prints MiB after measuring and after computing the metrics; runs in the child process."""
    devices, net = LocalDevices(batch_size), Functional(StandIn)
    extractor = FeatureExtractor(net, net.init(jax.random.key(0))[0], devices=devices)
    with tempfile.TemporaryDirectory() as folder:
        sides = {}
        for name, size, seed in (("reference", REFERENCES, 10**6), ("samples", count, 0)):
            images = ImageSet(RandomImages(size, seed), extractor)
            cache = RowCache(pathlib.Path(folder) / name, images.metadata())
            measure(images, cache, batch_size=devices.batch_size)
            sides[name] = images, cache
        measured = peak_rss() / 2**20
        samples, reference = (EvaluatedSet.of_rows(name, *sides[name]) for name in ("samples", "reference"))
        distribution_metrics(PROTOCOLS["adm"], samples, reference)
    print(measured, peak_rss() / 2**20)


def memory_of(count: int, batch_size: int | None) -> tuple[float, float]:
    """Runs a child process; returns its MiB after measuring and after computing the metrics."""
    command = [sys.executable, __file__, "--child", str(count)]
    command += [] if batch_size is None else ["--batch_size", str(batch_size)]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    measured, whole = output.split()[-2:]
    return float(measured), float(whole)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=64, help="images to time Inception with")
    parser.add_argument("--batch_size", type=int, help="default: chosen for the devices")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--counts", type=int, nargs="*", default=[1000, 20_000], help="numbers of images, for the memory"
    )
    parser.add_argument("--child", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        return evaluate_and_print_memory(args.child, args.batch_size)
    devices = LocalDevices(args.batch_size)
    network = inception(devices, args.images)
    found = rates([[network], matmuls(), convolutions(devices.batch_size)], args.rounds)
    flops = network[0] / args.images
    print(f"{jax.local_device_count()} x {jax.devices()[0].device_kind}, batch {devices.batch_size}\n")
    print("| | images/s | GFLOP/s | of the best matmul | of the best convolution |\n|---|---|---|---|---|")
    names = (f"Inception, {flops / 1e9:.2f} GFLOP per image", "matmul", "3 x 3 convolution")
    for name, rate in zip(names, found, strict=True):
        images = f"{rate / flops:.1f}" if name.startswith("Inception") else ""
        print(f"| {name} | {images} | {rate / 1e9:.0f} | {rate / found[1]:.2f} | {rate / found[2]:.2f} |")
    print()
    print("| images | MiB, measuring | MiB, with the metrics |\n|---|---|---|")
    for count in args.counts:
        measured, whole = memory_of(count, args.batch_size)
        print(f"| {count:,} | {measured:,.0f} | {whole:,.0f} |", flush=True)


if __name__ == "__main__":
    main()
