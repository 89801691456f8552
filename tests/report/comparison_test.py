import json
import shutil
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from softvq_jax.report import comparison, image_grid
from softvq_jax.report.run_files import read_run
from softvq_jax.tools import compare
from tests.report import example_run
from tests.report.charts_test import SVG
from tests.report.run_page_test import Page

SIZE = 4


@pytest.fixture
def workdirs(tmp_path):
    """Two runs with the same held-out images, three in a row of two, and different configs."""
    rng = np.random.default_rng(0)
    originals = rng.integers(0, 256, (3, SIZE, SIZE, 3), np.uint8)
    folders = []
    for number, name in enumerate(("first", "second")):
        folder = example_run.write(tmp_path / name)
        for picture in (folder / "images").iterdir():
            picture.unlink()
        rows = [originals, np.full_like(originals, 50 * number)]
        Image.fromarray(image_grid.rows_grid(rows, per_line=2)).save(
            folder / f"images/reconstructions_{400 + number}.png"
        )
        config = {"task": "tokenizer", "seed": number, "model": {"image_size": SIZE, "latent_dim": 16}}
        (folder / "config.json").write_text(json.dumps(config | ({"own": 1} if number else {})))
        folders.append(folder)
    return folders


def page_of(folders) -> tuple[Page, str]:
    content = comparison.build([(folder.name, read_run(folder)) for folder in folders])
    return Page(content), content


def embedded(page, caption) -> dict:
    return next(image for image in page.of("img") if image["alt"] == caption)


def test_the_page_is_self_contained_and_has_every_section(workdirs):
    page, _ = page_of(workdirs)
    for _, attributes in page.attributes:
        for name in ("src", "href", "xlink:href"):
            assert attributes.get(name, "#").startswith(("#", "data:image/"))
    assert {"Overview", "Config", "Curves", "The same images", "Evaluation"} <= set(page.texts)
    ids = {attributes.get("id") for attributes in page.of("section")}
    assert {link["href"].removeprefix("#") for link in page.of("a")} == ids


def test_only_config_fields_that_differ_are_listed(workdirs):
    runs = [(folder.name, read_run(folder)) for folder in workdirs]
    differing, partly, equal = comparison.config_differences(runs)
    assert (differing.rows, partly.rows, equal) == ([("seed", "0", "1")], [("own", "-", "1")], 3)


def test_a_run_has_the_same_color_in_every_chart(workdirs):
    with open(workdirs[1] / "metrics.jsonl", "a") as file:
        file.write(json.dumps({"step": 401, "eval_codebook_usage": 0.5}) + "\n")
    groups = dict(comparison.curves([(folder.name, read_run(folder)) for folder in workdirs]))
    both = next(chart for chart in groups["Losses"] if chart.title == "Reconstruction")
    one = next(chart for chart in groups["Held-out"] if chart.title == "Held-out codebook usage")
    assert both.legend == [(0, "first"), (1, "second")] and one.legend == [(1, "second")]
    lines = ElementTree.fromstring(one.svg).iter(f"{SVG}g")
    assert [group.get("class") for group in lines if group.get("class")] == ["series1"]


def test_originals_are_shown_once_above_the_images_of_each_run(workdirs, tmp_path):
    page, _ = page_of(workdirs)
    for number, name in enumerate(("first", "second")):
        source = embedded(page, f"reconstructions by {name}, step {400 + number}")["src"]
        expected = np.full((3, SIZE, SIZE, 3), 50 * number, np.uint8)
        padding = np.full((1, SIZE, SIZE, 3), 255, np.uint8)
        image_grid.save_png(tmp_path / "expected.png", image_grid.grid(np.concatenate([expected, padding]), 2))
        example_run.check_embedded(source, tmp_path / "expected.png")
    assert [image["alt"] for image in page.of("img")].count("held-out originals") == 1


def test_different_originals_are_noted(workdirs):
    rows = [np.zeros((3, SIZE, SIZE, 3), np.uint8)] * 2
    image_grid.save_png(workdirs[1] / "images/reconstructions_401.png", image_grid.rows_grid(rows, per_line=2))
    page, content = page_of(workdirs)
    assert "The runs show different originals" in content
    assert "held-out originals" not in [image["alt"] for image in page.of("img")]


def test_evaluations_of_other_images_are_marked(workdirs):
    _, content = page_of(workdirs)
    assert "cannot be compared" not in content
    path = workdirs[1] / "evaluation" / "evaluation.json"
    path.write_text(json.dumps(example_run.evaluation() | {"counts": {"samples": 9, "reference": None}}))
    page, content = page_of(workdirs)
    assert "cannot be compared" in content and "counts.samples: 84 (first), 9 (second)" in page.texts


def test_the_same_reconstructions_of_evaluations_are_shown(workdirs):
    originals = np.stack([np.full((SIZE, SIZE, 3), index, np.uint8) for index in range(4)])
    worst = {"first": [2, 0], "second": [3, 2]}
    for folder in workdirs:
        shown = originals[worst[folder.name]]
        image_grid.save_png(folder / "evaluation/worst.png", image_grid.pairs_grid(shown, shown + 100))
        pictures = {"worst": [{"index": index, "image": str(index), "psnr": 1.0} for index in worst[folder.name]]}
        content = example_run.evaluation() | {"pictures": pictures, "sizes": {"samples": [SIZE, SIZE]}}
        (folder / "evaluation" / "evaluation.json").write_text(json.dumps(content))
    page, _ = page_of([workdirs[0] / "evaluation", workdirs[1]])
    image_grid.save_png(workdirs[0] / "expected.png", originals[2] + 100)
    example_run.check_embedded(embedded(page, "second")["src"], workdirs[0] / "expected.png")


def test_the_command_names_folders_apart_and_refuses_one(workdirs, tmp_path, capsys):
    other = tmp_path / "other" / "first"
    shutil.copytree(workdirs[0], other)
    out = tmp_path / "page.html"
    compare.main(compare.parse_flags(["compare", str(workdirs[0]), str(other), f"--out={out}"]))
    printed = capsys.readouterr().out
    assert "config fields differ" not in printed and f"{out}: " in printed
    assert "other/first" in Page(out.read_text()).texts
    with pytest.raises(ValueError, match="expected 2 to 8"):
        compare.main(compare.parse_flags(["compare", str(workdirs[0])]))
    with pytest.raises(ValueError, match="two of the folders are the same"):
        compare.main(compare.parse_flags(["compare", str(other), str(other)]))
    with pytest.raises(FileNotFoundError, match="FOLDER must be an existing folder"):
        compare.main(compare.parse_flags(["compare", str(other), str(tmp_path / "gone")]))
