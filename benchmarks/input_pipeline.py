"""Speed of the input pipeline from a folder, tar shards and ArrayRecord, relative to Pillow alone.

    python benchmarks/input_pipeline.py                          # JPEGs made from built-in photographs
    python benchmarks/input_pipeline.py --images=imagenet/val    # your own images
    python benchmarks/input_pipeline.py --needed v5e=43 v4=61    # images/s that a chip trains on, by tools.aot_compile

`bare` decodes and crops the same files with Pillow in a loop, one process per core, without making batches. The pipeline
makes batches of 256 px crops with as many worker processes. "Per core" is images per second of processor time, summed over
all processes, so that other load on the machine has little effect. Rounds alternate; the best round of each source counts.
"""

import argparse
import concurrent.futures
import os
import pathlib
import tarfile
import tempfile
import time
from typing import NamedTuple

import numpy as np
import psutil
from PIL import Image

from softvq_jax.config.data import default_data_config
from softvq_jax.data import crops, embedded, pipeline
from softvq_jax.data.folder import ImageFolder
from softvq_jax.tools import prepare_dataset

BATCH = 64
HOSTS = {
    "v4": (4, 240),
    "v5e": (4, 112),
    "v5p": (4, 208),
    "v6e": (4, 180),
}  # chips and vCPUs of one host of a pod slice


def make_jpegs(folder: pathlib.Path, count: int) -> None:
    """Writes JPEGs of the average size of ImageNet's: 500 x 375 pixels, about 110 kB."""
    folder.mkdir()
    regions = embedded.EmbeddedPhotographs(0)
    rng = np.random.default_rng(0)
    for number in range(count):
        photograph, _ = regions[number % len(regions)].read()
        square = crops.random_region(photograph, 500, rng)
        Image.fromarray(square[:375]).save(folder / f"{number:05}.jpg", quality=95)


def make_sources(images: str, folder: pathlib.Path) -> dict[str, dict]:
    """Also writes the images as a tar and as ArrayRecord; returns the `data` section of a config for each source."""
    listed = ImageFolder(images)
    with tarfile.open(folder / "images.tar", "w") as archive:
        for i in range(len(listed)):
            archive.add(listed[i].where, listed.key(i))
    prepare_dataset.prepare(listed, folder / "shards", images_per_shard=100, size=None, num_workers=1)
    paths = {"folder": images, "tar": folder / "images.tar", "array_record": folder / "shards"}
    defaults = default_data_config() | {"holdout": 0}
    return {name: defaults | {"source": name, "path": str(path)} for name, path in paths.items()}


def bare_loop(paths: list[str], size: int) -> None:
    """Takes ADM's random crop of every file, with Pillow and nothing else."""
    rng = np.random.default_rng(0)
    for path in paths:
        image = Image.open(path).convert("RGB")
        crops.random_flip(crops.random_crop(image, size, rng), rng).copy()


class Speed(NamedTuple):
    """Images read, in wall-clock seconds and in seconds of processor time."""

    images: int
    seconds: float
    core_seconds: float

    @property
    def rate(self) -> float:
        return self.images / self.seconds

    @property
    def per_core(self) -> float:
        return self.images / self.core_seconds


class Stopwatch:
    """Measures wall-clock time, and processor time of this process and its children, since it was created."""

    def __init__(self):
        self._begin = time.perf_counter(), core_seconds()

    def speed(self, images: int) -> Speed:
        return Speed(images, time.perf_counter() - self._begin[0], core_seconds() - self._begin[1])


def core_seconds() -> float:
    """Returns the processor time of this process and its running children."""
    me = psutil.Process()
    return sum(sum(process.cpu_times()[:2]) for process in [me, *me.children()])


def bare_speed(paths: list[str], size: int, processes: int) -> Speed:
    """Measures `bare_loop` in several processes at once."""
    with concurrent.futures.ProcessPoolExecutor(processes) as pool:
        list(pool.map(time.sleep, [1] * processes))  # all processes have started
        stopwatch = Stopwatch()
        list(pool.map(bare_loop, (paths[i::processes] for i in range(processes)), [size] * processes))
        return stopwatch.speed(len(paths))


def pipeline_speed(config: dict, size: int, count: int) -> Speed:
    """Measures the training pipeline after it has filled its prefetch buffer."""
    with pipeline.train_batches(config, image_size=size, seed=0, global_batch=BATCH) as batches:
        for _ in range(1 + config["prefetch"]):
            next(batches)
        stopwatch = Stopwatch()
        steps = -(-count // BATCH)
        for _ in range(steps):
            next(batches)
        return stopwatch.speed(steps * BATCH)


def measure(images: str, size: int, processes: int, rounds: int) -> dict[str, Speed]:
    """Returns the speed of `bare` and of every source, each in the round that took the least processor time."""
    with tempfile.TemporaryDirectory() as folder:
        listed = ImageFolder(images)
        paths = [listed[i].where for i in range(len(listed))]
        configs = make_sources(images, pathlib.Path(folder))
        speeds = {name: [] for name in ["bare", *configs]}
        for _ in range(rounds):
            speeds["bare"].append(bare_speed(paths, size, processes))
            for name, config in configs.items():
                speeds[name].append(pipeline_speed(config | {"num_workers": processes}, size, len(paths)))
    return {name: max(found, key=lambda speed: speed.per_core) for name, found in speeds.items()}


def report(speeds: dict[str, Speed], needed: dict[str, float]) -> str:
    """Returns the tables in Markdown.

    Args:
      needed: images/s that a chip trains on, by the name of the chip.
    """
    lines = ["| source | images/s | images/s per core | of bare Pillow |", "|---|---|---|---|"]
    bare = speeds["bare"].per_core
    for name, speed in speeds.items():
        lines.append(f"| {name} | {speed.rate:,.0f} | {speed.per_core:,.0f} | {speed.per_core / bare:.2f} |")
    per_core = min(speed.per_core for name, speed in speeds.items() if name != "bare")
    lines += ["", "| host | images/s of its cores | per chip | needed per chip |", "|---|---|---|---|"]
    for chip, (chips, cores) in HOSTS.items():
        given = per_core * cores
        wanted = f"{needed[chip]:,.0f} ({needed[chip] * chips / given:.0%} of the cores)" if chip in needed else ""
        lines.append(f"| {chip}: {cores} cores, {chips} chips | {given:,.0f} | {given / chips:,.0f} | {wanted} |")
    return "\n".join(lines)


def needed_rate(text: str) -> tuple[str, float]:
    """Parses `v5e=43`."""
    chip, _, rate = text.partition("=")
    if chip not in HOSTS:
        raise argparse.ArgumentTypeError(
            f"expected CHIP=IMAGES_PER_SECOND with a chip of {', '.join(HOSTS)}, such as v5e=43; got {text!r}"
        )
    return chip, float(rate)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", help="folder of images; default: JPEGs made from built-in photographs")
    parser.add_argument("--count", type=int, default=512, help="number of JPEGs to make")
    parser.add_argument("--size", type=int, default=256, help="size of the crops in pixels")
    parser.add_argument("--processes", type=int, default=os.cpu_count(), help="worker processes")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--needed", type=needed_rate, nargs="*", default=[], help="images/s that a chip trains on, such as v5e=43"
    )
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        if not args.images:
            args.images = os.path.join(folder, "jpegs")
            make_jpegs(pathlib.Path(args.images), args.count)
        speeds = measure(args.images, args.size, args.processes, args.rounds)
    print(report(speeds, dict(args.needed)))


if __name__ == "__main__":
    main()
