"""The command `softvq` and the metadata of the package."""

import ast
import importlib.util
import pathlib
import subprocess
import sys
import time
import tomllib

import pytest

import softvq_jax
from softvq_jax import cli

ROOT = pathlib.Path(softvq_jax.__file__).parents[1]
DISTRIBUTIONS = {  # of modules with another name
    "PIL": "pillow",
    "absl": "absl-py",
    "huggingface_hub": "huggingface-hub",
    "ml_collections": "ml-collections",
    "orbax": "orbax-checkpoint",
    "skimage": "scikit-image",
    "sklearn": "scikit-learn",
    "tensorflow_datasets": "tensorflow-datasets",
    "umap": "umap-learn",
}
INDIRECT = {  # declared, and used without an import
    "scikit-image",  # data/embedded.py reads the photographs in its wheel
    "importlib_resources",  # tensorflow-datasets needs it and does not declare it
    "libtpu",  # jax loads the TPU compiler
    "psutil",  # benchmarks
    "gcsfs",  # fsspec loads the clients of buckets by scheme
    "s3fs",
}
EXTRAS_OF_THE_PACKAGE = (
    "tpu",
    "cuda",
    "aot",
    "tensorboard",
    "wandb",
    "tfds",
    "torch",
    "umap",
    "studies",
    "bench",
    "hf",
    "gcs",
    "s3",
)


def metadata() -> dict:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def names(requirements: list[str]) -> set[str]:
    """Requirements without extras, versions and markers."""
    return {requirement.split(";")[0].split(">")[0].split("[")[0].strip() for requirement in requirements}


def imported() -> set[str]:
    """The distributions that the package's modules import, also inside functions."""
    modules = set()
    for path in (ROOT / "softvq_jax").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                modules |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                modules.add(node.module.split(".")[0])
    modules -= sys.stdlib_module_names | {"softvq_jax"}
    return {DISTRIBUTIONS.get(module, module) for module in modules}


def run(*arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "softvq_jax.cli", *arguments], text=True, capture_output=True, cwd=ROOT
    )


def test_every_import_is_declared_and_every_dependency_is_used():
    declared = names(metadata()["dependencies"])
    optional = set().union(*(names(metadata()["optional-dependencies"][extra]) for extra in EXTRAS_OF_THE_PACKAGE))
    assert imported() <= declared | optional
    assert declared | optional <= imported() | INDIRECT


def test_every_tool_is_a_command():
    tools = {path.stem for path in (ROOT / "softvq_jax" / "tools").glob("*.py") if "__main__" in path.read_text()}
    commands = {module.rpartition(".")[2] for module, _ in cli.COMMANDS.values()}
    assert commands == tools | {"main"}
    assert all(importlib.util.find_spec(module) for module, _ in cli.COMMANDS.values())


def test_help_lists_the_commands_and_imports_no_jax():
    code = "import sys; from softvq_jax import cli; cli.main(['softvq', '--help']); assert 'jax' not in sys.modules"
    start = time.monotonic()
    result = subprocess.run([sys.executable, "-c", code], text=True, capture_output=True, cwd=ROOT)
    assert result.returncode == 0, result.stderr
    assert time.monotonic() - start < 5
    assert all(f"  {name} " in result.stdout for name in cli.COMMANDS)


def test_a_command_gets_its_flags():
    result = run("train", "--config=tiny", "--help_config", "--config.model.latent_dim=8")
    assert result.returncode == 0 and "--config.model.latent_dim=8" in result.stdout


def test_a_command_reports_its_own_errors():
    result = run("report", "--workdir=/nowhere")
    assert result.returncode == 1 and result.stderr.count("\n") == 1 and "/nowhere" in result.stderr


@pytest.mark.parametrize(("arguments", "code", "stream", "text"), [
    ((), 2, "stderr", "usage: softvq COMMAND"),
    (("--version",), 0, "stdout", f"softvq {softvq_jax.__version__}\n"),
    (("evalute",), 2, "stderr", "softvq: error: unknown command 'evalute'; the nearest is 'evaluate', see softvq --help\n"),
])  # fmt: skip
def test_unknown_commands_are_refused(arguments, code, stream, text):
    result = run(*arguments)
    assert result.returncode == code and text in getattr(result, stream)
