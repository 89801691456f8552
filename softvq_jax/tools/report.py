"""Writes a run's `report.html`: one page with curves, images, evaluations and the config, readable without a network.

    python -m softvq_jax.tools.report --workdir=runs/tiny

Results of `tools.evaluate` are included if its --out is inside the workdir, such as runs/tiny/evaluation.
"""

import argparse
from collections.abc import Sequence

from absl.flags import argparse_flags

from softvq_jax.report.run_files import read_run
from softvq_jax.report.run_page import build
from softvq_jax.storage import files
from softvq_jax.storage.paths import as_path, expand_arguments
from softvq_jax.tools.command_line import run_tool


def parse_flags(argv: Sequence[str]) -> argparse.Namespace:
    """Parses the command line."""
    parser = argparse_flags.ArgumentParser(
        prog="python -m softvq_jax.tools.report", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--workdir", required=True, type=as_path, help="workdir of the run")
    parser.add_argument("--out", type=as_path, help="file to write; default: report.html in the workdir")
    return parser.parse_args(expand_arguments(argv[1:]))


def main(args: argparse.Namespace) -> None:
    """Writes the page.

    Raises:
      OSError, ValueError: the workdir cannot be read, or the page cannot be written.
    """
    out = args.out or args.workdir / "report.html"
    files.write_text(out, build(read_run(args.workdir)))
    print(f"{out}: {out.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    run_tool(main, parse_flags)
