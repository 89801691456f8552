"""Imports between the packages go one way, and some libraries are imported in one place only."""

import ast
import functools
import pathlib

import pytest

import softvq_jax

ROOT = pathlib.Path(softvq_jax.__file__).parent
# A package may import only packages in the lines above its own.
ORDER = (
    {"storage", "pixels", "plurals"},
    {"config", "parallel", "aot", "metrics", "progress", "unit_vectors"},
    {"models", "losses", "diffusion", "data", "user_arrays"},
    {"weights", "latent_statistics"},
    {"generators"},
    {"generator", "tokenizer"},
    {"evaluate"},
    {"report"},
    {"train"},
    {"studies"},
    {"main", "tools"},
    {"cli"},
)
LEVEL = {package: level for level, packages in enumerate(ORDER) for package in packages}
FILES = sorted(path for path in ROOT.rglob("*.py") if path != ROOT / "__init__.py")


@functools.cache
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
    """The files that import a library, as paths from the package's root."""
    return {
        str(path.relative_to(ROOT))
        for path in FILES
        if any(name == library or name.startswith(f"{library}.") for name in imports(path))
    }


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_only_lower_packages(path):
    own = path.relative_to(ROOT).parts[0].removesuffix(".py")
    for name in imports(path):
        if name.startswith("softvq_jax.") and (other := name.split(".")[1]) != own and other in LEVEL:
            assert LEVEL[other] < LEVEL[own], f"{own} imports {other}"


def test_every_package_is_in_the_list_of_levels():
    packages = {path.relative_to(ROOT).parts[0].removesuffix(".py") for path in FILES}
    assert packages <= LEVEL.keys()


@pytest.mark.parametrize("package", ["config", "data", "metrics"])
def test_imports_no_jax(package):
    """Worker processes load configs and data; metrics are functions of NumPy arrays."""
    for library in ("jax", "flax", "optax"):
        assert not {path for path in importers(library) if path.startswith(f"{package}/")}


def test_only_checkpoints_import_orbax():
    weights = {"weights/checkpoints.py", "weights/s3_checkpoints.py"}
    assert importers("orbax") <= {"train/checkpoint.py", "train/best.py"} | weights


def test_the_core_imports_no_torch_and_no_tensorflow():
    assert importers("torch") <= {"weights/files.py"} and not importers("tensorflow") | importers("timm")
