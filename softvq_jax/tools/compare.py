"""Compares runs or evaluations on one HTML page: config differences, curves, tables, and the same images.

    python -m softvq_jax.tools.compare runs/tiny runs/tiny_vq --out=comparison.html
    python -m softvq_jax.tools.compare results/b64 results/l64

Each folder is the workdir of a run, whose evaluations are included, or the --out of an evaluation. The page is one file
and needs no network. Numbers of evaluations that measured other images, or with other settings, are marked as not
comparable.
"""

import argparse
from collections.abc import Sequence

from absl.flags import argparse_flags

from softvq_jax.report import comparison
from softvq_jax.report.run_files import read_run
from softvq_jax.storage import files
from softvq_jax.storage.paths import as_path, expand_arguments
from softvq_jax.tools.command_line import run_tool


def parse_flags(argv: Sequence[str]) -> argparse.Namespace:
    """Parses the command line."""
    parser = argparse_flags.ArgumentParser(
        prog="python -m softvq_jax.tools.compare", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument(
        "folders",
        nargs="+",
        type=as_path,
        metavar="FOLDER",
        help=f"workdir of a run, or --out of an evaluation; 2 to {comparison.MAX_RUNS}",
    )
    parser.add_argument(
        "--out",
        type=as_path,
        default=as_path("comparison.html"),
        help="file to write (default: comparison.html)",
    )
    return parser.parse_args(expand_arguments(argv[1:]))


def main(args: argparse.Namespace) -> None:
    """Writes the page.

    Raises:
      OSError, ValueError: a folder cannot be read, two are the same, or the page cannot be written.
    """
    found = [read_run(folder, "FOLDER") for folder in args.folders]
    runs = list(zip(comparison.labels(args.folders), found, strict=True))
    files.write_text(args.out, comparison.build(runs))
    differing, _, _ = comparison.config_differences(runs)
    if differing.rows:
        print(f"{len(differing.rows)} config fields differ: {', '.join(row[0] for row in differing.rows[:8])}")
    print(f"{args.out}: {args.out.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    run_tool(main, parse_flags)
