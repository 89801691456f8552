import html.parser
import json
import shutil

import numpy as np
import pytest
from PIL import Image

from softvq_jax.report.run_files import read_run
from softvq_jax.report.run_page import build
from softvq_jax.tools import report as tool
from tests.report import example_run

VOID = {"meta", "img", "line", "circle", "polyline"}


class Page(html.parser.HTMLParser):
    """Checks that tags are closed in order, and keeps texts, attributes and headings."""

    def __init__(self, content):
        super().__init__()
        self.open, self.attributes, self.texts = [], [], []
        self.feed(content)
        assert not self.open

    def handle_starttag(self, tag, attributes):
        self.attributes.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_startendtag(self, tag, attributes):
        self.attributes.append((tag, dict(attributes)))

    def handle_data(self, data):
        self.texts.append(data)

    def of(self, tag):
        return [attributes for name, attributes in self.attributes if name == tag]


@pytest.fixture
def workdir(tmp_path):
    return example_run.write(tmp_path / "runs" / "tiny & <small>")


def test_the_page_stands_alone_and_is_well_formed(workdir):
    content = build(read_run(workdir))
    page = Page(content)
    assert page.of("html") == [{"lang": "en"}]
    for _, attributes in page.attributes:
        for name in ("src", "href", "srcset", "data", "action"):
            assert attributes.get(name, "#").startswith(("#", "data:image/"))
    assert not page.of("script") and not page.of("link") and "url(" not in content and "@import" not in content
    assert all(image["alt"] and image["width"] and image["height"] for image in page.of("img"))
    assert all(svg["role"] == "img" and svg["aria-labelledby"] in content for svg in page.of("svg"))
    assert "tiny & <small>" in page.texts  # escaped once, and so read as written


def test_everything_of_the_run_is_there(workdir):
    page = Page(build(read_run(workdir)))
    text = " ".join(page.texts)
    for expected in (
        "Reconstruction",
        "GAN generator",
        "PSNR",
        "model.num_latent_tokens",
        "Codebook use",
        "FID",
        "12.5",
    ):
        assert expected in text
    assert "Always 0: LeCam fake, LeCam real." in text
    assert "absent: KID with subsets of 1000 needs at least 1000 images" in text
    assert "samples: 84 images" in text and "0123abcd" in text
    titles = [attributes["alt"] for attributes in page.of("img")]
    assert titles[0].startswith("Reconstructions, step 400") and len(titles) == 4 + 3
    assert len(page.of("svg")) == 6 + 1  # logged values, `real` and `fake` together, and the codes


def test_the_worst_and_best_are_named(workdir):
    path = workdir / "evaluation" / "evaluation.json"
    worst = [
        {"index": 3, "image": "a/c & d.png", "psnr": 17.25},
        {"index": 0, "image": "image 0 of a/x.npz", "psnr": None},
    ]
    path.write_text(json.dumps(example_run.evaluation() | {"pictures": {"worst": worst}}))
    page = Page(build(read_run(workdir)))
    assert "The worst reconstructions, by PSNR: 17.25 dB (c & d.png; no. 3), equal (x.npz; no. 0)" in page.texts
    assert "The best reconstructions, by PSNR" in page.texts


def test_pictures_are_embedded_as_they_are(workdir):
    page = Page(build(read_run(workdir)))
    picture = next(image["src"] for image in page.of("img") if image["alt"].startswith("Reconstructions, step 400"))
    example_run.check_embedded(picture, workdir / "images" / "reconstructions_0000400.png")


def test_large_pictures_are_recompressed(workdir):
    noise = np.random.default_rng(0).integers(0, 256, (600, 2400, 3), dtype=np.uint8)
    Image.fromarray(noise).save(workdir / "images" / "reconstructions_0000500.png")
    page = Page(build(read_run(workdir)))
    image = next(image for image in page.of("img") if "step 500" in image["alt"])
    assert image["src"].startswith("data:image/webp") and (image["width"], image["height"]) == ("1800", "450")


def test_a_run_that_is_still_writing(workdir):
    with open(workdir / "metrics.jsonl", "a") as file:
        file.write('{"step": 500, "recon')
    assert "Reconstruction" in build(read_run(workdir))
    path = workdir / "metrics.jsonl"
    path.write_text("not json\n" + path.read_text())
    with pytest.raises(ValueError, match="line 1, is not JSON"):
        read_run(workdir)


def test_of_the_evaluations_made_during_training_the_last_is_shown(workdir):
    for step in (100, 400):
        folder = workdir / "evaluations" / f"step_{step:07d}"
        folder.mkdir(parents=True)
        report = example_run.evaluation() | {"metrics": {"fid": 1000.25 + step}}
        (folder / "evaluation.json").write_text(json.dumps(report))
    text = " ".join(Page(build(read_run(workdir))).texts)
    assert "1400.25" in text and "1100.25" not in text and "12.5" in text


def test_an_evaluation_alone_has_a_page(workdir, capsys):
    assert tool.main(tool.parse_flags(["report", "--workdir", str(workdir / "evaluation")])) == 0
    assert "report.html" in capsys.readouterr().out
    assert "12.5" in (workdir / "evaluation" / "report.html").read_text()


def test_of_a_study_the_runs_are_named(workdir, capsys):
    shutil.copytree(workdir, workdir.parent / "vq_64")
    (workdir.parent / "table.md").write_text("| VQ |")
    assert tool.main(tool.parse_flags(["report", "--workdir", str(workdir.parent)])) == 1
    said = capsys.readouterr().err
    assert "name tiny & <small> or vq_64 in it" in said and f"table is {workdir.parent / 'table.md'}" in said


def test_folders_without_a_run_are_refused(tmp_path, capsys):
    for folder, says in ((tmp_path, "neither config.json"), (tmp_path / "gone", "no folder")):
        assert tool.main(tool.parse_flags(["report", "--workdir", str(folder)])) == 1
        assert says in capsys.readouterr().err
    (tmp_path / "config.json").write_text(json.dumps({"task": "tokenizer"}))
    assert tool.main(tool.parse_flags(["report", "--workdir", str(tmp_path)])) == 0
