"""A page that shows runs or evaluations side by side: config differences, curves, tables, and the same images."""

import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from softvq_jax.report import page
from softvq_jax.report.charts import COLORS, Chart, Series, line_chart, number
from softvq_jax.report.curves import COUNTS, ORDER, group_of, metric_title
from softvq_jax.report.evaluation_section import QUOTED, latest_evaluations
from softvq_jax.report.page import Table
from softvq_jax.report.run_files import Evaluation, RunFiles, flatten
from softvq_jax.report.same_images import of_evaluations, of_training
from softvq_jax.report.text import LABELS, value_text

MAX_RUNS = len(COLORS)
ABSENT = "-"
COMPARABLE = ("protocol", "counts", "crop", "sizes", "fingerprints", "weights")
"""Keys of an `evaluation.json` that must be equal for its numbers to be compared, except for the fields `OWN`."""
OWN = ("fingerprints.samples", "weights.tokenizer", "weights.generator", "protocol.description")

Named = Sequence[tuple[str, RunFiles]]


def labels(paths: Sequence[pathlib.Path]) -> list[str]:
    """Returns labels for paths, the shortest endings that tell them apart, such as `a/run` and `b/run`.

    Raises:
      ValueError: two paths are the same.
    """
    parts = [path.resolve().parts for path in paths]
    longest = max(map(len, parts))
    for length in range(1, longest + 1):
        names = ["/".join(names[-length:]) for names in parts]
        if len(set(names)) == len(names):
            return names
    raise ValueError(f"two of the folders are the same: {', '.join(map(str, paths))}")


def build(runs: Named) -> str:
    """Returns the HTML page.

    Args:
      runs: names and files, 2 to `MAX_RUNS`.

    Raises:
      ValueError: there are fewer or more.
    """
    if not 2 <= len(runs) <= MAX_RUNS:
        raise ValueError(f"{len(runs)} folders to compare; expected 2 to {MAX_RUNS}")
    names = [name for name, _ in runs]
    config, partial, equal = config_differences(runs)
    sections = {
        "overview": ("Overview", overview(runs)),
        "config": ("Config", config if any(run.config for _, run in runs) else None),
        "curves": ("Curves", curves(runs)),
        "images": ("The same images", of_training(runs)),
        "evaluations": ("Evaluation", evaluations(runs)),
    }
    return page.render(
        "comparison.html.j2",
        names=names,
        links=[(id, title) for id, (title, content) in sections.items() if content],
        equal_fields=equal,
        partial=partial,
        **{id: content for id, (_, content) in sections.items()},
    )


def overview(runs: Named) -> Table | None:
    """Returns the last step, the speed and the last held-out metrics of each run; None if there are only evaluations."""
    if not any(run.metrics for _, run in runs):
        return None
    rows = [("Training steps", *(_steps(run) for _, run in runs))]
    rows.append(("Images per second, median", *(_median(run, "images_per_second") for _, run in runs)))
    held_out = _union(run.metrics for _, run in runs)
    for name in (name for name in held_out if name.startswith("eval_") and name not in COUNTS):
        rows.append((metric_title(name), *(_last(run, name) for _, run in runs)))
    return Table("overview", ("last values", *(name for name, _ in runs)), rows)


def config_differences(runs: Named) -> tuple[Table, Table, int]:
    """Returns the config fields that differ, those that only some runs have, and the number of equal ones."""
    rows, equal = _differences([flatten(run.config) for _, run in runs if run.config])
    head = ("field", *(name for name, run in runs if run.config))
    everywhere = [row for row in rows if ABSENT not in row[1:]]
    partial = [row for row in rows if ABSENT in row[1:]]
    return Table("config fields that differ", head, everywhere), Table("fields of some runs", head, partial), equal


def curves(runs: Named) -> list[tuple[str, list[Chart]]]:
    """Returns groups of charts, one chart for each metric, with a line for each run."""
    logged = [name for name in sorted(_union(run.metrics for _, run in runs)) if name not in COUNTS]
    nonzero = [name for name in logged if any(any(run.metrics[name][1]) for _, run in runs if name in run.metrics)]
    groups = []
    for title in ORDER:
        names = [name for name in nonzero if group_of(name) == title]
        if names:
            lines = [[Series(label, *run.metrics.get(name, ((), ()))) for label, run in runs] for name in names]
            groups.append(
                (title, [line_chart(metric_title(n), series) for n, series in zip(names, lines, strict=True)])
            )
    return groups


def evaluations(runs: Named) -> list[dict[str, Any]]:
    """Returns the template's values for each protocol: metrics side by side, warnings, images, other differences."""
    by_protocol: dict[str, list[tuple[str, Evaluation]]] = {}
    for label, run in runs:
        for evaluation in latest_evaluations(run.evaluations):
            by_protocol.setdefault(evaluation.content["protocol"]["name"], []).append((label, evaluation))
    return [_protocol(name, found) for name, found in by_protocol.items()]


def _protocol(protocol: str, found: Sequence[tuple[str, Evaluation]]) -> dict[str, Any]:
    of_run = [label for label, _ in found]
    heads = [label if of_run.count(label) == 1 else f"{label}: {e.folder.name}" for label, e in found]
    contents = [evaluation.content for _, evaluation in found]
    rows = [
        (
            LABELS.get(name, name),
            *(value_text(c["metrics"][name]) if name in c["metrics"] else ABSENT for c in contents),
        )
        for name in _union(content["metrics"] for content in contents)
    ]
    facts = [flatten({key: content.get(key) or {} for key in COMPARABLE}) for content in contents]
    facts = [{name: value for name, value in fact.items() if name not in OWN} for fact in facts]
    differing, _ = _differences(facts)
    warnings = [f"{row[0]}: {_listed(heads, row[1:])}" for row in differing]
    others = [
        flatten({key: content.get(key) or {} for key in ("sampling", "compute", "versions")}) for content in contents
    ]
    return {
        "title": f"Protocol {protocol}",
        "warnings": warnings,
        "metrics": Table(f"metrics by {protocol}", ("metric", *heads), rows, quote=QUOTED),
        "images": of_evaluations(list(zip(heads, (e for _, e in found), strict=True))),
        "others": Table("other differences", ("", *heads), _differences(others)[0]),
    }


def _differences(fields: Sequence[Mapping[str, Any]]) -> tuple[list[tuple[str, ...]], int]:
    """Returns the names and values of the fields that differ, and the number of those that are equal."""
    names = _union(fields)
    rows = [(name, *(str(f[name]) if name in f else ABSENT for f in fields)) for name in sorted(names)]
    differing = [row for row in rows if len(set(row[1:])) > 1]
    return differing, len(rows) - len(differing)


def _listed(heads: Sequence[str], values: Sequence[str]) -> str:
    return ", ".join(f"{value} ({head})" for head, value in zip(heads, values, strict=True))


def _union(mappings: Iterable[Mapping[str, Any]]) -> list[str]:
    return list(dict.fromkeys(name for mapping in mappings for name in mapping))


def _steps(run: RunFiles) -> str:
    return f"{max(steps[-1] for steps, _ in run.metrics.values()):,}" if run.metrics else ABSENT


def _last(run: RunFiles, name: str) -> str:
    return number(run.metrics[name][1][-1]) if name in run.metrics else ABSENT


def _median(run: RunFiles, name: str) -> str:
    values = sorted(run.metrics[name][1]) if name in run.metrics else []
    return number(values[len(values) // 2]) if values else ABSENT
