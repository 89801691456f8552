"""README and documentation name only what exists: files, commands, flags, configs, fields, imports."""

import ast
import functools
import importlib
import importlib.util
import inspect
import os
import pathlib
import re
import shlex
import subprocess

import pytest

import softvq_jax
from softvq_jax.cli import COMMANDS
from softvq_jax.config.arguments import check_field
from softvq_jax.config.names import find_config, load_config

ROOT = pathlib.Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")), *sorted((ROOT / "examples").glob("*.py"))]
FILE = re.compile(r"(?<![\w./=-])(?:configs|launch|benchmarks|tests|softvq_jax|examples|docs)/[\w./-]*\w")
PLACEHOLDERS = ("...", "NAME")
KINDS = (
    "l64",
    "maetok_b128",
    "sit:xl_l64",
    "dit:xl_l64",
    "mar:h_l64",
    "studies/bottlenecks",
)  # one config of each kind


def name_of(path: pathlib.Path) -> str:
    """The page's path from the repository's root."""
    return str(path.relative_to(ROOT))


def blocks(path: pathlib.Path, language: str) -> list[str]:
    """The fenced code blocks of a page in a language."""
    return re.findall(rf"^ *```{language}\n(.*?)^ *```$", path.read_text(), re.MULTILINE | re.DOTALL)


def commands(path: pathlib.Path) -> list[list[str]]:
    """The command lines of a page's shell blocks, as words."""
    text = "".join(block for language in ("bash", "sh") for block in blocks(path, language))
    found, line = [], ""
    for part in text.replace("\\\n", " ").splitlines():
        line += part
        try:
            found.append(shlex.split(line, comments=True))
        except ValueError:  # a quoted word of several lines
            line += "\n"
        else:
            line = ""
    assert not line, f"{path}: {line}"
    return [words for words in found if words]


def every_command() -> list[tuple[str, list[str]]]:
    """All command lines of all pages, each with the page's name."""
    return [(name_of(path), words) for path in PAGES for words in commands(path) if words]


def module_of(words: list[str]) -> str | None:
    """The module of this package that a command line runs; None for other programs."""
    if words[:2] == ["python", "-m"]:
        return words[2] if words[2].startswith("softvq_jax") else None
    if words[0] == "softvq":
        return COMMANDS[words[1]][0]
    return "softvq_jax.main" if words[0].startswith("launch/") else None


def declared_flags(module: str) -> set[str]:
    """The flags that a module's source, and the files that tools share, declare."""
    spec = importlib.util.find_spec(module)
    shared = (ROOT / "softvq_jax/tools/command_line.py", ROOT / "softvq_jax/config/flags.py")
    source = "".join(pathlib.Path(path).read_text() for path in (spec.origin, *shared))
    return set(re.findall(r'"--(\w+)"', source)) | set(re.findall(r'DEFINE_\w+\(\s*"(\w+)"', source))


def config_names(text: str) -> list[str]:
    """The configs that a text names by `--config=NAME` or `configs/FILE.py:ARGUMENT`, without placeholders."""
    names = re.findall(r"--config[= ]([\w./:-]+)", text) + re.findall(r"configs/\w+\.py:\w+", text)
    return [name for name in names if not any(word in name for word in PLACEHOLDERS)]


def fields(text: str) -> set[str]:
    """The config fields that a text names, as `--config.FIELD` or `config.FIELD` in backticks."""
    found = re.findall(r"--config\.([\w.]*\w)", text) + re.findall(r"`config\.([\w.]*\w)`", text)
    return {field for field in found if not field.isupper() and field != "json"} - {"SECTION.FIELD", "section.field"}


@functools.cache
def exists_in_a_config(field: str) -> bool:
    """Whether a config of some kind has this field or section."""
    for name in KINDS:
        try:
            check_field(field, load_config(name))
            return True
        except ValueError:
            pass
    return False


def test_readme_has_at_most_170_lines():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 170


