import html.parser
import itertools
import json
import shutil

import numpy as np
import pytest
from PIL import Image

from softvq_jax.report.run_files import read_run
from softvq_jax.report.run_page import build
from softvq_jax.tools import report as tool
from tests.report import example_run

VOID = {"meta", "img"}


class Page(html.parser.HTMLParser):
    """Checks that tags are closed in order; keeps texts, and tags with their attributes."""

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


def test_the_page_is_self_contained_and_well_formed(workdir):
    content = build(read_run(workdir))
    page = Page(content)
    assert page.of("html") == [{"lang": "en"}]
    for _, attributes in page.attributes:
        for name in ("src", "href", "xlink:href", "srcset", "data", "action"):
            assert attributes.get(name, "#").startswith(("#", "data:image/"))
    assert not page.of("script") and not page.of("link") and "url(" not in content and "@import" not in content
    assert all(image["alt"] and image["width"] and image["height"] for image in page.of("img"))
    alts = [attributes["aria-label"] for attributes in page.of("div") if attributes.get("role") == "img"]
    assert len(alts) == len(page.of("svg")) and all(alt.startswith("Line chart of ") for alt in alts)
    assert "tiny & <small>" in page.texts  # escaped once, and so read as written


def test_the_page_shows_how_well_the_chips_are_used(workdir):
    speed = {
        "images_per_second_per_chip": 103.0,
        "mfu": 0.384,
        "goodput": 0.913,
        "data_wait": 0.02,
        "device_memory_gib": 12.3,
    }
    with (workdir / "metrics.jsonl").open("a") as file:
        for step in (9001, 9002):
            file.write(json.dumps({"step": step, "learning_rate": 1e-4} | speed) + "\n")
    texts = [text.strip() for text in Page(build(read_run(workdir))).texts if text.strip()]
    cards = {("103", "images/s per chip"), ("38%", "MFU"), ("91%", "goodput")}
    assert cards <= set(itertools.pairwise(texts))
    assert {"MFU", "Goodput", "Data wait", "Device memory GiB", "Learning rate"} <= set(texts)  # curves


def test_the_page_has_all_parts_of_a_run(workdir):
    page = Page(build(read_run(workdir)))
    text = " ".join(page.texts)
    for expected in (
        "Reconstruction",
        "GAN generator",
        "PSNR",
        "model.num_latent_tokens",
        "Codebook usage",
        "FID",
        "12.5",
    ):
        assert expected in text
    assert "Always 0: LeCam fake, LeCam real." in text
    assert "Not measured: KID (KID with subsets of 1000 needs at least 1000 images" in text
    assert "samples: 84 images" in text and "0123abcd" in text
    titles = [attributes["alt"] for attributes in page.of("img")]
    assert titles[0].startswith("Reconstructions, step 400") and len(titles) == 4 + 3
    assert len(page.of("svg")) == 6 + 1  # logged values, `real` and `fake` together, and the codes


def test_held_out_and_training_metrics_have_different_titles(workdir):
    with open(workdir / "metrics.jsonl", "a") as file:
        file.write(json.dumps({"step": 400, "eval_codebook_usage": 0.25, "eval_psnr_raw": 21.0}) + "\n")
    texts = [text.strip() for text in Page(build(read_run(workdir))).texts]
    assert {"Held-out codebook usage", "Codebook usage, recent training steps", "Held-out PSNR"} <= set(texts)
    assert {"held-out PSNR", "held-out PSNR, weights of the step", "averaged weights", "weights of the step"} <= set(
        texts
    )


def test_files_of_older_versions_are_read(workdir):
    path = workdir / "metrics.jsonl"
    path.write_text(path.read_text().replace("codebook_usage", "codebook_use"))
    content = json.dumps(example_run.evaluation()).replace("codebook_usage", "code_use")
    (workdir / "evaluation" / "evaluation.json").write_text(
        content.replace('"description"', '"about"').replace('"normalization"', '"normalisation"')
    )
    texts = [text.strip() for text in Page(build(read_run(workdir))).texts]
    assert {"Codebook usage, recent training steps", "Codebook usage", "normalization"} <= set(texts)


