"""A study's figure: one panel a measure, one line a kind of variant, as an SVG file that needs nothing else."""

import html
from collections.abc import Sequence

from ml_collections import ConfigDict

from softvq_jax.report import charts
from softvq_jax.report.charts import Series
from softvq_jax.studies.table import LABELS

COLORS = ("#1f6fb4", "#c2541d", "#2b8056", "#8a4fb0", "#8a6d00", "#5b6470")
TITLE, LEGEND, GAP = 24, 26, 14  # pixels


def draw(config: ConfigDict, rows: Sequence[dict]) -> str | None:
    """The figure of the panels that the config names; None as long as there is nothing to draw."""
    names = list(dict.fromkeys(row["line"] for row in rows))
    panels = [(panel, _lines(rows, names, panel)) for panel in config.figure.panels]
    panels = [(panel, lines) for panel, lines in panels if any(line.x for line in lines)]
    if not panels:
        return None
    width = len(panels) * (charts.WIDTH + GAP) - GAP
    height = LEGEND + TITLE + charts.HEIGHT
    parts = [
        f'<g transform="translate({i * (charts.WIDTH + GAP)} {LEGEND})"><text class="title" x="{charts.LEFT}" y="16">'
        f'{html.escape(LABELS[panel])}</text><g transform="translate(0 {TITLE})">'
        f"{charts.drawing(lines, config.table.x, log_x=config.figure.log_x)}</g></g>"
        for i, (panel, lines) in enumerate(panels)
    ]
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}">'
        f"<title>{html.escape(config.study)}</title><style>{_style()}</style>"
        f'<rect width="{width}" height="{height}" fill="#fff"/>{_legend(names)}{"".join(parts)}</svg>\n'
    )


def _lines(rows, names, column) -> list[Series]:
    lines = []
    for name in names:
        points = sorted((row["x"], row[column]) for row in rows if row["line"] == name and column in row)
        lines.append(Series(name, [x for x, _ in points], [y for _, y in points]))
    return lines


def _legend(names):
    x, parts = charts.LEFT, []
    for i, name in enumerate(names):
        parts.append(
            f'<circle class="dot s{i}" cx="{x + 5}" cy="13" r="4"/><text x="{x + 14}" y="17">{html.escape(name)}</text>'
        )
        x += 36 + 7 * len(name)
    return "".join(parts)


def _style():
    lines = "".join(f".s{i} {{ stroke: {color}; color: {color}; }} " for i, color in enumerate(COLORS))
    return (
        "text { font: 11px system-ui, sans-serif; fill: #444; stroke: none; } .title { font-weight: 600; } "
        ".rule { stroke: #dfe2e6; } .line { fill: none; stroke-width: 1.8; stroke-linejoin: round; } "
        f".dot {{ fill: currentColor; }} {lines}"
    )