def test_readme_begins_with_the_two_blocks_that_ci_runs():
    first, second = blocks(ROOT / "README.md", "bash")[:2]
    assert first.splitlines() == [
        "pip install -e .",
        "python -m softvq_jax.main --config=configs/tiny.py --workdir=runs/tiny",
    ]
    upgrade, install, test = second.splitlines()  # an old pip takes minutes to find the packages
    assert upgrade == "pip install --upgrade pip" and install == "pip install -e '.[test]'"
    assert test.startswith("python -m pytest")


def test_files_in_the_readme_links_exist():
    links = re.findall(r"\]\(([^)#]+)", (ROOT / "README.md").read_text())
    assert [link for link in links if not link.startswith("http") and not (ROOT / link).exists()] == []


@pytest.mark.parametrize("path", PAGES, ids=name_of)
def test_named_files_exist(path):
    text = re.sub(r"\]\([^)]*\)", "]", path.read_text())  # the site's build checks its links
    assert {file for file in FILE.findall(text) if not (ROOT / file).exists()} == set()


@pytest.mark.parametrize(
    "page, words", every_command(), ids=lambda value: value if isinstance(value, str) else value[0]
)
def test_commands_and_their_flags_exist(page, words):
    module = module_of(words)
    if module is None:
        return
    assert importlib.util.find_spec(module), f"{page}: there is no module {module}"
    flags = {word[2:].split("=")[0] for word in words if word.startswith("--") and not word.startswith("--config.")}
    if words[0].startswith("launch/"):
        script = (ROOT / words[0]).read_text()
        flags = {flag for flag in flags - {""} if f"--{flag}" not in script}
    assert flags - declared_flags(module) == set(), f"{page}: {shlex.join(words)}"


def launches() -> list[tuple[str, list[str]]]:
    """The command lines of launch scripts on all pages, each with the page's name."""
    return [(page, words) for page, words in every_command() if words[0].startswith("launch/") and "--" in words]


@pytest.mark.parametrize(("page", "words"), launches(), ids=lambda value: value if isinstance(value, str) else value[0])
def test_launch_commands_dry_run(page, words):
    """And what the recipe says that a dry run prints is what it prints."""
    end = words.index("--")
    command = [*words[:end], "--dry-run", *words[end:]]
    # Without the check of `gs://my-bucket`, which Python makes.
    result = subprocess.run(command, cwd=ROOT, text=True, capture_output=True, env=os.environ | {"PYTHON": "true"})
    assert result.returncode == 0 and "softvq_jax.main" in result.stdout, result.stderr
    if page == "docs/tpu-recipe.md" and words[0] == "launch/tpu_vm.sh":
        assert result.stdout in blocks(ROOT / page, "text")


@pytest.mark.parametrize("path", PAGES, ids=name_of)
def test_named_configs_exist(path):
    for name in config_names(path.read_text()):
        found = find_config(name)
        assert not found.renamed, f"{name} is an old name of {found}"
        load_config(name)


@pytest.mark.parametrize("path", PAGES, ids=name_of)
def test_named_config_fields_exist(path):
    assert [field for field in sorted(fields(path.read_text())) if not exists_in_a_config(field)] == []


@pytest.mark.parametrize("path", [path for path in PAGES if blocks(path, "python")], ids=name_of)
def test_python_blocks_use_what_exists(path):
    """Imports, and the methods and keywords of `Tokenizer` and `Generator`."""
    classes = {"tokenizer": softvq_jax.Tokenizer, "generator": softvq_jax.Generator}
    classes |= {cls.__name__: cls for cls in classes.values()}
    for block in blocks(path, "python"):
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.ImportFrom):
                module = importlib.import_module(node.module)
                for name in (alias.name for alias in node.names):
                    # Submodules, such as PIL.Image, are attributes only once they have been imported.
                    assert hasattr(module, name) or importlib.util.find_spec(f"{node.module}.{name}")
            elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                owner = node.func.value
                if isinstance(owner, ast.Name) and owner.id in classes:
                    signature = inspect.signature(getattr(classes[owner.id], node.func.attr))
                    assert {keyword.arg for keyword in node.keywords} <= set(signature.parameters)
