import re
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest

from softvq_jax.report.charts import MOST_POINTS, Axis, Series, line_chart, number


def _points(figure):
    tree = ElementTree.fromstring(figure)
    lines = [line.attrib["points"].split() for line in tree.iter("polyline")]
    return [np.array([[float(x) for x in point.split(",")] for point in line]) for line in lines]


def test_a_line_rises_where_its_values_do():
    [points] = _points(line_chart("loss", [Series("loss", [0, 10, 20], [1.0, 3.0, 2.0])]))
    assert (np.diff(points[:, 0]) > 0).all()
    assert points[1, 1] < points[2, 1] < points[0, 1]  # pixels count downwards
    np.testing.assert_allclose(points[2, 1], (points[0, 1] + points[1, 1]) / 2, atol=0.1)


def test_peaks_survive_thinning():
    values = np.zeros(100_000)
    values[54_321] = 1
    [points] = _points(line_chart("loss", [Series("loss", range(100_000), values)]))
    assert len(points) <= 1.1 * MOST_POINTS and points[:, 1].min() < 20 < points[:, 1].max()


def test_values_over_many_decades_get_a_logarithmic_axis():
    values = [1e3, 1e1, 1e-1]
    [points] = _points(line_chart("norm", [Series("norm", [0, 1, 2], values)]))
    np.testing.assert_allclose(points[1, 1], (points[0, 1] + points[2, 1]) / 2, atol=0.1)


def test_values_that_are_not_finite_are_left_out():
    [points] = _points(line_chart("loss", [Series("loss", range(5), [1, np.nan, 2, np.inf, 3])]))
    assert len(points) == 3
    assert "no finite values" in line_chart("loss", [Series("loss", [1], [np.nan])])


@pytest.mark.parametrize("values", [[5.0], [0.0, 0.0], [-3.0, -3.0]])
def test_constant_values_have_an_axis(values):
    figure = line_chart("rate", [Series("rate", range(len(values)), values)])
    assert "nan" not in figure and ElementTree.fromstring(figure) is not None


@pytest.mark.parametrize(
    ("low", "high"), [(0, 1), (0.05, 1.04), (-4.6, -3.9), (12_000, 12_900), (0, 3e5), (1e-9, 3e-9)]
)
def test_ticks_are_round_and_inside(low, high):
    ticks = Axis.around([low, high], 0, 100, log=False).ticks()
    assert 3 <= len(ticks) <= 6 and min(ticks) >= low - 1e-12 and max(ticks) <= high + 1e-12
    steps = np.diff(ticks)
    np.testing.assert_allclose(steps, steps[0])
    assert re.match(r"^(1|2|2\.5|5)e", f"{steps[0]:.6g}e") or float(f"{steps[0]:e}".split("e")[0]) in (1, 2, 2.5, 5)


def test_several_lines_have_a_legend_and_all_a_description():
    figure = line_chart("logits <1>", [Series("real", [0, 1], [1, 2]), Series("fake", [0, 1], [3, 4])])
    tree = ElementTree.fromstring(figure)
    assert [key.text for key in tree.iter("span") if key.attrib["class"].startswith("key")] == ["real", "fake"]
    assert "real from 1 to 2; fake from 3 to 4" in next(tree.iter("title")).text


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
