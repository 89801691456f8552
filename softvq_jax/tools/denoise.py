"""Draws how a generator turns noise into images: a strip of the steps, or an animation.

    python -m softvq_jax.tools.denoise --from=runs/tiny_sit --tokenizer=runs/tiny --out=denoising.png
    python -m softvq_jax.tools.denoise --from=runs/tiny_sit --tokenizer=runs/tiny --classes=0-7 --out=denoising.gif

A strip (.png) has a row for each sample, with its class, and a column for each of --frames steps, evenly spaced. An
animation (.gif) shows all samples at once, with their classes, and stays at the end for two seconds. The latents of each
step are decoded as they are, noise included. Sample i is that of tools.sample with the same settings.
"""

import argparse
import pathlib
from collections.abc import Sequence

import numpy as np
from absl.flags import argparse_flags

from softvq_jax.report import image_grid
from softvq_jax.storage import files
from softvq_jax.storage.paths import as_path, expand_arguments
from softvq_jax.tools.command_line import add_sampling, check_at_least_one, run_tool, sampling_options
from softvq_jax.tools.sample import parse_classes

COLUMNS = 8  # samples in a row of an animation
MILLISECONDS = (120, 2000)  # duration of a frame, and of the last frame


def parse_flags(argv: Sequence[str]) -> argparse.Namespace:
    """Parses the command line."""
    parser = argparse_flags.ArgumentParser(
        prog="python -m softvq_jax.tools.denoise", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    add = parser.add_argument
    add("--from", dest="generator", required=True, help="the generator: a folder, a run's workdir or a Hub id")
    add("--tokenizer", required=True, help="the tokenizer of its training latents: a folder, a workdir or a Hub id")
    add("--out", required=True, type=as_path, help="file to write, ending in .png (strip) or .gif (animation)")
    add("--classes", default="uniform", help="as in tools.sample: uniform, balanced, names, numbers and ranges")
    add("--num", type=int, default=8, help="number of samples (default: 8)")
    add("--frames", type=int, help="steps that are shown (default: 8 in a strip, 25 in an animation)")
    add("--seed", type=int, default=0, help="seed of classes and noise (default: 0)")
    add_sampling(parser)
    args = parser.parse_args(expand_arguments(argv[1:]))
    check_at_least_one(parser, args, "num", "frames")
    if args.out.suffix not in (".png", ".gif"):
        parser.error(f"--out={args.out}: expected a file ending in .png or .gif")
    return args


def main(args: argparse.Namespace) -> None:
    """Writes the picture.

    Raises:
      OSError, ValueError: the models cannot be opened or do not fit together, a setting is wrong, or the file cannot be
        written.
    """
    import jax

    from softvq_jax.evaluate.image_sampler import open_generator
    from softvq_jax.parallel.start import start
    from softvq_jax.pixels import to_uint8
    from softvq_jax.tokenizer import Tokenizer
    from softvq_jax.weights import fingerprints

    start(connect=False)
    tokenizer = Tokenizer.from_pretrained(args.tokenizer)
    generator = open_generator(args.generator, args.tokenizer)
    generator.check_fits(tokenizer.config, fingerprints.of_weights(tokenizer.params))
    labels = parse_classes(args.classes, args.num, generator.class_names, args.seed)
    options = sampling_options(args, discrete=generator.discrete)
    latents = generator.denoise(labels.tolist(), key=jax.random.key(args.seed), **options)
    shown = frames(len(latents), args.frames or (8 if args.out.suffix == ".png" else 25))
    images = np.stack([to_uint8(np.asarray(tokenizer.decode(latents[step]))) for step in shown])
    names = [generator.class_names[label] for label in labels]
    if args.out.suffix == ".png":
        image_grid.save_png(args.out, strip(images, names, [f"step {step + 1} of {len(latents)}" for step in shown]))
    else:
        save_gif(args.out, images, names)
    print(f"{args.out}: {len(labels)} samples, {len(shown)} of {len(latents)} steps")


def frames(steps: int, count: int) -> np.ndarray:
    """Returns at most `count` of the steps, evenly spaced, with the first and the last; only the last for `count=1`."""
    if count == 1:
        return np.array([steps - 1])
    return np.unique(np.linspace(0, steps - 1, min(count, steps)).round().astype(int))


def strip(images: np.ndarray, names: Sequence[str], steps: Sequence[str]) -> np.ndarray:
    """Arranges images `[T, n, H, W, 3]` uint8 in a row for each sample.

    The captions are the names of the steps; that of the last image is the name of the class.
    """
    captions = [[*steps[:-1], name] for name in names]
    rows = np.swapaxes(images, 0, 1)
    tiles = image_grid.captioned(rows.reshape(-1, *rows.shape[2:]), [text for row in captions for text in row])
    return image_grid.grid(tiles, len(images))


def save_gif(path: pathlib.Path, images: np.ndarray, names: Sequence[str]) -> None:
    """Writes images `[T, n, H, W, 3]` uint8 as an animation of `T` frames, each a grid with captions."""
    from PIL import Image

    columns = min(COLUMNS, images.shape[1])
    drawn = [Image.fromarray(image_grid.grid(image_grid.captioned(each, names), columns)) for each in images]
    durations = [*[MILLISECONDS[0]] * (len(drawn) - 1), MILLISECONDS[1]]
    with files.replacing(path) as partial:
        drawn[0].save(partial, "gif", save_all=True, append_images=drawn[1:], duration=durations, loop=0)


if __name__ == "__main__":
    run_tool(main, parse_flags)
