"""The notebooks in `examples/` run, and each agrees with the `.py` file beside it."""

import pathlib

import jupytext
import nbformat
import pytest
from nbclient import NotebookClient

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


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_notebook_runs(name, tmp_path, monkeypatch, request):
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(request.config.cache.mkdir("jax")))
    monkeypatch.setenv("PYTHONPATH", str(EXAMPLES.parent))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    notebook = nbformat.read(EXAMPLES / f"{name}.ipynb", as_version=4)
    NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(tmp_path)}}).execute()
