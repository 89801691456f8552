"""The arrows between the packages run one way, and what is to be imported in one place is."""

import ast
import pathlib

import pytest

import softvq_jax

ROOT = pathlib.Path(softvq_jax.__file__).parent
# Every line may import from the lines above it, and nothing from its own.
ORDER = (
    {"storage"},
    {"config", "parallel", "aot", "metrics", "pixels", "progress"},
    {"models", "losses", "diffusion", "data"},
    {"weights", "latent_statistics"},
    {"generators"},
    {"generator", "tokenizer"},
    {"evaluate"},
    {"report"},
    {"train"},
    {"studies"},
    {"main", "tools"},
)
LEVEL = {package: level for level, packages in enumerate(ORDER) for package in packages}
FILES = sorted(path for path in ROOT.rglob("*.py") if path != ROOT / "__init__.py")


def imports(path: pathlib.Path) -> set[str]:
    """The dotted names that a file imports, also inside functions."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {name.name for name in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively"
            found |= {f"{node.module}.{name.name}" for name in node.names}
    return found


def importers(library: str) -> set[str]:
    """The files, as paths from the package's root, that import a library."""
    return {
        str(path.relative_to(ROOT))
        for path in FILES
        if any(name == library or name.startswith(f"{library}.") for name in imports(path))
    }


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_file_imports_only_what_lies_below_it(path):
    own = path.relative_to(ROOT).parts[0].removesuffix(".py")
    for name in imports(path):
        if name.startswith("softvq_jax.") and (other := name.split(".")[1]) != own and other in LEVEL:
            assert LEVEL[other] < LEVEL[own], f"{own} imports {other}"


def test_reading_processes_never_import_jax():
    assert not {path for library in ("jax", "flax", "optax") for path in importers(library) if path.startswith("data/")}


def test_metrics_are_numpy_in_and_numbers_out():
    assert not {
        path for library in ("jax", "flax", "optax") for path in importers(library) if path.startswith("metrics/")
    }


def test_orbax_is_known_to_the_checkpoints_alone():
    assert importers("orbax") <= {"train/checkpoint.py", "train/best.py"}


def test_the_core_knows_no_torch_and_no_tensorflow():
    assert importers("torch") <= {"weights/files.py"} and not importers("tensorflow") | importers("timm")
