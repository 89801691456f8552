from xml.etree import ElementTree

import numpy as np
import pytest

from softvq_jax.report.charts import Series, finite, line_chart, new_figure, number, plot_lines

SVG = "{http://www.w3.org/2000/svg}"


def axes_of(*series, **options):
    axes = new_figure((4, 3)).add_subplot()
    plot_lines(axes, series, "step", **options)
    axes.figure.draw_without_rendering()
    return axes


def path_points(chart):
    """The points of each line in the SVG."""
    groups = [g for g in ElementTree.fromstring(chart.svg).iter(f"{SVG}g") if g.get("class", "").startswith("series")]
    paths = [group.find(f"{SVG}path").get("d") for group in groups]
    return [np.array(path.replace("M", "").replace("L", "").split(), float).reshape(-1, 2) for path in paths]


def test_lines_have_the_points_of_their_series():
    [points] = path_points(line_chart("loss", [Series("loss", [0, 10, 20], [1.0, 3.0, 2.0])]))
    assert (np.diff(points[:, 0]) > 0).all()
    assert points[1, 1] < points[2, 1] < points[0, 1]  # pixels count downwards
    np.testing.assert_allclose(points[2, 1], (points[0, 1] + points[1, 1]) / 2, atol=0.1)


def test_long_series_are_simplified_with_their_peaks():
    values = np.random.default_rng(0).normal(size=100_000)
    values[54_321] = 50
    chart = line_chart("loss", [Series("loss", range(100_000), values)])
    [points] = path_points(chart)
    assert len(chart.svg) < 60_000
    assert points[:, 1].min() < np.median(points[:, 1]) - 100  # the single peak, in points of 1/72 inch


def test_values_over_many_decades_get_a_logarithmic_axis():
    assert axes_of(Series("norm", [0, 1, 2], [1e3, 1e1, 1e-1])).get_yscale() == "log"
    assert axes_of(Series("norm", [0, 1, 2], [3.0, 1.0, 0.1])).get_yscale() == "linear"
    assert axes_of(Series("norm", [0, 1, 2], [1e3, 1e1, -1.0])).get_yscale() == "linear"


def test_a_logarithmic_x_axis_has_a_tick_for_every_x():
    axes = axes_of(Series("a", [8, 64], [1, 2]), Series("b", [8, 16], [1, 2]), log_x=True)
    assert [label.get_text() for label in axes.get_xticklabels()] == ["8", "16", "64"]


def test_values_that_are_not_finite_are_left_out():
    assert finite(Series("loss", range(5), [1, np.nan, 2, np.inf, 3])) == Series("loss", [0, 2, 4], [1, 2, 3])
    chart = line_chart("loss", [Series("loss", [1], [np.nan])])
    assert chart.svg == "" and "no finite values" in chart.alt


@pytest.mark.parametrize("values", [[5.0], [0.0, 0.0], [-3.0, -3.0]])
def test_constant_values_have_an_axis(values):
    chart = line_chart("rate", [Series("rate", range(len(values)), values)])
    assert "nan" not in chart.svg and ElementTree.fromstring(chart.svg) is not None
    assert ("<use" in chart.svg) == (len(values) == 1)  # a single point has a mark


def test_several_lines_have_a_legend_and_one_its_last_value():
    several = line_chart("logits", [Series("real", [0, 1], [1, 2]), Series("fake", [0, 1], [3, 4])])
    assert several.legend == [(0, "real"), (1, "fake")] and several.last == ""
    assert several.alt == "Line chart of logits: real from 1 to 2; fake from 3 to 4"
    one = line_chart("loss", [Series("loss", [0, 1], [1, 0.25])])
    assert one.legend == () and one.last == "0.25"


def test_an_inline_svg_scales_and_has_no_ids_or_styles_of_the_page():
    root = ElementTree.fromstring(line_chart("loss", [Series("loss", [0, 1], [1, 2])]).svg)
    assert root.get("viewBox") and root.get("width") is None and root.find(f".//{SVG}style") is None
    assert not [group for group in root.iter(f"{SVG}g") if group.get("id")]
    assert "step" in [text.text for text in root.iter(f"{SVG}text")]  # text, not outlines


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (0.00012345, "0.0001234"),
        (12.345, "12.35"),
        (9999, "9999"),
        (12_345, "12.35k"),
        (2e6, "2M"),
        (np.inf, "infinite"),
    ],
)
def test_numbers_are_short(value, text):
    assert number(value) == text
