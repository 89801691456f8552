"""Reconstructs images with a tokenizer, and measures PSNR and SSIM.

    python -m softvq_jax.tools.reconstruct cat.png 'holidays/*.jpg'
    python -m softvq_jax.tools.reconstruct --from=SoftVQVAE/softvq-l-64 --images=photographs --out=results

Without --from, the tokenizer is softvq-mini, which the package contains: 128 px, trained on few photographs.
Images may have any size: the smaller side is resized to the tokenizer's image size, and the center is cropped, as in ADM.
Writes to the folder --out: `originals` (the crops) and `reconstructions` as PNG files with the same names, `pairs.png`
with the first of both, and `results.json`. `tools.evaluate` takes the two folders as --reference and --samples.
"""

import argparse
import itertools
import math
import os
import pathlib
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
from absl.flags import argparse_flags

from softvq_jax.data import samples
from softvq_jax.data.decoding import DEFAULT, Decoding
from softvq_jax.data.folder import ImageFile, list_images
from softvq_jax.data.source import UnreadableImage
from softvq_jax.evaluate.devices import LocalDevices
from softvq_jax.evaluate.reconstructor import Reconstructor
from softvq_jax.metrics import image_quality
from softvq_jax.parallel.start import start
from softvq_jax.progress import Progress
from softvq_jax.report import image_grid
from softvq_jax.storage.paths import as_path, expand_arguments
from softvq_jax.tokenizer import Tokenizer
from softvq_jax.tools.command_line import add_reading, check_at_least_one, reading, run_tool
from softvq_jax.weights import files
from softvq_jax.weights.shipped import DEFAULT_TOKENIZER

MAX_STEM = 200  # bytes; names of files may have 255
NUM_PICTURES = 8  # images in pairs.png
MAX_LISTED = 8  # images with a line of their own in the output
METRICS = {"psnr": image_quality.psnr, "ssim_gauss": image_quality.ssim}


def parse_flags(argv: Sequence[str]) -> argparse.Namespace:
    """Parses the command line."""
    parser = argparse_flags.ArgumentParser(
        prog="python -m softvq_jax.tools.reconstruct",
        description=__doc__,
        formatter_class=argparse.RawTextHelpFormatter,
    )
    add = parser.add_argument
    add("images", nargs="*", metavar="IMAGE", help="a folder (all images below), a file or a pattern")
    add(
        "--from",
        dest="weights",
        default=DEFAULT_TOKENIZER,
        help="the tokenizer: a folder, a run's workdir, a Hugging Face id or a model in the package (default: %(default)s)",
    )
    add("--images", dest="more_images", nargs="+", action="extend", default=[], help="the same as IMAGE")
    add(
        "--out",
        type=as_path,
        help="folder for the results, new or empty (default: reconstructed, reconstructed_2, ...)",
    )
    add("--batch_size", type=int, help="images at a time (default: chosen by device)")
    add_reading(parser, classes=False)
    args = parser.parse_args(expand_arguments(argv[1:]))
    check_at_least_one(parser, args, "batch_size")
    args.images += args.more_images
    if not args.images:
        parser.error("no images were given: name files, folders or patterns")
    args.out = args.out or free_folder("reconstructed")
    return args


def main(args: argparse.Namespace) -> None:
    """Runs the command.

    Raises:
      OSError, ValueError, ImportError: the input is wrong, or a file cannot be read or written.
    """
    start(connect=False)
    run(args)


def run(args: argparse.Namespace) -> dict:
    """Reconstructs, measures, writes and prints; returns the content of `results.json`."""
    paths = find_images(args.images)
    check_new(args.out)
    tokenizer = Tokenizer.from_pretrained(args.weights)
    decoding = Decoding.from_config(reading(args))
    devices, size = LocalDevices(args.batch_size), tokenizer.config.image_size
    reconstruct = Reconstructor(tokenizer.config, tokenizer.params, devices=devices)
    results, progress = Results(args.out), Progress("reconstructing", len(paths))
    for begin in range(0, len(paths), devices.batch_size):
        originals, unreadable = read(paths[begin : begin + devices.batch_size], size, decoding)
        results.unreadable += unreadable
        if originals:
            results.add(originals, lambda images: reconstruct(images)[0])
        progress(min(begin + devices.batch_size, len(paths)))
    if not results.rows:
        raise ValueError(f"none of the {len(paths):,} images is readable; the first: {results.unreadable[0]}")
    crop = ", ".join(filter(None, (f"ADM center crop to {size}", decoding.describe())))
    report = results.write({"tokenizer": args.weights, "weights": reconstruct.fingerprint, "crop": crop})
    print(as_text(report, args.out / "results.json"))
    return report


