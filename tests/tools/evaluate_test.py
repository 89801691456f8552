"""`tools.evaluate` on two sets of images."""

import dataclasses
import json
import re

import numpy as np
import pytest
from PIL import Image

from softvq_jax.metrics import image_quality
from softvq_jax.metrics.fid import frechet_distance
from softvq_jax.tools import evaluate
from tests.tools.evaluations import SIZE, report_in, run, save_folder

pytestmark = pytest.mark.usefixtures("small_inception")


def test_two_folders(tmp_path, images, small_inception, capsys):
    smooth, noisy = images
    a, b, out = save_folder(tmp_path / "a", smooth), save_folder(tmp_path / "b", noisy), tmp_path / "out"
    flags = ("--reference", a, "--samples", b, "--protocol=torch-fidelity", "--inception=x", "--batch_size=5")
    assert run(*flags, "--out", out) == 0
    report = report_in(out)
    features = [np.float64(small_inception(x)["f2048"]) for x in images]
    statistics = [x for f in features for x in (f.mean(axis=0), np.cov(f, rowvar=False))]
    np.testing.assert_allclose(report["metrics"]["fid"], frechet_distance(*statistics), rtol=1e-4)
    assert report["metrics"].keys() == {"fid", "is_mean", "is_std", "precision", "recall", "f_score"}
    assert "needs at least 1000 images" in report["absent"]["kid"]
    assert report["counts"] == {"samples": 24, "reference": 24}
    assert (
        report["absent"]["sfid"] == "not part of protocol torch-fidelity; adm has it"
        and "lpips" not in report["absent"]
    )
    assert report["protocol"]["name"] == "torch-fidelity" and len(report["warnings"]) == 2
    assert all(report["fingerprints"].values()) and report["weights"]["inception"]
    printed = capsys.readouterr()
    assert "(torch-fidelity, 24 samples, 24 reference)" in printed.out and "covariance is singular" in printed.err
    assert f"inception {report['weights']['inception']}" in printed.out
    for said in (
        "10 splits of the rows, shuffled with seed 2020",
        "precision and recall: k = 3, all references",
        "KID: 100 subsets of 1,000, drawn with seed 2020",
        "reference none, 32 x 32 pixels",
        "default there is VGG16 fc2_relu",
    ):
        assert said in printed.out
    assert "computing precision and recall: 3 of 3 parts" in printed.err and "computing FID\n" in printed.err


def test_batch_size_order_and_container_do_not_matter(tmp_path, images):
    smooth, noisy = images
    a, b = save_folder(tmp_path / "a", smooth), save_folder(tmp_path / "b", noisy)
    np.savez(tmp_path / "b.npz", np.random.default_rng(1).permutation(noisy))
    fids, prints = [], set()
    for i, (samples, batch) in enumerate([(b, 1), (b, 7), (tmp_path / "b.npz", 24)]):
        run("--reference", a, "--samples", samples, "--inception=x", "--batch_size", batch, "--out", tmp_path / f"o{i}")
        report = report_in(tmp_path / f"o{i}")
        fids.append(report["metrics"]["fid"])
        prints.add(report["fingerprints"]["samples"])
    np.testing.assert_allclose(fids, fids[0], rtol=1e-6)
    assert len(prints) == 1


def test_statistics_give_the_same_fid_as_their_images(tmp_path, images, capsys):
    smooth, noisy = images
    a, b = save_folder(tmp_path / "a", smooth), save_folder(tmp_path / "b", noisy)
    run("--reference", a, "--samples", b, "--inception=x", "--out", tmp_path / "o1")
    run("--reference", tmp_path / "o1" / "reference.npz", "--samples", b, "--inception=x", "--out", tmp_path / "o2")
    first, second = report_in(tmp_path / "o1"), report_in(tmp_path / "o2")
    for name in ("fid", "sfid", "is_mean"):
        np.testing.assert_allclose(second["metrics"][name], first["metrics"][name], rtol=1e-12)
    assert "there are only statistics" in second["absent"]["precision_recall"]
    assert second["counts"] == {"samples": 24, "reference statistics": 24}
    assert "(adm, 24 samples, statistics of 24 reference images)" in capsys.readouterr().out


def test_images_and_statistics_in_one_file_are_distinguished(tmp_path, images, capsys):
    """ADM's reference batches: 10,000 images beside the statistics of many more."""
    smooth, noisy = images
    a, b = save_folder(tmp_path / "a", smooth), save_folder(tmp_path / "b", noisy)
    flags = ("--samples", b, "--inception=x")
    run("--reference", a, *flags, "--out", tmp_path / "whole")
    with np.load(tmp_path / "whole" / "reference.npz") as file:
        statistics = {name: file[name] for name in ("mu", "sigma", "mu_s", "sigma_s")}
    both, other, out = tmp_path / "both.npz", tmp_path / "other.npz", tmp_path / "o"
    np.savez(both, arr_0=smooth[:10], **statistics)
    np.savez(other, arr_0=smooth[:10], **statistics | {"sigma_s": 2 * statistics["sigma_s"]})
    capsys.readouterr()
    assert run("--reference", both, *flags, "--out", out) == 0
    report, printed = report_in(out), capsys.readouterr().out
    np.testing.assert_allclose(report["metrics"]["fid"], report_in(tmp_path / "whole")["metrics"]["fid"], rtol=1e-9)
    assert report["counts"] == {"samples": 24, "reference": 10, "reference statistics": None}
    for name, used in (
        ("FID", "24 samples, statistics of an unknown number of reference images"),
        ("Precision", "24 samples, 10 reference"),
        ("Inception score", "24 samples"),
    ):
        assert re.search(rf"^{name} +\S+  \(adm, {used}\)$", printed, re.MULTILINE)
    assert not any(
        line.startswith("reference") for line in report["warnings"]
    )  # computed from an unknown number of images
    assert not (out / "reference.npz").exists()  # those statistics were not measured
    prints = report["fingerprints"]
    assert prints["reference"].startswith("10-") and prints["reference statistics"] != prints["reference"]
    run("--reference", other, *flags, "--out", tmp_path / "p")
    assert report_in(tmp_path / "p")["fingerprints"]["reference statistics"] != prints["reference statistics"]


