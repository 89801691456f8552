"""Runs a tool's command line in this process of several: `python -m tests.programs.run_tool sample --from=...`."""

import importlib
import sys

from softvq_jax.tools.command_line import exit_code
from tests.programs import join

if __name__ == "__main__":
    join()
    tool = importlib.import_module(f"softvq_jax.tools.{sys.argv[1]}")
    sys.exit(exit_code(tool.main, tool.parse_flags(sys.argv[1:])))
