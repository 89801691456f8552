"""Line charts by matplotlib, as SVG elements that need no other files or fonts."""

import dataclasses
import io
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLORS = ("#1f6fb4", "#c2541d", "#2b8056", "#8a4fb0", "#8a6d00", "#5b6470", "#b03060", "#0f7f8a")
INCHES = (4.6, 2.8)  # width and height of a chart; the page scales it
LOG_DECADES = 2.5  # values that span more decades than this get a logarithmic axis

_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",  # text remains text, not paths
    "svg.hashsalt": "softvq",  # makes files reproducible
    "font.size": 10,
    "path.simplify_threshold": 0.5,  # 100,000 noisy points then give an SVG of 35 kB that still shows the peaks
    "axes.labelcolor": "#5b6470",
    "grid.color": "#9aa3ad",
    "grid.alpha": 0.4,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "xtick.labelcolor": "#5b6470",
    "ytick.labelcolor": "#5b6470",
}
_SVG = "http://www.w3.org/2000/svg"


@dataclasses.dataclass(frozen=True)
class Series:
    """One line of a chart: its name in the legend, and its points in the order of x."""

    name: str
    x: Sequence[float]
    y: Sequence[float]


@dataclasses.dataclass(frozen=True)
class Chart:
    """A chart for a page.

    Attributes:
      title: title above the chart.
      svg: an `<svg>` element with axes and lines; empty if no value is finite. Line i has the class `series{i}`.
      alt: alt text for screen readers.
      legend: number and name of each line that has values; empty for a single line.
      last: last value of a single line; empty for several lines.
    """

    title: str
    svg: str
    alt: str
    legend: Sequence[tuple[int, str]] = ()
    last: str = ""


def line_chart(title: str, series: Sequence[Series], x_label: str = "step", *, show_last: bool = True) -> Chart:
    """Draws a chart with one or several lines.

    Points that are not finite are left out. The vertical axis is logarithmic if all values are positive and span more
    than `LOG_DECADES` decades. Line i has color i, also if another line has no points.

    Args:
      title, x_label: title of the chart and label of the x axis.
      series: the lines.
      show_last: whether the last value of a single line is shown next to the title.
    """
    lines = list(map(finite, series))
    drawn = [line for line in lines if line.x]
    if not drawn:
        return Chart(title, "", f"{title}: no finite values")
    figure = new_figure(INCHES)
    axes = figure.add_axes((0.16, 0.18, 0.79, 0.78))  # with room for "-0.00125" at the left
    plot_lines(axes, lines, x_label)
    ranges = "; ".join(f"{line.name} from {number(line.y[0])} to {number(line.y[-1])}" for line in drawn)
    several = len(lines) > 1
    return Chart(
        title,
        inline_svg(figure),
        f"Line chart of {title}: {ranges}",
        [(i, line.name) for i, line in enumerate(lines) if line.x] if several else (),
        number(drawn[0].y[-1]) if show_last and not several else "",
    )


def new_figure(inches: tuple[float, float]) -> "Figure":
    """Returns an empty matplotlib figure, without using pyplot's global state."""
    from matplotlib.figure import Figure

    return Figure(figsize=inches)


def plot_lines(axes: "Axes", series: Sequence[Series], x_label: str, *, log_x: bool = False, marker: str = "") -> None:
    """Plots lines on `axes`.

    Args:
      series: lines with only finite values; line i has color i even if earlier lines are empty.
      log_x: whether the x axis is logarithmic; then every x value has a tick.
      marker: matplotlib's name of the marker; a line with a single point always has a marker.
    """
    from matplotlib import rc_context
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator

    with rc_context(_STYLE):
        axes.clear()  # applies the style
        axes.spines[:].set_visible(False)
        axes.grid(axis="y", clip_on=False)  # `inline_svg` drops clip paths
        values = [y for line in series for y in line.y]
        if min(values) > 0 and math.log10(max(values) / min(values)) > LOG_DECADES:
            axes.set_yscale("log")
            axes.yaxis.set_major_locator(LogLocator(numticks=6))
        else:
            axes.yaxis.set_major_locator(MaxNLocator(5, min_n_ticks=3, steps=[1, 2, 2.5, 5, 10]))
        if log_x:
            axes.set_xscale("log")
            axes.set_xticks(sorted({x for line in series for x in line.x}))
        else:
            axes.xaxis.set_major_locator(MaxNLocator(5, min_n_ticks=3, steps=[1, 2, 2.5, 5, 10]))
        axes.minorticks_off()
        for i, line in enumerate(series):
            if not line.x:
                continue  # matplotlib would give an empty line an infinite size
            shape = (marker or ("o" if len(line.x) == 1 else "")) + "-"
            color = COLORS[i % len(COLORS)]
            [drawn] = axes.plot(line.x, line.y, shape, color=color, lw=1.6, ms=4, label=line.name, clip_on=False)
            drawn.set_gid(f"series{i}")
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_formatter(FuncFormatter(lambda value, _: number(value)))
        axes.margins(x=0.05 if log_x else 0.0)
        axes.set_xlabel(x_label)


def save_svg(figure: "Figure", title: str, *, transparent: bool = False) -> str:
    """Returns a figure as the text of an SVG file."""
    from matplotlib import rc_context

    buffer = io.StringIO()
    with rc_context(_STYLE):
        metadata = {"Title": title, "Date": None, "Creator": None, "Format": None, "Type": None}
        figure.savefig(buffer, format="svg", transparent=transparent, metadata=metadata)
    return buffer.getvalue()


def inline_svg(figure: "Figure") -> str:
    """Returns a figure as an `<svg>` element for a page with many: without fixed size, background and group ids.

    matplotlib's `gid` becomes the element's class, so that the page's style sheet can set the colors.
    """
    for prefix, uri in (("", _SVG), ("xlink", "http://www.w3.org/1999/xlink")):
        ElementTree.register_namespace(prefix, uri)
    root = ElementTree.fromstring(save_svg(figure, "", transparent=True))
    for name in ("width", "height"):
        root.attrib.pop(name)
    for child in [child for child in root if child.tag != f"{{{_SVG}}}g"]:
        root.remove(child)  # metadata, and a style that would apply to the whole page
    for group in root.iter(f"{{{_SVG}}}g"):
        name = group.attrib.pop("id", "")
        if name.startswith("series"):
            group.set("class", name)
    return ElementTree.tostring(root, encoding="unicode")


def finite(series: Series) -> Series:
    """Returns a line without non-finite points."""
    points = [(x, y) for x, y in zip(series.x, series.y, strict=True) if math.isfinite(x) and math.isfinite(y)]
    return Series(series.name, [x for x, _ in points], [y for _, y in points])


def number(value: float) -> str:
    """Returns a number as text with at most four digits: `0.00123`, `12.3`, `12k`, `1.2M`, `infinite`."""
    if math.isinf(value):
        return "infinite" if value > 0 else "-infinite"
    for limit, divisor, unit in ((1e9, 1e9, "G"), (1e6, 1e6, "M"), (1e4, 1e3, "k")):
        if abs(value) >= limit:
            return f"{value / divisor:.4g}{unit}"
    return f"{value:.4g}"
