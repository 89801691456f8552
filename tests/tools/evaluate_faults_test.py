"""`tools.evaluate` with wrong input, without weights, and interrupted."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from softvq_jax.evaluate.extractors import FeatureExtractor
from softvq_jax.tools import evaluation_inputs
from softvq_jax.weights import pretrained
from tests.tools.evaluations import report_in, run, save_folder

pytestmark = pytest.mark.usefixtures("small_inception")


def test_missing_weights_remove_only_their_metrics(tmp_path, images, monkeypatch, capsys):
    monkeypatch.setattr(evaluation_inputs, "load_inception", pretrained.load_inception)
    a, b = save_folder(tmp_path / "a", images[0]), save_folder(tmp_path / "b", images[1])
    gone = str(tmp_path / "gone.pth")
    flags = ("--reference", a, "--samples", b, "--inception", gone, "--lpips", gone, "--out", tmp_path / "o")
    assert run(*flags, "--protocol=softvq-rfid") == 0
    report, printed = report_in(tmp_path / "o"), capsys.readouterr()
    assert report["metrics"].keys() == {"psnr", "ssim_gauss", "ssim_uniform7", "ssim_uniform7_range2"}
    for text in (printed.err, printed.out):
        assert gone in text and "pt_inception-2015-12-05" in text and "PerceptualSimilarity" in text
    assert gone in report["absent"]["fid"] and "vgg16.tv_in1k" in report["absent"]["lpips"]
    assert run(*flags, "--protocol=adm") == 1  # nothing would be left
    assert "every metric of protocol adm needs it" in capsys.readouterr().err


def test_nan_distances_are_an_error(tmp_path, images, monkeypatch, capsys):
    class Broken:
        fingerprint = "0123"

        def __init__(self, *network, devices):
            pass

        def __call__(self, a, b):
            return np.where(np.arange(len(a)) == 3, np.nan, 0.5).astype(np.float32)

    monkeypatch.setattr(evaluation_inputs, "load_lpips", lambda names: (None, None))
    monkeypatch.setattr(evaluation_inputs, "PerceptualDistance", Broken)
    a, b = save_folder(tmp_path / "a", images[0]), save_folder(tmp_path / "b", images[1])
    flags = ("--reference", a, "--samples", b, "--protocol=softvq-rfid", "--lpips", "heads.pth")
    assert run(*flags, "--out", tmp_path / "o") == 1
    message = capsys.readouterr().err.splitlines()[-1]
    assert "b/003.png is not finite: the lpips weights (fingerprint 0123)" in message and "heads.pth" in message
    assert not (tmp_path / "o" / "evaluation.json").exists()


def test_an_interrupted_evaluation_resumes(tmp_path, images, monkeypatch, capsys):
    a, b, out = save_folder(tmp_path / "a", images[0]), save_folder(tmp_path / "b", images[1]), tmp_path / "out"
    flags = ("--reference", a, "--samples", b, "--inception=x", "--batch_size=8", "--out")
    run(*flags, tmp_path / "whole")
    digests, extract = 0, FeatureExtractor.__call__

    def interrupted(self, batch):
        nonlocal digests
        digests += 1
        if digests == 5:  # the second batch of the samples
            raise KeyboardInterrupt
        return extract(self, batch)

    monkeypatch.setattr(FeatureExtractor, "__call__", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(*flags, out)
    assert not (out / "evaluation.json").exists()
    assert run(*flags, out) == 0 and digests == 5 + 2  # what is left: two batches of the samples
    assert report_in(out)["metrics"] == report_in(tmp_path / "whole")["metrics"]


def test_bad_input_is_one_line(tmp_path, images, capsys):
    smooth, noisy = images
    a, b = save_folder(tmp_path / "a", smooth), save_folder(tmp_path / "b", noisy)
    np.savez(tmp_path / "float.npz", smooth / np.float32(255))
    np.savez(tmp_path / "one.npz", smooth[:1])
    mixed = save_folder(tmp_path / "mixed", [smooth[0], smooth[1, :20]])
    broken = tmp_path / "statistics.npz"
    np.savez(broken, mu=[0, np.nan], sigma=np.eye(2))

    def says(message, *flags):
        assert run("--reference", a, "--out", tmp_path / "o", *flags) == 1
        printed = capsys.readouterr().err.strip().splitlines()[-1]
        assert printed.startswith("evaluate: error: ") and message in printed

    same = ("--reference and --samples are both", "--inception=x", "--samples")
    says(*same, tmp_path / "b" / ".." / "a")
    says(*same, tmp_path / "a" / "*.png")
    says("--originals and --samples are both", "--originals", tmp_path / "b" / "*", "--samples", b)
    says("give --inception", "--samples", b)
    says("expected uint8 images", "--samples", tmp_path / "float.npz", "--inception=x")
    says("samples (", "--samples", tmp_path / "one.npz", "--inception=x")
    says("one.npz) is one image", "--samples", b, "--inception=x", "--reference", tmp_path / "one.npz")
    says("name a larger set", "--samples", b, "--inception=x", "--reference", tmp_path / "one.npz")
    says("statistics.npz: 1 numbers of mu are not", "--samples", b, "--inception=x", "--reference", broken)
    says("001.png is 20 x 32", "--samples", mixed, "--inception=x")
    says("no image found at", "--samples", tmp_path / "gone", "--inception=x")
    says("24 images and", "--samples", tmp_path / "one.npz", "--protocol=softvq-rfid")
    assert not (tmp_path / "o" / "evaluation.json").exists()


def test_results_of_another_set_are_not_mixed_in(tmp_path, images, capsys):
    a, b = save_folder(tmp_path / "a", images[0]), save_folder(tmp_path / "b", images[1])
    flags = ("--reference", a, "--inception=x", "--out", tmp_path / "o")
    assert run(*flags, "--samples", b) == 0
    np.savez(tmp_path / "c.npz", images[1])
    assert run(*flags, "--samples", tmp_path / "c.npz") == 1
    assert "is of another evaluation" in capsys.readouterr().err


def test_features_that_are_not_finite_stop_it(tmp_path, images, monkeypatch, capsys):
    a, b = save_folder(tmp_path / "a", images[0]), save_folder(tmp_path / "b", images[1])
    net, params = evaluation_inputs.load_inception("x")
    broken = jax.tree.map(lambda leaf: leaf * jnp.nan, params)
    monkeypatch.setattr(evaluation_inputs, "load_inception", lambda name: (net, broken))
    assert run("--reference", a, "--samples", b, "--inception=x", "--out", tmp_path / "o") == 1
    message = capsys.readouterr().err.splitlines()[-1]
    assert "measuring reference: " in message and "a/000.png is not finite" in message and "--inception=x" in message