def test_the_references_that_were_drawn_are_counted(tmp_path, images, monkeypatch, capsys):
    a, b = (save_folder(tmp_path / name, x) for name, x in zip("ab", images, strict=True))
    fewer = dataclasses.replace(evaluate.PROTOCOLS["adm"], max_references=15)
    monkeypatch.setitem(evaluate.PROTOCOLS, "adm", fewer)
    run("--reference", a, "--samples", b, "--inception=x", "--out", tmp_path / "o")
    assert report_in(tmp_path / "o")["metric_counts"]["recall"] == {"samples": 24, "reference": 15}
    printed = capsys.readouterr().out
    assert "(adm, 24 samples, 15 of 24 reference)" in printed and "at most 15 references, drawn with seed" in printed


def test_the_distance_of_a_set_to_its_copy_is_zero(tmp_path, images):
    a, b = (save_folder(tmp_path / name, images[0]) for name in "ab")
    run("--reference", a, "--samples", b, "--inception=x", "--out", tmp_path / "o")
    report = report_in(tmp_path / "o")
    assert any("the same 24 images: distances between them are 0" in line for line in report["warnings"])
    metrics = report["metrics"]
    assert abs(metrics["fid"]) < 1e-4 and abs(metrics["sfid"]) < 1e-4 and metrics["precision"] == metrics["recall"] == 1


def test_pairs_are_measured_without_inception(tmp_path, images, capsys):
    smooth, noisy = images
    a, b, out = save_folder(tmp_path / "a", smooth), save_folder(tmp_path / "b", noisy), tmp_path / "out"
    assert run("--reference", a, "--samples", b, "--protocol=softvq-rfid", "--out", out) == 0
    report = report_in(out)
    np.testing.assert_allclose(report["metrics"]["psnr"], image_quality.psnr(smooth, noisy).mean())
    np.testing.assert_allclose(report["metrics"]["ssim_gauss"], image_quality.ssim(smooth, noisy).mean())
    printed = capsys.readouterr()
    assert report["absent"]["fid"].startswith("needs the Inception weights: --inception")
    assert report["absent"]["lpips"].startswith("needs --lpips: LPIPS' VGG16")
    assert "no FID: needs the Inception weights" in printed.out and "no LPIPS-VGG: needs --lpips" in printed.out
    assert report["warnings"] == [] and "covariance is singular" not in printed.out + printed.err
    worst = np.asarray(Image.open(out / "worst.png"))
    order = np.argsort(image_quality.psnr(smooth, noisy))
    np.testing.assert_array_equal(worst[:SIZE, :SIZE], smooth[order[0]])
    np.testing.assert_array_equal(worst[-SIZE:, :SIZE], noisy[order[0]])
    told = {"index": order[0], "image": str(a / f"{order[0]:03d}.png"), "psnr": image_quality.psnr(smooth, noisy).min()}
    assert report["pictures"]["worst"][0] == told


def test_equal_pairs_have_infinite_psnr_and_valid_json(tmp_path, images, capsys):
    smooth, noisy = images
    mixed = np.concatenate([smooth[:5], noisy[5:]])
    a, b = save_folder(tmp_path / "a", smooth), save_folder(tmp_path / "b", mixed)
    run("--reference", a, "--samples", b, "--protocol=softvq-rfid", "--out", tmp_path / "o")
    report = json.loads((tmp_path / "o" / "evaluation.json").read_text(), parse_constant=pytest.fail)
    assert report["metrics"]["psnr"] is None and report["metrics"]["equal_pairs"] == 5
    np.testing.assert_allclose(report["metrics"]["psnr_differing"], image_quality.psnr(smooth[5:], noisy[5:]).mean())
    assert report["absent"]["psnr"] == "infinite: 5 of 24 images equal their originals"
    assert "no PSNR (dB): infinite: 5 of 24" in capsys.readouterr().out


def test_different_image_sizes_give_a_warning(tmp_path, images, capsys):
    large = np.random.default_rng(2).integers(0, 256, (24, 48, 48, 3), dtype=np.uint8)
    a, b = save_folder(tmp_path / "a", large), save_folder(tmp_path / "b", images[1])
    assert run("--reference", a, "--samples", b, "--inception=x", "--out", tmp_path / "o") == 0
    printed = capsys.readouterr()
    assert "the images of the reference have 48 x 48 pixels, those of the samples 32 x 32" in printed.err
    assert any("48 x 48" in line for line in report_in(tmp_path / "o")["warnings"])
    assert "reference none, 48 x 48 pixels, samples none, 32 x 32 pixels" in printed.out
