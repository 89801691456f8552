"""The arrows between the packages run one way."""

import ast
import pathlib

import softvq_jax

ROOT = pathlib.Path(softvq_jax.__file__).parent
PURE = {"models", "losses", "diffusion"}


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


def test_dump():
    edges = {}
    for path in ROOT.rglob("*.py"):
        rel = path.relative_to(ROOT)
        pkg = rel.parts[0].removesuffix(".py")
        for n in imports(path):
            if n.startswith("softvq_jax."):
                t = n.split(".")[1]
                if t != pkg:
                    edges.setdefault(pkg, {}).setdefault(t, set()).add(str(rel))
    for k, v in sorted(edges.items()):
        print(k, {a: (len(b), sorted(b)[:3]) for a, b in v.items()})
