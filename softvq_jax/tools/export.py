"""Exports a checkpoint of a run, also of one that is not finished, in the published layout.

    python -m softvq_jax.tools.export --from=runs/tiny --step=800 --out=tiny-800

Without --step, the newest checkpoint. What is exported is the moving average of the parameters, as at the end of a run;
--raw exports the parameters of the step itself. --dtype=float16 or bfloat16 halves the size of the weight file. The folder
opens with Tokenizer.from_pretrained or Generator.from_pretrained, which computes in float32 whatever the stored type.
"""

import argparse
from collections.abc import Sequence

from absl.flags import argparse_flags

from softvq_jax.storage.paths import as_path, expand_arguments
from softvq_jax.tools.command_line import run_tool
from softvq_jax.weights.published_files import DTYPES


def parse_flags(argv: Sequence[str]) -> argparse.Namespace:
    """Parses the command line."""
    parser = argparse_flags.ArgumentParser(
        prog="python -m softvq_jax.tools.export", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    add = parser.add_argument
    add("--from", dest="source", required=True, help="workdir of the run, or WORKDIR/checkpoints/STEP")
    add("--step", type=int, help="step of the checkpoint; default: the newest")
    add("--raw", action="store_true", help="export the parameters of the step, not their moving average")
    add("--dtype", choices=DTYPES, default="float32", help="type of the stored tensors (default: float32)")
    add("--out", required=True, type=as_path, help="folder to write; must be new or empty")
    return parser.parse_args(expand_arguments(argv[1:]))


def main(args: argparse.Namespace) -> None:
    """Writes the folder.

    Raises:
      OSError, ValueError: there is no such checkpoint, it is damaged, the stored type cannot hold its values, or the folder
        cannot be written.
    """
    from softvq_jax.generator import Generator
    from softvq_jax.tokenizer import Tokenizer
    from softvq_jax.weights import checkpoints

    if args.out.exists() and (not args.out.is_dir() or any(args.out.iterdir())):
        raise ValueError(f"--out must be a new or empty folder; got {args.out}")
    found = checkpoints.find_checkpoint(args.source, args.step)
    if found is None:
        raise FileNotFoundError(f"--from must be the workdir of a run with checkpoints; got {args.source}")
    record = checkpoints.read_record(found)
    kind = {"tokenizer": Tokenizer, "generator": Generator}[record["config"]["task"]]
    kind.from_checkpoint(found, raw=args.raw).save_pretrained(args.out, dtype=args.dtype)
    averaged = "parameters" if args.raw else "averaged parameters"
    print(f"{args.out}: the {record['config']['task']} of step {record['step']}, {averaged}")


if __name__ == "__main__":
    run_tool(main, parse_flags)
