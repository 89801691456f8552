"""Exit codes of commands, and errors in one line."""

import subprocess
import sys

import pytest

TOOL = """
import builtins
from absl.flags import argparse_flags
from softvq_jax.tools.command_line import check_at_least_one, run_tool

def parse(argv):
    parser = argparse_flags.ArgumentParser(prog="tool")
    parser.add_argument("--raises", default="")
    parser.add_argument("--code", type=int)
    parser.add_argument("--count", type=int)
    args = parser.parse_args(argv[1:])
    check_at_least_one(parser, args, "count")
    return args

def main(args):
    if args.raises:
        raise getattr(builtins, args.raises)("the reason")
    return args.code

if __name__ == "__main__":
    run_tool(main, parse)
"""


@pytest.fixture
def run(tmp_path):
    (tmp_path / "my_tool.py").write_text(TOOL)

    def run(*flags: str, load_jax: bool = False) -> subprocess.CompletedProcess:
        code = "import jax, runpy; runpy.run_module('my_tool', run_name='__main__', alter_sys=True)"
        command = ["-c", code] if load_jax else ["-m", "my_tool"]
        environment = {"PYTHONPATH": f"{tmp_path}:."}
        return subprocess.run([sys.executable, *command, *flags], text=True, capture_output=True, env=environment)

    return run


@pytest.mark.parametrize(("error", "load_jax"), [
    ("ValueError", False), ("FileNotFoundError", False), ("ImportError", False), ("ValueError", True),
])  # fmt: skip
def test_user_errors_are_one_line(run, error, load_jax):
    result = run(f"--raises={error}", load_jax=load_jax)
    assert (result.returncode, result.stderr, result.stdout) == (1, "my_tool: error: the reason\n", "")


def test_other_errors_have_a_traceback(run):
    result = run("--raises=KeyError")
    assert result.returncode == 1 and "Traceback" in result.stderr


@pytest.mark.parametrize(("flags", "code"), [([], 0), (["--code=0"], 0), (["--code=1"], 1)])
def test_exit_code_is_that_of_main(run, flags, code):
    result = run(*flags)
    assert (result.returncode, result.stderr) == (code, "")


@pytest.mark.parametrize(("flag", "message"), [
    ("--count=0", "tool: error: --count=0: expected at least 1\n"),
    ("--kount=1", "tool: error: unrecognized arguments: --kount=1\n"),
])  # fmt: skip
def test_wrong_flags_end_with_2(run, flag, message):
    result = run(flag)
    assert result.returncode == 2 and result.stderr.endswith(message)
