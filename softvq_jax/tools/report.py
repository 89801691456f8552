"""Writes a run's `report.html`: one page with curves, images, evaluations and the config, readable without a network.

    python -m softvq_jax.tools.report --workdir=runs/tiny

Results of `tools.evaluate` are included if its --out is inside the workdir, such as runs/tiny/evaluation.
"""

import argparse
import pathlib
import sys
from collections.abc import Sequence

from absl import app
from absl.flags import argparse_flags

from softvq_jax.report.run_files import read_run
from softvq_jax.report.run_page import build
from softvq_jax.storage import files


def parse_flags(argv: Sequence[str]) -> argparse.Namespace:
    """Parses the command line."""
    parser = argparse_flags.ArgumentParser(
        prog="python -m softvq_jax.tools.report", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--workdir", required=True, type=pathlib.Path, help="workdir of the run")
    parser.add_argument("--out", type=pathlib.Path, help="file to write; default: report.html in the workdir")
    return parser.parse_args(argv[1:])


def main(args: argparse.Namespace) -> int:
    """Writes the page; returns the exit status, 1 if the workdir cannot be read."""
    out = args.out or args.workdir / "report.html"
    try:
        files.write_text(out, build(read_run(args.workdir)))
    except (OSError, ValueError) as error:
        print(f"report: {error}", file=sys.stderr)
        return 1
    print(f"{out}: {out.stat().st_size / 1e6:.1f} MB")
    return 0


if __name__ == "__main__":
    app.run(main, flags_parser=parse_flags)
