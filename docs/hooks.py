"""Generates pages of the documentation site from the code when the site is built.

- `reference/config.md`: every config field, from the schemas in `softvq_jax.config`.
- `reference/commands.md`: the `--help` of every command.
- `examples/NAME.md`: the notebooks in `examples/`.
- `changelog.md` and `contributing.md`: the files in the root of the repository.
"""

import os
import pathlib
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import jupytext
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = pathlib.Path(__file__).parents[1]

CONFIG_HEAD = """# Config fields

Every field can be set on the command line: `--config.SECTION.FIELD=VALUE`. This page is generated from the configs;
`python -m softvq_jax.main --config=NAME --help_config` prints the fields and values of one config.

"""


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the pages that are generated from the code."""
    if str(ROOT) not in sys.path:
        sys.path.insert(0, str(ROOT))  # the pages describe this checkout, installed or not
    pages = {"reference/config.md": config_page(), "reference/commands.md": commands_page()}
    pages |= {f"{name.lower()}.md": root_page(f"{name}.md") for name in ("CHANGELOG", "CONTRIBUTING")}
    pages |= {f"examples/{path.stem}.md": notebook_page(path) for path in sorted((ROOT / "examples").glob("*.py"))}
    for name, content in pages.items():
        files.append(File.generated(config, name, content=content))
    return files


def config_page() -> str:
    """Returns the reference of every config field."""
    from softvq_jax.config.reference import markdown_reference

    return CONFIG_HEAD + markdown_reference()


def commands_page() -> str:
    """Returns a page with the `--help` of every command, each in a section."""
    from softvq_jax.cli import COMMANDS

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        helps = list(pool.map(help_of, (module for module, _ in COMMANDS.values())))
    lines = ["# Commands"]
    for (name, (module, description)), text in zip(COMMANDS.items(), helps, strict=True):
        lines += ["", f"## {name}", "", f"{description} `softvq {name}` is `python -m {module}`.", ""]
        lines += ["```text", text, "```"]
    return "\n".join(lines) + "\n"


def help_of(module: str) -> str:
    """Returns the output of `python -m MODULE --help`.

    Raises:
      RuntimeError: the command prints nothing, or an error.
    """
    result = subprocess.run(
        [sys.executable, "-m", module, "--help"],
        cwd=ROOT,
        env=os.environ | {"JAX_PLATFORMS": "cpu", "COLUMNS": "110"},
        capture_output=True,
        text=True,
    )
    text = result.stdout.strip()
    if not text or "Traceback" in result.stderr:
        raise RuntimeError(f"python -m {module} --help printed no help: {result.stderr.strip()}")
    return text.replace(f"{ROOT}/", "")  # absl prints the path of the module


def root_page(name: str) -> str:
    """Returns a Markdown file of the repository's root, with links that work inside `docs/`."""
    text = (ROOT / name).read_text().replace("](docs/", "](")
    return re.sub(r"\[([^\]]*)\]\((?!http|#|[\w-]+\.md)[^)]*\)", r"\1", text)  # other files are not on the site


def notebook_page(path: pathlib.Path) -> str:
    """Returns a notebook in jupytext's percent format as a Markdown page."""
    notebook = jupytext.read(path, fmt="py:percent")
    notebook.metadata = {}
    blocks = [
        cell.source if cell.cell_type == "markdown" else f"```python\n{cell.source}\n```"
        for cell in notebook.cells
        if cell.source
    ]
    title, *rest = blocks
    note = f"*This page is the notebook `examples/{path.stem}.ipynb`, without its output.*"
    return "\n\n".join([title, note, *rest]) + "\n"
