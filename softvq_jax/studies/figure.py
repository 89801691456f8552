"""A study's figure, an SVG file by matplotlib with one panel per value and one line per kind of variant."""

import itertools
from collections.abc import Sequence

from ml_collections import ConfigDict

from softvq_jax.report.charts import COLORS, Series, new_figure, plot_lines, save_svg
from softvq_jax.studies.table import LABELS

MAX_LINES = len(COLORS)
PANEL_INCHES = (3.8, 3.0)


def draw(config: ConfigDict, rows: Sequence[dict]) -> str | None:
    """Draws the panels listed in the config, with error bars of one standard error where rows have standard errors.

    Args:
      config: the study's config.
      rows: rows of the table; a panel without values is left out.

    Returns:
      The text of an SVG file; None if no panel has values.
    """
    names = list(dict.fromkeys(row["line"] for row in rows))
    panels = [(panel, [_line(rows, name, panel) for name in names]) for panel in config.figure.panels]
    panels = [(panel, lines) for panel, lines in panels if any(line.x for line in lines)]
    if not panels:
        return None
    width, height = PANEL_INCHES
    figure = new_figure((width * len(panels), height))
    all_axes = figure.subplots(1, len(panels), squeeze=False)[0]
    for axes, (panel, lines) in zip(all_axes, panels, strict=True):
        plot_lines(axes, lines, config.table.x, log_x=config.figure.log_x, marker="o")
        for name, color in zip(names, itertools.cycle(COLORS), strict=False):
            _draw_errors(axes, rows, name, panel, color)
        axes.set_title(LABELS[panel], loc="left", fontsize="medium", fontweight="bold")
    handles = {line.get_label(): line for axes in all_axes for line in axes.lines}
    shown = [name for name in names if name in handles]
    figure.legend([handles[name] for name in shown], shown, loc="outside upper left", ncols=len(shown), frameon=False)
    figure.set_layout_engine("constrained")
    return save_svg(figure, config.study)


def _line(rows: Sequence[dict], name: str, column: str) -> Series:
    points = sorted((row["x"], row[column]) for row in rows if row["line"] == name and column in row)
    return Series(name, [x for x, _ in points], [y for _, y in points])


def _draw_errors(axes, rows: Sequence[dict], name: str, column: str, color: str) -> None:
    errors = [
        (row["x"], row[column], row["standard_errors"][column])
        for row in rows
        if row["line"] == name and column in row.get("standard_errors", {})
    ]
    if errors:
        x, y, error = zip(*errors, strict=True)
        axes.errorbar(x, y, error, fmt="none", ecolor=color, elinewidth=1.0, capsize=2.0)
