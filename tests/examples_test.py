"""The notebooks in `examples/` run, with fewer training steps, and each agrees with the `.py` file beside it."""

import os
import pathlib
import re

import jupytext
import nbformat
import pytest
from jupyter_client import KernelManager
from nbclient import NotebookClient

from tests.programs import QUICK_COMPILATION

EXAMPLES = pathlib.Path(__file__).parents[1] / "examples"
NAMES = sorted(path.stem for path in EXAMPLES.glob("*.py"))


def cells(notebook) -> list[tuple[str, str]]:
    """The type and source of each cell."""
    return [(cell.cell_type, cell.source) for cell in notebook.cells]


def test_every_notebook_has_both_files():
    assert sorted(path.stem for path in EXAMPLES.glob("*.ipynb")) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_notebook_and_script_agree(name):
    script = jupytext.read(EXAMPLES / f"{name}.py", fmt="py:percent")
    assert cells(nbformat.read(EXAMPLES / f"{name}.ipynb", as_version=4)) == cells(script)


STEPS = re.compile(r"((?:num_|every_)steps ?= ?|^steps = |range\()(\d{2,3})(?=[,)\n]|$)", re.MULTILINE)


def shortened(source: str) -> str:
    """A cell whose trainings take a tenth of their steps; samplers keep theirs."""
    return STEPS.sub(lambda match: match[1] + str(int(match[2]) // 10), source)


@pytest.fixture(scope="module")
def kernel(tmp_path_factory):
    """One kernel for all notebooks, so that JAX is imported once."""
    folder = tmp_path_factory.mktemp("notebooks")
    env = os.environ | QUICK_COMPILATION | {"JAX_PLATFORMS": "cpu", "TMPDIR": str(folder)}
    env |= {"PYTHONPATH": str(EXAMPLES.parent)}
    manager = KernelManager(kernel_name="python3")
    manager.start_kernel(env=env, cwd=str(folder))
    yield manager
    manager.shutdown_kernel(now=True)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_notebook_runs(name, kernel):
    notebook = nbformat.read(EXAMPLES / f"{name}.ipynb", as_version=4)
    sources = [cell.source for cell in notebook.cells]
    for cell in notebook.cells:
        cell.source = shortened(cell.source)
    assert [cell.source for cell in notebook.cells] != sources  # each trains
    notebook.cells.insert(0, nbformat.v4.new_code_cell("%reset -f"))  # forgets the variables of the notebook before
    NotebookClient(notebook, timeout=600, km=kernel).execute()
