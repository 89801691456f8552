"""Writes a DINOv2 with random weights, an untrained teacher for control runs of the alignment loss.

    python -m softvq_jax.tools.random_teacher --size=S --seed=0 --out=random_teacher.safetensors
    python -m softvq_jax.main --config=configs/studies/alignment.py --workdir=runs/alignment_control \\
        --config.base.weights.teacher=random_teacher.safetensors

The file has the names and shapes of the published DINOv2 of that size (patches of 14 px, positions for 518 px) and can
be used in its place. The same seed gives the same file.
"""

import argparse
from collections.abc import Sequence

import jax
import numpy as np
from absl.flags import argparse_flags

from softvq_jax.config.tokenizer import VIT_SIZES
from softvq_jax.models.functional import functional
from softvq_jax.models.vit import ViT, ViTConfig
from softvq_jax.parallel.start import start
from softvq_jax.storage.paths import as_path, expand_arguments
from softvq_jax.tools.command_line import run_tool
from softvq_jax.weights import files, layout
from softvq_jax.weights.vit import vit_rules

PATCH_SIZE, IMAGE_SIZE = 14, 518


def parse_flags(argv: Sequence[str]) -> argparse.Namespace:
    """Parses the command line."""
    parser = argparse_flags.ArgumentParser(
        prog="python -m softvq_jax.tools.random_teacher",
        description=__doc__,
        formatter_class=argparse.RawTextHelpFormatter,
    )
    parser.add_argument("--size", choices=VIT_SIZES, default="S", help="size of the DINOv2 (default: S)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the weights (default: 0)")
    parser.add_argument("--out", required=True, type=as_path, help="file to write, ending in .safetensors")
    return parser.parse_args(expand_arguments(argv[1:]))


def random_teacher(size: str, seed: int) -> dict[str, np.ndarray]:
    """Returns randomly initialized tensors of a DINOv2 "S", "B" or "L", in the naming of the original and timm."""
    width, depth, num_heads = VIT_SIZES[size]
    config = ViTConfig(width, depth, num_heads, patch_size=PATCH_SIZE)
    params, _ = functional(ViT, config, IMAGE_SIZE).init(jax.random.key(seed))
    return layout.write(vit_rules(config), params)


def main(args: argparse.Namespace) -> None:
    """Writes the file; raises ValueError or OSError if that fails."""
    if args.out.suffix != ".safetensors":
        raise ValueError(f"--out={args.out}: expected a name ending in .safetensors")
    start(connect=False)
    files.write_safetensors(args.out, random_teacher(args.size, args.seed))
    print(f"{args.out}: a DINOv2-{args.size} with random weights, seed {args.seed}")


if __name__ == "__main__":
    run_tool(main, parse_flags)