class Results:
    """The results so far; the images are in a folder.

    Attributes:
      rows: path, file name and metrics of each image.
      unreadable: the skipped images, with reasons.
    """

    def __init__(self, folder: pathlib.Path):
        self.rows, self.unreadable = [], []
        self._folder, self._pairs = folder, []

    def add(self, originals: Mapping[str, np.ndarray], reconstruct: Callable[[np.ndarray], np.ndarray]) -> None:
        """Reconstructs and measures `originals`, uint8 `[S, S, 3]` by path."""
        names = [f"{i:05d}_{_stem(path)}.png" for i, path in enumerate(originals, len(self.rows))]
        images = np.stack([*originals.values()])
        self._save("originals", names, images)  # first, so that a full disk fails before compilation
        reconstructions = reconstruct(images)
        self._save("reconstructions", names, reconstructions)
        values = zip(*(metric(images, reconstructions) for metric in METRICS.values()), strict=True)
        for path, name, row in zip(originals, names, values, strict=True):
            self.rows.append({"image": path, "name": name} | dict(zip(METRICS, map(float, row), strict=True)))
        self._pairs = [*self._pairs, *zip(images, reconstructions, strict=True)][:NUM_PICTURES]

    def _save(self, subfolder, names, images):
        folder = self._folder / subfolder
        folder.mkdir(parents=True, exist_ok=True)
        for name, image in zip(names, images, strict=True):
            image_grid.save_png(folder / name, image)

    def write(self, metadata: Mapping) -> dict:
        """Writes `pairs.png` and `results.json`; returns the content of the latter."""
        first = [np.stack(images) for images in zip(*self._pairs, strict=True)]
        image_grid.save_png(self._folder / "pairs.png", image_grid.pairs_grid(*first))
        mean = {name: float(np.mean([row[name] for row in self.rows])) for name in METRICS}
        report = dict(metadata) | {"mean": mean, "images": self.rows, "unreadable": self.unreadable}
        in_json = {"mean": _finite(mean), "images": [_finite(row) for row in self.rows]}
        files.write_json(self._folder / "results.json", report | in_json)
        return report


def _stem(path):
    """The name of an image without its ending, short enough for a longer name and of printable characters."""
    stem = os.fsencode(pathlib.Path(path).stem).decode(errors="replace")
    return stem.encode()[:MAX_STEM].decode(errors="ignore")


def _finite(row):
    # The PSNR of an image that equals its original is infinite, which JSON cannot represent.
    return {name: None if value == math.inf else value for name, value in row.items()}


def find_images(names: Sequence[str]) -> list[str]:
    """The images that the names stand for, each once, in the order of the names; see `data.folder.list_images`."""
    return list(dict.fromkeys(path for name in names for path in list_images(name)))


def free_folder(name: str) -> pathlib.Path:
    """Returns the first of NAME, NAME_2, NAME_3, ... that does not exist."""
    names = itertools.chain([name], (f"{name}_{number}" for number in itertools.count(2)))
    return next(path for path in map(pathlib.Path, names) if not path.exists())


def check_new(folder: pathlib.Path) -> None:
    """Raises FileExistsError if the folder is not empty, because the results of two runs would mix."""
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise FileExistsError(f"--out={folder} exists and is not an empty folder: choose another, or remove it")


def read(paths: Sequence[str], size: int, decoding: Decoding = DEFAULT) -> tuple[dict[str, np.ndarray], list[str]]:
    """Returns crops of the readable images, uint8 `[size, size, 3]` by path, and a message for each unreadable one."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        images = dict(zip(paths, pool.map(partial(_crop, size=size, decoding=decoding), paths), strict=True))
    readable = {path: image for path, image in images.items() if isinstance(image, np.ndarray)}
    return readable, [str(images[path]) for path in paths if path not in readable]


def _crop(path, size, decoding):
    [result] = samples.evaluation(size, decoding)([ImageFile(path, 0)], [0])
    return result if isinstance(result, UnreadableImage) else result[0]


def as_text(report: Mapping, path: pathlib.Path) -> str:
    """Returns text with the mean and the skipped images, and a line for each of at most `MAX_LISTED` images.

    Args:
      report: content of `results.json`.
      path: of that file.
    """
    images = report["images"]
    listed = images if len(images) <= MAX_LISTED else []
    rows = [*listed, {"name": f"mean of {len(images):,}"} | report["mean"]]
    width = max(len(row["name"]) for row in rows)
    lines = [f"{row['name']:{width}}  PSNR {row['psnr']:.2f} dB  SSIM {row['ssim_gauss']:.4f}" for row in rows]
    skipped = [f"unreadable, skipped: {reason}" for reason in report["unreadable"]]
    skipped = [line.encode(errors="replace").decode() for line in skipped]  # names of files may be no text
    if not listed:
        lines.append(f"each image: {path}")
    return "\n".join([*lines, *skipped, f"({report['crop']}; SSIM over Gaussian windows of 11 x 11)"])


if __name__ == "__main__":
    run_tool(main, parse_flags)