def test_one_ssim_is_marked_as_the_one_to_quote(workdir):
    path = workdir / "evaluation" / "evaluation.json"
    metrics = {"ssim_gauss": 0.5, "ssim_uniform7": 0.6, "ssim_uniform7_range2": 0.7}
    path.write_text(json.dumps(example_run.evaluation() | {"metrics": metrics}))
    texts = Page(build(read_run(workdir))).texts
    assert texts.count("quote this one") == 1
    assert texts[texts.index("quote this one") - 1] == "SSIM, Gaussian 11 x 11"


def test_the_measured_images_are_shown_above_the_numbers(workdir):
    path = workdir / "evaluation" / "evaluation.json"
    evaluation = example_run.evaluation() | {"counts": {"samples": 64, "reference": 64}}
    evaluation["protocol"]["description"] = "rFID of 50,000 ImageNet images"
    path.write_text(json.dumps(evaluation))
    texts = Page(build(read_run(workdir))).texts
    assert "Measured on 64 samples and 64 reference images." in texts
    assert texts.index("rFID of 50,000 ImageNet images") > texts.index("What these numbers depend on")


def test_samples_of_a_generator_are_shown_under_samples(workdir):
    for path in (workdir / "images").iterdir():
        path.rename(path.with_name(path.name.replace("reconstructions", "samples")))
    page = Page(build(read_run(workdir)))
    assert "Samples" in page.texts and "Held-out images" not in page.texts
    assert page.of("img")[0]["alt"] == "Samples, step 400: a grid of generated images"


@pytest.mark.parametrize(
    ("model", "summary"),
    [
        (
            {"family": "sit", "num_tokens": 64, "channels": 32, "num_classes": 8},
            "sit, 64 tokens of 32 channels, 8 classes",
        ),
        (
            {"family": "maskgit", "num_tokens": 32, "codebook_size": 16, "num_classes": 8},
            "maskgit, 32 codes out of 16, 8 classes",
        ),
    ],
)
def test_the_summary_of_a_generator_names_its_family_and_data(workdir, model, summary):
    (workdir / "config.json").write_text(json.dumps({"task": "generator", "model": model}))
    assert f"generator, {summary}" in [text.strip() for text in Page(build(read_run(workdir))).texts]


def test_the_worst_and_best_reconstructions_are_named(workdir):
    path = workdir / "evaluation" / "evaluation.json"
    worst = [
        {"index": 3, "image": "a/c & d.png", "psnr": 17.25},
        {"index": 0, "image": "image 0 of a/x.npz", "psnr": None},
    ]
    path.write_text(json.dumps(example_run.evaluation() | {"pictures": {"worst": worst}}))
    page = Page(build(read_run(workdir)))
    assert "Worst reconstructions by PSNR: 17.25 dB (c & d.png, no. 3), identical (x.npz, no. 0)" in page.texts
    assert "Best reconstructions by PSNR" in page.texts


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
    with pytest.raises(ValueError, match="line 1, is not valid JSON"):
        read_run(workdir)


def test_only_the_last_evaluation_made_during_training_is_shown(workdir):
    for step in (100, 400):
        folder = workdir / "evaluations" / f"step_{step:07d}"
        folder.mkdir(parents=True)
        report = example_run.evaluation() | {"metrics": {"fid": 1000.25 + step}}
        (folder / "evaluation.json").write_text(json.dumps(report))
    text = " ".join(Page(build(read_run(workdir))).texts)
    assert "1400.25" in text and "1100.25" not in text and "12.5" in text


def test_an_evaluation_alone_has_a_page(workdir, capsys):
    tool.main(tool.parse_flags(["report", "--workdir", str(workdir / "evaluation")]))
    assert "report.html" in capsys.readouterr().out
    assert "12.5" in (workdir / "evaluation" / "report.html").read_text()


def test_the_folder_of_a_study_is_refused_with_the_names_of_its_runs(workdir):
    shutil.copytree(workdir, workdir.parent / "vq_64")
    (workdir.parent / "table.md").write_text("| VQ |")
    with pytest.raises(ValueError, match=r"holds 2: tiny & <small>, vq_64; the study's table is .*table\.md"):
        read_run(workdir.parent)


def test_folders_without_a_run_are_refused(tmp_path):
    for folder, message in ((tmp_path, r"has no config\.json"), (tmp_path / "gone", "must be an existing folder")):
        with pytest.raises(FileNotFoundError, match=message):
            read_run(folder)
    (tmp_path / "config.json").write_text(json.dumps({"task": "tokenizer"}))
    assert read_run(tmp_path).config == {"task": "tokenizer"}
