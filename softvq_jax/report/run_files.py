"""What a run left in its workdir, read for a report."""

import dataclasses
import json
import pathlib
import re
from typing import Any

_PICTURE = re.compile(r"(?P<name>.+?)_(?P<step>\d+)\.png")


@dataclasses.dataclass(frozen=True)
class Picture:
    """A PNG grid of a training step."""

    name: str
    step: int
    path: pathlib.Path


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """A report of `tools.evaluate` and the pictures beside it."""

    folder: pathlib.Path
    report: dict[str, Any]

    def picture(self, name: str) -> pathlib.Path | None:
        """`worst`, `best` or `latent_map`, where it was drawn."""
        path = self.folder / f"{name}.png"
        return path if path.is_file() else None


@dataclasses.dataclass(frozen=True)
class RunFiles:
    """A run.

    Attributes:
      name: the workdir's.
      config: nested fields; empty where the run left none.
      metrics: name -> the steps and values that were logged.
      pictures: by name and step.
      evaluations: those found anywhere below the workdir.
    """

    name: str
    config: dict[str, Any]
    metrics: dict[str, tuple[list[int], list[float]]]
    pictures: list[Picture]
    evaluations: list[Evaluation]


def read_run(workdir: pathlib.Path) -> RunFiles:
    """Reads a workdir.

    Raises:
      FileNotFoundError: no such folder, or nothing of a run or an evaluation in it.
      ValueError: a file that is not what its name says; a folder of several runs.
    """
    if not workdir.is_dir():
        raise FileNotFoundError(f"no folder {str(workdir)!r}")
    inner = sorted(path.parent.name for path in workdir.glob("*/metrics.jsonl"))
    if inner and not (workdir / "metrics.jsonl").exists():
        study = f", the study's table is {workdir / 'table.md'}" if (workdir / "table.md").exists() else ""
        raise ValueError(f"{workdir} holds runs, and a page is about one: name {' or '.join(inner)} in it{study}")
    run = RunFiles(
        workdir.resolve().name,
        _read_json(workdir / "config.json") if (workdir / "config.json").exists() else {},
        _read_metrics(workdir / "metrics.jsonl"),
        sorted(_pictures(workdir / "images"), key=lambda picture: (picture.name, picture.step)),
        [Evaluation(path.parent, _read_json(path)) for path in sorted(workdir.rglob("evaluation.json"))],
    )
    if not (run.config or run.metrics or run.evaluations):
        raise FileNotFoundError(
            f"{workdir} has neither config.json and metrics.jsonl of a training run nor an evaluation.json: "
            "name the --workdir of a run, or the --out of an evaluation"
        )
    return run


def flatten(fields: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested fields by their dotted names."""
    flat = {}
    for name, value in fields.items():
        flat |= flatten(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return flat


def _read_json(path):
    try:
        return json.loads(path.read_text())
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is not JSON: {error}") from error


def _read_metrics(path):
    """The last line may be cut off: the run may be writing it."""
    metrics = {}
    lines = path.read_text().splitlines() if path.exists() else []
    for i, line in enumerate(lines):
        try:
            values = json.loads(line)
        except json.JSONDecodeError as error:
            if i == len(lines) - 1:
                break
            raise ValueError(f"{path}, line {i + 1}, is not JSON: {error}") from error
        step = values.pop("step")
        for name, value in values.items():
            steps, found = metrics.setdefault(name, ([], []))
            steps.append(step)
            found.append(value)
    return metrics


def _pictures(folder):
    for path in folder.glob("*.png"):
        if match := _PICTURE.fullmatch(path.name):
            yield Picture(match["name"], int(match["step"]), path)
