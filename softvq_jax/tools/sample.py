"""Draws images from a latent generator, decoded by a tokenizer.

    python -m softvq_jax.tools.sample --from=SoftVQVAE/sit-xl_softvq-l-64 --tokenizer=SoftVQVAE/softvq-l-64 \\
        --classes=uniform --num=50000 --guidance=1.75 --guidance_high=0.7 --out=samples.npz
    python -m softvq_jax.tools.sample --from=runs/tiny_sit --tokenizer=runs/tiny --classes=0-7 --num=64 --grid --out=drawn

--out is a folder for `000000.png`, `000001.png`, ..., or an `.npz` file with the array `arr_0`, uint8 `[n, H, W, 3]`,
rounded, which the ADM evaluator can read. Image i depends on the weights, --seed, i and its class, but not on the number
of devices and hosts. `classes.tsv` has the class of every image. --grid writes the first images, with the names of their
classes, to `grid.png` in the folder, or to `NAME_grid.png` beside the .npz file.

The same command resumes an interrupted run; an --out with other samples is an error. With several hosts, start it on
each, with --out on shared storage.
"""

import argparse
import re
from collections.abc import Callable, Sequence

import jax
import numpy as np
from absl.flags import argparse_flags
from jax.experimental import multihost_utils

from softvq_jax.evaluate.devices import LocalDevices
from softvq_jax.evaluate.image_sampler import LABELS, ImageSampler, draw_labels, open_generator
from softvq_jax.parallel import distributed
from softvq_jax.parallel.shared_folder import check_shared
from softvq_jax.parallel.start import start
from softvq_jax.progress import Progress
from softvq_jax.report import image_grid
from softvq_jax.storage import files
from softvq_jax.storage.paths import as_path, expand_arguments
from softvq_jax.tokenizer import Tokenizer
from softvq_jax.tools.command_line import add_processes, add_sampling, check_at_least_one, run_tool, sampling_options
from softvq_jax.tools.sample_files import Output, open_output

GRID_IMAGES, GRID_COLUMNS = 64, 8
PART = 64  # images written at a time


def parse_flags(argv: Sequence[str]) -> argparse.Namespace:
    """Parses the command line."""
    parser = argparse_flags.ArgumentParser(
        prog="python -m softvq_jax.tools.sample", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    add = parser.add_argument
    add("--from", dest="generator", required=True, help="the generator: a folder, a run's workdir or a Hub id")
    add("--tokenizer", required=True, help="the tokenizer of its training latents: a folder, a workdir or a Hub id")
    add(
        "--classes",
        default="uniform",
        help="uniform (random), balanced, or names, numbers and ranges, cycled: cat,5,10-12 (default: uniform)",
    )
    add("--num", type=int, default=50_000, help="number of images (default: 50,000)")
    add("--out", required=True, type=as_path, help="a folder for PNG files, or a file ending in .npz")
    add("--seed", type=int, default=0, help="seed of classes and noise (default: 0)")
    add("--grid", action="store_true", help=f"also write a grid of the first {GRID_IMAGES} images")
    add("--batch_size", type=int, help="images in a batch on each device (default: by the kind of device)")
    add_sampling(parser)
    add_processes(parser)
    args = parser.parse_args(expand_arguments(argv[1:]))
    check_at_least_one(parser, args, "num", "batch_size")
    return args


def main(args: argparse.Namespace) -> None:
    """Draws the missing images, and the grid.

    Raises:
      OSError, ValueError, ImportError: the input is wrong, or a file cannot be read or written.
    """
    start(args.coordinator, args.num_processes, args.process_id)
    check_shared(args.out.parent, "--out")
    sampler, settings = open_sampler(args)
    output = process_0_first(lambda: open_output(args.out, settings, args.num, sampler.image_size))
    if not output.finished:
        draw(sampler, output, args.num)
        if distributed.is_main_process():
            output.finish()
    if not distributed.is_main_process():
        return
    rows = (f"{i}\t{sampler.labels[i]}\t{sampler.class_name(i)}\n" for i in range(args.num))
    files.write_text(output.classes_path, "image\tlabel\tclass\n" + "".join(rows))
    print(f"{args.out}: {args.num:,} images of {sampler.image_size} pixels; their classes: {output.classes_path}")
    if args.grid:
        images = output.read(min(GRID_IMAGES, args.num))
        captioned = image_grid.captioned(images, [sampler.class_name(i) for i in range(len(images))])
        image_grid.save_png(output.grid_path, image_grid.grid(captioned, GRID_COLUMNS))
        print(f"the first {len(images)}: {output.grid_path}")


def draw(sampler: ImageSampler, output: Output, num: int) -> None:
    """Draws this process's share of the missing images."""
    parts = [np.arange(start, min(start + PART, num)) for start in range(0, num, PART)]
    mine = parts[jax.process_index() :: jax.process_count()]
    missing = [part for part in map(output.missing, mine) if len(part)]
    total, left = sum(map(len, mine)), sum(map(len, missing))
    progress = Progress("Sampling", total, total - left)
    at_once = max(1, sampler.batch_size // PART)
    for first in range(0, len(missing), at_once):
        group = missing[first : first + at_once]
        images = sampler(np.concatenate(group))
        for part, drawn in zip(group, np.split(images, np.cumsum([len(part) for part in group])[:-1]), strict=True):
            output.write(part, drawn)
        left -= len(images)
        if distributed.is_main_process():
            progress(total - left)
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices("sampled")


def process_0_first(function: Callable):
    """Calls `function()` in process 0 first, then in the others, which find the files that it made."""
    if distributed.is_main_process():
        result = function()
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices("process 0 is done")
    return result if distributed.is_main_process() else function()


def open_sampler(args: argparse.Namespace) -> tuple[ImageSampler, dict]:
    """Returns the sampler, and everything that its images depend on as JSON values."""
    tokenizer = Tokenizer.from_pretrained(args.tokenizer)
    generator = open_generator(args.generator, args.tokenizer)
    labels = parse_classes(args.classes, args.num, generator.class_names, args.seed)
    options = sampling_options(args, discrete=generator.discrete)
    per_device = args.batch_size or LocalDevices().batch_size // jax.local_device_count()
    devices = LocalDevices(per_device * jax.local_device_count())
    sampler = ImageSampler(generator, tokenizer, labels, seed=args.seed, options=options, devices=devices)
    asked = {"classes": args.classes, "num": args.num, "seed": args.seed}
    return sampler, sampler.fingerprints | asked | options


def parse_classes(classes: str, num: int, names: Sequence[str], seed: int) -> np.ndarray:
    """Returns labels `[num]`, drawn at random or cycled through the listed classes.

    Args:
      classes: "uniform", "balanced", or numbers, ranges and names of classes, separated by commas.
      num: number of labels.
      names: of all classes, by label.
      seed: of random labels.

    Raises:
      ValueError: `classes` is something else.
    """
    if classes in LABELS:
        return draw_labels(classes, num, len(names), seed)
    listed: list[int] = []
    for item in classes.split(","):
        if match := re.fullmatch(r"(\d+)(?:-(\d+))?", item):
            listed += range(int(match[1]), int(match[2] or match[1]) + 1)
        elif item in names:
            listed.append(names.index(item))
        else:
            listed = []
            break
    if not listed:
        known = ", ".join(names[:3])
        raise ValueError(
            f"--classes={classes}: expected {', '.join(LABELS)}, numbers and ranges such as 1,5,10-12, or names of classes "
            f"({known}, ...)"
        )
    return np.resize(np.asarray(listed, np.int32), num)


if __name__ == "__main__":
    run_tool(main, parse_flags)
