"""Line charts as inline SVG: no script, no font, no file of its own; colours come from the page's style sheet."""

import dataclasses
import html
import itertools
import math
from collections.abc import Sequence

WIDTH, HEIGHT = 360, 220
LEFT, RIGHT, TOP, BOTTOM = 52, 12, 10, 34
MOST_POINTS = 400
LOG_DECADES = 2.5  # values spread further than that are drawn on a logarithmic axis

_ids = itertools.count()


@dataclasses.dataclass(frozen=True)
class Series:
    """One line: `name` for the legend, and its points in the order of x."""

    name: str
    x: Sequence[float]
    y: Sequence[float]


def line_chart(title: str, series: Sequence[Series], x_label: str = "step", *, last: bool = True) -> str:
    """An SVG figure of one or several lines, with axes, a legend where it is needed and a description for readers.

    Points that are not finite are left out. The vertical axis is logarithmic where positive values span more than
    `LOG_DECADES` decades. With `last`, a single line's last value stands beside the title.
    """
    drawn = [s for s in map(_finite, series) if s.x]
    if not drawn:
        return f"<p>{html.escape(title)}: no finite values.</p>"
    name = f"chart{next(_ids)}"
    described = "; ".join(f"{s.name} from {number(s.y[0])} to {number(s.y[-1])}" for s in drawn)
    return (
        f'<figure class="chart"><figcaption>{html.escape(title)}{_legend(drawn, last)}</figcaption>'
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-labelledby="{name}">'
        f'<title id="{name}">{html.escape(f"{title}: {described}")}</title>'
        f"{drawing(drawn, x_label)}</svg></figure>"
    )


def drawing(series: Sequence[Series], x_label: str, *, log_x: bool = False) -> str:
    """Axes and lines as SVG elements that fill `WIDTH` x `HEIGHT`; `log_x` marks every x that occurs."""
    series = [_finite(s) for s in series]
    x = [value for s in series for value in s.x]
    x_axis = Axis.around(x, LEFT, WIDTH - RIGHT, log=log_x)
    values = [y for s in series for y in s.y]
    log = min(values) > 0 and math.log10(max(values) / min(values)) > LOG_DECADES
    y_axis = Axis.around(values, HEIGHT - BOTTOM, TOP, log=log)
    x_ticks = sorted(set(x)) if log_x else x_axis.ticks()
    lines = (_line(i, s, x_axis, y_axis) for i, s in enumerate(series) if s.x)
    return _grid(x_axis, x_ticks, y_axis, x_label) + "".join(lines)


def _finite(series):
    points = [(x, y) for x, y in zip(series.x, series.y, strict=True) if math.isfinite(x) and math.isfinite(y)]
    return Series(series.name, [x for x, _ in points], [y for _, y in points])


@dataclasses.dataclass(frozen=True)
class Axis:
    """Maps values `low ... high` to pixels `begin ... end`."""

    low: float
    high: float
    begin: float
    end: float
    log: bool

    @classmethod
    def around(cls, values: Sequence[float], begin: float, end: float, *, log: bool) -> "Axis":
        """An axis that holds all values, with a little room about a single one."""
        low, high = min(values), max(values)
        if low == high:
            room = abs(low) * 0.1 or 1.0
            low, high = low - room, high + room
        return cls(low, high, begin, end, log)

    def pixel(self, value: float) -> float:
        """Where a value lies."""
        scale = math.log10 if self.log else float
        share = (scale(value) - scale(self.low)) / (scale(self.high) - scale(self.low))
        return self.begin + share * (self.end - self.begin)

    def ticks(self) -> list[float]:
        """Three to six round values within the axis; powers of ten on a logarithmic one."""
        if self.log:
            first, last = math.ceil(math.log10(self.low)), math.floor(math.log10(self.high))
            step = max(1, (last - first) // 4)
            return [10.0**power for power in range(first, last + 1, step)]
        rough = (self.high - self.low) / 5
        power = 10 ** math.floor(math.log10(rough))
        step = power * next(m for m in (1, 2, 2.5, 5, 10) if m * power >= rough * (1 - 1e-9))
        first, last = math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9)
        return [i * step for i in range(first, last + 1)]


def _grid(x_axis, x_ticks, y_axis, x_label):
    parts = []
    for value in y_axis.ticks():
        y = y_axis.pixel(value)
        parts.append(f'<line class="rule" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{y + 3.5:.1f}" text-anchor="end">{number(value)}</text>')
    for value in x_ticks:
        x = x_axis.pixel(value)
        parts.append(f'<text x="{x:.1f}" y="{HEIGHT - BOTTOM + 15}" text-anchor="middle">{number(value)}</text>')
    middle = (LEFT + WIDTH - RIGHT) / 2
    parts.append(f'<text x="{middle}" y="{HEIGHT - 4}" text-anchor="middle">{html.escape(x_label)}</text>')
    return "".join(parts)


def _line(index, series, x_axis, y_axis):
    pixels = [(x_axis.pixel(x), y_axis.pixel(y)) for x, y in _thinned(series)]
    if len(pixels) == 1:
        return f'<circle class="dot s{index}" cx="{pixels[0][0]:.1f}" cy="{pixels[0][1]:.1f}" r="3"/>'
    return f'<polyline class="line s{index}" points="{" ".join(f"{x:.1f},{y:.1f}" for x, y in pixels)}"/>'


def _thinned(series):
    """At most about `MOST_POINTS` points: of each stretch the lowest and the highest, so that peaks stay."""
    points = list(zip(series.x, series.y, strict=True))
    stretch = math.ceil(2 * len(points) / MOST_POINTS)
    if stretch <= 2:
        return points
    kept = {0, len(points) - 1}
    for start in range(0, len(points), stretch):
        rows = range(start, min(start + stretch, len(points)))
        kept |= {min(rows, key=lambda i: points[i][1]), max(rows, key=lambda i: points[i][1])}
    return [points[i] for i in sorted(kept)]


def _legend(series, last):
    if len(series) == 1:
        return f' <span class="last">{number(series[0].y[-1])}</span>' if last else ""
    keys = (f'<span class="key s{i}">{html.escape(s.name)}</span>' for i, s in enumerate(series))
    return f' <span class="legend">{"".join(keys)}</span>'


def number(value: float) -> str:
    """A number as short as four digits allow: `0.00123`, `12.3`, `5k`, `1.2M`; `infinite` where it is."""
    if math.isinf(value):
        return "infinite" if value > 0 else "-infinite"
    for limit, divisor, unit in ((1e9, 1e9, "G"), (1e6, 1e6, "M"), (1e4, 1e3, "k")):
        if abs(value) >= limit:
            return f"{value / divisor:.4g}{unit}"
    return f"{value:.4g}"
