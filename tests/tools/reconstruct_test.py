import json

import numpy as np
import pytest
from PIL import Image

from softvq_jax.data import crops
from softvq_jax.evaluate.reconstructor import Reconstructor
from softvq_jax.metrics import image_quality
from softvq_jax.pixels import to_uint8
from softvq_jax.tools import reconstruct
from softvq_jax.tools.command_line import exit_code
from tests import small_tokenizers as small
from tests.data import photographs

SIZES = [(32, 32), (40, 90), (200, 64), (17, 20), (33, 31)]


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    small.tokenizer(small.config("ae")).save_pretrained(folder)
    return folder


@pytest.fixture
def pictures(tmp_path):
    """Five photographs of different sizes and formats, one of them in a subfolder, and two files that are none."""
    folder = tmp_path / "pictures"
    (folder / "sub").mkdir(parents=True)
    for i, size in enumerate(SIZES):
        image, name = (
            Image.fromarray(photographs.pixels(i, *size)),
            ("a.png", "b.JPG", "c.bmp", "sub/a.png", "e.webp")[i],
        )
        (image.convert("L") if name == "c.bmp" else image).save(folder / name)
    (folder / "broken.jpg").write_bytes(b"not a picture")
    (folder / "notes.txt").write_text("no image")
    return folder


def run(*flags):
    return exit_code(reconstruct.main, reconstruct.parse_flags(["reconstruct", *map(str, flags)]))


def png(path):
    return np.asarray(Image.open(path))


def test_pictures_of_any_size(weights, pictures, tmp_path, capsys):
    out = tmp_path / "out"
    assert run("--from", weights, "--images", pictures, "--out", out, "--batch_size=2") == 0
    results = json.loads((out / "results.json").read_text())
    paths = sorted(map(str, pictures.rglob("*.*")))
    assert [row["image"] for row in results["images"]] == [p for p in paths if not p.endswith(("broken.jpg", ".txt"))]
    assert [row["name"] for row in results["images"]] == [
        "00000_a.png", "00001_b.png", "00002_c.png", "00003_e.png", "00004_a.png",
    ]  # fmt: skip
    assert len(results["unreadable"]) == 1 and "broken.jpg" in results["unreadable"][0]
    tokenizer = small.tokenizer(small.config("ae"))
    for row in results["images"]:
        original, ours = (png(out / kind / row["name"]) for kind in ("originals", "reconstructions"))
        with Image.open(row["image"]) as image:
            np.testing.assert_array_equal(original, crops.center_crop(image, small.SIZE))
        expected = tokenizer.reconstruct(np.float32(original[None]) / 127.5 - 1)
        assert (
            np.abs(ours - np.float32(to_uint8(np.asarray(expected))[0])).max() <= 1
        )  # one level, where rounding is close
        assert row["psnr"] == pytest.approx(-10 * np.log10(((original / 255 - ours / 255) ** 2).mean()))
        assert row["ssim_gauss"] == pytest.approx(image_quality.ssim(original[None], ours[None])[0])
    for name in ("psnr", "ssim_gauss"):
        assert results["mean"][name] == pytest.approx(np.mean([row[name] for row in results["images"]]))
    pairs = png(out / "pairs.png")
    assert pairs.shape == (2 * 32 + 2, 5 * 32 + 4 * 2, 3)
    np.testing.assert_array_equal(pairs[-32:, :32], png(out / "reconstructions" / "00000_a.png"))
    printed = capsys.readouterr()
    assert "mean of 5" in printed.out and "unreadable, skipped: " in printed.out and "broken.jpg" in printed.out
    assert "reconstructing: 6 of 6 images" in printed.err and "left" in printed.err


def test_files_and_patterns(weights, pictures, tmp_path):
    """Each picture once, in the order of the flags."""
    flags = (
        "--from",
        weights,
        "--images",
        pictures / "sub" / "a.png",
        "--images",
        pictures / "*.*",
        pictures / "a.png",
    )
    assert run(*flags, "--out", tmp_path / "out", "--batch_size=4") == 0
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert [row["name"] for row in results["images"]] == [
        "00000_a.png", "00001_a.png", "00002_b.png", "00003_c.png", "00004_e.png",
    ]  # fmt: skip
    assert len(results["unreadable"]) == 1 and "broken.jpg" in results["unreadable"][0]


def test_an_exact_reconstruction(pictures, tmp_path, weights, monkeypatch, capsys):
    """Its PSNR is infinite, which JSON cannot say."""
    monkeypatch.setattr(Reconstructor, "__call__", lambda self, images: (images, {}))
    assert run("--from", weights, "--images", pictures / "a.png", "--out", tmp_path / "out") == 0
    results = json.loads((tmp_path / "out" / "results.json").read_text(), parse_constant=pytest.fail)
    assert results["mean"] == {"psnr": None, "ssim_gauss": 1.0}
    assert "PSNR inf dB" in capsys.readouterr().out


def test_a_folder_that_is_not_empty_is_refused(weights, pictures, tmp_path, capsys):
    out = tmp_path / "out"
    out.mkdir()
    flags = ("--from", weights, "--images", pictures / "a.png", "--out", out)
    assert run(*flags) == 0  # an empty one will do
    before = {path: path.read_bytes() for path in out.rglob("*.*")}
    capsys.readouterr()
    assert run(*flags) == 1
    assert (
        capsys.readouterr().err
        == f"reconstruct: error: --out={out} exists and is not an empty folder: choose another, or remove it\n"
    )
    assert {path: path.read_bytes() for path in out.rglob("*.*")} == before


def test_bad_input_is_one_line_and_leaves_nothing(weights, pictures, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").touch()

    def says(message, *, weights=weights, images=pictures / "a.png", out=tmp_path / "out"):
        assert run("--from", weights, "--images", images, "--out", out) == 1
        printed = capsys.readouterr().err.splitlines()[-1]
        assert printed.startswith("reconstruct: error: ") and message in printed
        assert not (tmp_path / "out").exists()

    says("no image found at", images=tmp_path / "empty")
    says("no image found at", images=tmp_path / "gone.png")
    says("no image found at", images=pictures / "*.gif")
    says("none of the 1 images is readable", images=pictures / "broken.jpg")
    says("there is no file or folder", weights=tmp_path / "gone")
    says("has no config.json", weights=tmp_path / "empty")
    says("exists and is not an empty folder", out=tmp_path / "file")
    says("Not a directory", out=tmp_path / "file" / "out")


def test_flags(capsys):
    flags = reconstruct.parse_flags(["reconstruct", "--from=w", "--images", "a", "b", "--out=o"])
    assert flags.weights == "w" and flags.images == ["a", "b"]
    flags = reconstruct.parse_flags(["reconstruct", "--batch_size=2", "a", "b", "--out=o", "--images", "c"])
    assert flags.weights == "softvq-mini" and flags.images == ["a", "b", "c"]
    for wrong in (["--batch_size=0"], ["--btach_size=2"]):
        with pytest.raises(SystemExit):
            reconstruct.parse_flags(["reconstruct", "--from=w", "--images=a", "--out=o", *wrong])
    with pytest.raises(SystemExit):
        reconstruct.parse_flags(["reconstruct", "--from=w"])
    assert "no images were given" in capsys.readouterr().err
