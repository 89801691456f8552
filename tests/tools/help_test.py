"""The `--help` of every command: readable lines, and examples whose flags the command takes."""

import ast
import importlib
import importlib.util
import pathlib
import shlex

import pytest

from softvq_jax.cli import COMMANDS

BY_ABSL = ("softvq_jax.main", "softvq_jax.tools.aot_compile")  # whose flags are absl's
MODULES = [module for module, _ in COMMANDS.values() if ".tools." in module]


def docstring(module) -> str:
    """The module's docstring, without an import: two modules with the same absl flag cannot both be imported."""
    return ast.get_docstring(ast.parse(pathlib.Path(importlib.util.find_spec(module).origin).read_text()), clean=False)


def examples(module) -> list[str]:
    """The commands in the module's docstring, each in one line."""
    text = docstring(module).replace("\\\n", " ")
    return [line.strip() for line in text.splitlines() if line.strip().startswith(("python -m", "softvq "))]


@pytest.mark.parametrize("module", MODULES)
def test_examples_are_complete(module):
    found = examples(module)
    assert any(line.split()[2] == module for line in found)
    for line in found:
        words = shlex.split(line)
        assert "..." not in line
        if words[2] not in BY_ABSL:
            # Ends the program for flags that do not exist or are missing.
            importlib.import_module(words[2]).parse_flags(words[2:])


@pytest.mark.parametrize("module", MODULES)
def test_help_is_the_docstring(module, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "110")
    assert max(map(len, docstring(module).splitlines())) <= 124
    if module in BY_ABSL:
        return
    with pytest.raises(SystemExit):
        importlib.import_module(module).parse_flags([module, "--help"])
    shown = capsys.readouterr().out
    assert docstring(module).strip() in shown  # laid out as written
