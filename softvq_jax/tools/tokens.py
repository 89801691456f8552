"""Draws pictures of what the latent tokens of a tokenizer do, for a few images.

    python -m softvq_jax.tools.tokens effect --from=runs/tiny --images photographs --out=tokens
    python -m softvq_jax.tools.tokens effect --replace=swap --from=runs/tiny --images cat.png dog.png --out=tokens
    python -m softvq_jax.tools.tokens attention --from=runs/tiny --images photographs --out=tokens
    python -m softvq_jax.tools.tokens codes --from=runs/tiny --images photographs --out=tokens

effect     replaces one token at a time, and shows what changes in the reconstruction
attention  shows which patches each token attends to in the encoder, and which patches attend to it in the decoder
codes      shows reconstructions from the nearest codes of each token alone

Writes a PNG file for each image (for codes, one for all) and the numbers, as JSON or NumPy arrays, to the folder --out.
"""

import argparse
import pathlib
from collections.abc import Sequence

import numpy as np
from absl.flags import argparse_flags

from softvq_jax.data.decoding import Decoding
from softvq_jax.evaluate import tokens
from softvq_jax.parallel.start import start
from softvq_jax.report import image_grid, token_pictures
from softvq_jax.storage import files
from softvq_jax.storage.paths import as_path, expand_arguments
from softvq_jax.tokenizer import Tokenizer
from softvq_jax.tools.command_line import add_reading, check_at_least_one, reading, run_tool
from softvq_jax.tools.reconstruct import find_images, read


def parse_flags(argv: Sequence[str]) -> argparse.Namespace:
    """Parses the command line."""
    parser = argparse_flags.ArgumentParser(
        prog="python -m softvq_jax.tools.tokens", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    add = parser.add_argument
    add("picture", choices=PICTURES, help="what to show, see above")
    add("--from", dest="weights", required=True, help="the tokenizer: a folder, a run's workdir or a Hugging Face id")
    add("--images", required=True, nargs="+", action="extend", help="folders (all images below), files and patterns")
    add("--out", required=True, type=as_path, help="folder for the pictures")
    add("--num", type=int, default=4, help="number of images, the first ones (default: 4)")
    add(
        "--replace",
        choices=tokens.REPLACEMENTS,
        default="zero",
        help="effect: zeros, the mean of the images, or the next image's token (default: zero)",
    )
    add("--layer", type=int, help="attention: the block, from 0 (default: the mean over all blocks)")
    add("--codes", type=int, default=8, help="codes: number of nearest codes in codes.json (default: 8)")
    add_reading(parser, classes=False)
    args = parser.parse_args(expand_arguments(argv[1:]))
    check_at_least_one(parser, args, "num", "codes")
    return args


def main(args: argparse.Namespace) -> None:
    """Writes the pictures and numbers.

    Raises:
      OSError, ValueError: images or weights cannot be read, the picture is not possible for this tokenizer, or a file
        cannot be written.
    """
    start(connect=False)
    paths = find_images(args.images)[: args.num]
    tokenizer = Tokenizer.from_pretrained(args.weights)
    images, unreadable = read(paths, tokenizer.config.image_size, Decoding.from_config(reading(args)))
    for reason in unreadable:
        print(f"unreadable, skipped: {reason}")
    if not images:
        raise ValueError(f"none of the {len(paths)} images is readable")
    files.make_folder(args.out)
    for written in PICTURES[args.picture](args, tokenizer, list(images), np.stack([*images.values()])):
        print(args.out / written)


def draw_effect(args: argparse.Namespace, tokenizer: Tokenizer, paths: list[str], images: np.ndarray) -> list[str]:
    """Writes `effect_REPLACE_NN.png` for each image, and `effect_REPLACE.json`."""
    found = tokens.effects(tokenizer, images, args.replace)
    maps, written = found.maps, []
    for i, image in enumerate(images):
        if args.replace == "swap":
            other = found.reconstructions[(i + 1) % len(images)]
            picture = token_pictures.swapped(image, found.reconstructions[i], other, found.changed[i])
        else:
            picture = token_pictures.effect_maps(image, found.reconstructions[i], maps[i])
        written.append(_save(args.out, f"effect_{args.replace}_{i:02d}.png", picture))
    means = maps.mean(axis=(2, 3))
    content = {
        "replaced by": args.replace,
        "unit": "8-bit levels, mean over pixels and colors",
        "mean change by token": means.mean(axis=0).round(3).tolist(),
        "images": [
            {"image": path, "change by token": row.round(3).tolist()} for path, row in zip(paths, means, strict=True)
        ],
    }
    files.write_json(args.out / f"effect_{args.replace}.json", content)
    return [*written, f"effect_{args.replace}.json"]


def draw_attention(args: argparse.Namespace, tokenizer: Tokenizer, paths: list[str], images: np.ndarray) -> list[str]:
    """Writes `attention_NN.png` for each image, and both maps of all images to `attention.npz`."""
    encoder, decoder = tokens.attention(tokenizer, images, args.layer)
    written = [
        _save(args.out, f"attention_{i:02d}.png", token_pictures.attention_maps(image, encoder[i], decoder[i]))
        for i, image in enumerate(images)
    ]
    with files.replacing(args.out / "attention.npz") as partial, open(partial, "wb") as file:
        np.savez(file, encoder=encoder, decoder=decoder, images=np.asarray(paths))
    return [*written, "attention.npz"]


def draw_codes(args: argparse.Namespace, tokenizer: Tokenizer, paths: list[str], images: np.ndarray) -> list[str]:
    """Writes `codes.png`, and the nearest codes of every token to `codes.json`."""
    found = tokens.nearest_codes(tokenizer, images, args.codes)
    picture = _save(args.out, "codes.png", token_pictures.code_rows(images, found.reconstructions))
    value = "probability" if found.are_probabilities else "squared distance"
    content = {
        "order": "nearest first",
        "images": [
            {"image": path, "codes of each token": indices.tolist(), f"{value} of each code": values.round(6).tolist()}
            for path, indices, values in zip(paths, found.indices, found.values, strict=True)
        ],
    }
    files.write_json(args.out / "codes.json", content, indent=None)
    return [picture, "codes.json"]


def _save(folder: pathlib.Path, name: str, picture: np.ndarray) -> str:
    image_grid.save_png(folder / name, picture)
    return name


PICTURES = {"effect": draw_effect, "attention": draw_attention, "codes": draw_codes}


if __name__ == "__main__":
    run_tool(main, parse_flags)
