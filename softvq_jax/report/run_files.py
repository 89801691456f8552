"""Reads the files that a run writes to its workdir, for its page."""

import dataclasses
import pathlib
import re
from typing import Any

from softvq_jax.report import renamed_metrics
from softvq_jax.storage import files, json_lines
from softvq_jax.storage.paths import as_path

_PICTURE = re.compile(r"(?P<name>.+?)_(?P<step>\d+)\.png")


@dataclasses.dataclass(frozen=True)
class Picture:
    """A picture, a grid of images, written at a training step."""

    name: str
    step: int
    path: pathlib.Path


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """An `evaluation.json` and the pictures in its folder.

    Attributes:
      content: content of the file, with names of older versions replaced by current ones.
    """

    folder: pathlib.Path
    content: dict[str, Any]

    def picture(self, name: str) -> pathlib.Path | None:
        """Returns the path of the picture `worst`, `best` or `latent_map`; None if there is none."""
        path = self.folder / f"{name}.png"
        return path if path.is_file() else None


@dataclasses.dataclass(frozen=True)
class RunFiles:
    """The files of a run in its workdir.

    Attributes:
      name: name of the workdir.
      config: nested fields; empty if there is no `config.json`.
      metrics: logged steps and values by name.
      pictures: pictures sorted by name and step.
      evaluations: all evaluations below the workdir.
    """

    name: str
    config: dict[str, Any]
    metrics: dict[str, tuple[list[int], list[float]]]
    pictures: list[Picture]
    evaluations: list[Evaluation]


def read_run(workdir: pathlib.Path, flag: str = "--workdir") -> RunFiles:
    """Reads a workdir; `flag` names it in messages.

    Raises:
      FileNotFoundError: the folder does not exist, or holds neither a run nor an evaluation.
      ValueError: a file is not valid JSON, or the folder holds several runs.
    """
    workdir = as_path(workdir)
    if not workdir.is_dir():
        raise FileNotFoundError(f"{flag} must be an existing folder; got {str(workdir)!r}")
    inner = sorted(path.parent.name for path in workdir.glob("*/metrics.jsonl"))
    if inner and not (workdir / "metrics.jsonl").exists():
        study = f"; the study's table is {workdir / 'table.md'}" if (workdir / "table.md").exists() else ""
        raise ValueError(f"{flag} must be one run; {workdir} holds {len(inner)}: {', '.join(inner)}{study}")
    run = RunFiles(
        workdir.resolve().name,
        files.read_json(workdir / "config.json") if (workdir / "config.json").exists() else {},
        _read_metrics(workdir / "metrics.jsonl"),
        sorted(_pictures(workdir / "images"), key=lambda picture: (picture.name, picture.step)),
        [
            Evaluation(path.parent, renamed_metrics.evaluation(files.read_json(path)))
            for path in sorted(workdir.rglob("evaluation.json"))
        ],
    )
    if not (run.config or run.metrics or run.evaluations):
        raise FileNotFoundError(
            f"{flag} must be the workdir of a run or the --out of an evaluation; {workdir} has no config.json, "
            "metrics.jsonl or evaluation.json"
        )
    return run


def flatten(fields: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Returns nested fields by their dotted names."""
    flat = {}
    for name, value in fields.items():
        flat |= flatten(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return flat


def _read_metrics(path):
    """Reads the logged values; skips an incomplete last line, which the run may still be writing."""
    metrics = {}
    for values in json_lines.read_metrics(path):
        step = values.pop("step")
        for name, value in values.items():
            steps, logged = metrics.setdefault(renamed_metrics.metric(name), ([], []))
            steps.append(step)
            logged.append(value)
    return metrics


def _pictures(folder):
    for path in folder.glob("*.png"):
        if match := _PICTURE.fullmatch(path.name):
            yield Picture(match["name"], int(match["step"]), path)
