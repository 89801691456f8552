import dataclasses
import io
import json
import re
import tarfile

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from PIL import Image

from softvq_jax import generator
from softvq_jax.evaluate.extractors import FeatureExtractor
from softvq_jax.evaluate.image_sampler import draw_labels
from softvq_jax.evaluate.image_sets import open_images
from softvq_jax.evaluate.row_cache import RowCache
from softvq_jax.latent_statistics import LatentStatistics
from softvq_jax.metrics import image_quality
from softvq_jax.metrics.fid import frechet_distance
from softvq_jax.models.dit import DiTConfig
from softvq_jax.models.functional import Functional
from softvq_jax.models.tokenizer import TokenizerConfig
from softvq_jax.models.vit import ViTConfig
from softvq_jax.pixels import to_uint8
from softvq_jax.tokenizer import Tokenizer, abstract_params
from softvq_jax.tools import evaluate, evaluation_inputs
from softvq_jax.tools.command_line import exit_code
from softvq_jax.weights import pretrained
from tests.small_inception import SmallInception

SIZE = 32


@pytest.fixture(autouse=True)
def small_inception(monkeypatch):
    net = Functional(SmallInception)
    params, _ = net.init(jax.random.key(0))
    monkeypatch.setattr(evaluation_inputs, "load_inception", lambda name: (net, params))
    return lambda images: nnx.merge(*nnx.split(net(params)))(images)


@pytest.fixture
def images():
    """Smooth pictures, and noisy copies of them."""
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (24, 4, 4, 3), dtype=np.uint8)
    smooth = np.stack([Image.fromarray(x).resize((SIZE, SIZE), Image.Resampling.BICUBIC) for x in coarse])
    noisy = np.clip(smooth + rng.normal(0, np.linspace(5, 25, 24)[:, None, None, None], smooth.shape), 0, 255)
    return smooth, noisy.astype(np.uint8)


def _folder(path, images):
    path.mkdir(parents=True)
    for i, image in enumerate(images):
        Image.fromarray(image).save(path / f"{i:03d}.png")
    return path


def _run(*flags):
    return exit_code(evaluate.main, evaluate.parse_flags(["evaluate", *map(str, flags)]))


def _report(out):
    return json.loads((out / "evaluation.json").read_text())


def test_two_folders(tmp_path, images, small_inception, capsys):
    smooth, noisy = images
    a, b, out = _folder(tmp_path / "a", smooth), _folder(tmp_path / "b", noisy), tmp_path / "out"
    flags = ("--reference", a, "--samples", b, "--protocol=torch-fidelity", "--inception=x", "--batch_size=5")
    assert _run(*flags, "--out", out) == 0
    report = _report(out)
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
    a, b = _folder(tmp_path / "a", smooth), _folder(tmp_path / "b", noisy)
    np.savez(tmp_path / "b.npz", np.random.default_rng(1).permutation(noisy))
    fids, prints = [], set()
    for i, (samples, batch) in enumerate([(b, 1), (b, 7), (tmp_path / "b.npz", 24)]):
        _run(
            "--reference", a, "--samples", samples, "--inception=x", "--batch_size", batch, "--out", tmp_path / f"o{i}"
        )
        report = _report(tmp_path / f"o{i}")
        fids.append(report["metrics"]["fid"])
        prints.add(report["fingerprints"]["samples"])
    np.testing.assert_allclose(fids, fids[0], rtol=1e-6)
    assert len(prints) == 1


def test_statistics_give_the_same_fid_as_their_images(tmp_path, images, capsys):
    smooth, noisy = images
    a, b = _folder(tmp_path / "a", smooth), _folder(tmp_path / "b", noisy)
    _run("--reference", a, "--samples", b, "--inception=x", "--out", tmp_path / "o1")
    _run("--reference", tmp_path / "o1" / "reference.npz", "--samples", b, "--inception=x", "--out", tmp_path / "o2")
    first, second = _report(tmp_path / "o1"), _report(tmp_path / "o2")
    for name in ("fid", "sfid", "is_mean"):
        np.testing.assert_allclose(second["metrics"][name], first["metrics"][name], rtol=1e-12)
    assert "there are only statistics" in second["absent"]["precision_recall"]
    assert second["counts"] == {"samples": 24, "reference statistics": 24}
    assert "(adm, 24 samples, statistics of 24 reference images)" in capsys.readouterr().out


def test_images_and_statistics_in_one_file_are_distinguished(tmp_path, images, capsys):
    """ADM's reference batches: 10,000 images beside the statistics of many more."""
    smooth, noisy = images
    a, b = _folder(tmp_path / "a", smooth), _folder(tmp_path / "b", noisy)
    flags = ("--samples", b, "--inception=x")
    _run("--reference", a, *flags, "--out", tmp_path / "whole")
    with np.load(tmp_path / "whole" / "reference.npz") as file:
        statistics = {name: file[name] for name in ("mu", "sigma", "mu_s", "sigma_s")}
    both, other, out = tmp_path / "both.npz", tmp_path / "other.npz", tmp_path / "o"
    np.savez(both, arr_0=smooth[:10], **statistics)
    np.savez(other, arr_0=smooth[:10], **statistics | {"sigma_s": 2 * statistics["sigma_s"]})
    capsys.readouterr()
    assert _run("--reference", both, *flags, "--out", out) == 0
    report, printed = _report(out), capsys.readouterr().out
    np.testing.assert_allclose(report["metrics"]["fid"], _report(tmp_path / "whole")["metrics"]["fid"], rtol=1e-9)
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
    _run("--reference", other, *flags, "--out", tmp_path / "p")
    assert _report(tmp_path / "p")["fingerprints"]["reference statistics"] != prints["reference statistics"]


def test_the_references_that_were_drawn_are_counted(tmp_path, images, monkeypatch, capsys):
    a, b = (_folder(tmp_path / name, x) for name, x in zip("ab", images, strict=True))
    fewer = dataclasses.replace(evaluate.PROTOCOLS["adm"], max_references=15)
    monkeypatch.setitem(evaluate.PROTOCOLS, "adm", fewer)
    _run("--reference", a, "--samples", b, "--inception=x", "--out", tmp_path / "o")
    assert _report(tmp_path / "o")["metric_counts"]["recall"] == {"samples": 24, "reference": 15}
    printed = capsys.readouterr().out
    assert "(adm, 24 samples, 15 of 24 reference)" in printed and "at most 15 references, drawn with seed" in printed


def test_the_distance_of_a_set_to_its_copy_is_zero(tmp_path, images):
    a, b = (_folder(tmp_path / name, images[0]) for name in "ab")
    _run("--reference", a, "--samples", b, "--inception=x", "--out", tmp_path / "o")
    report = _report(tmp_path / "o")
    assert any("the same 24 images: distances between them are 0" in line for line in report["warnings"])
    metrics = report["metrics"]
    assert abs(metrics["fid"]) < 1e-4 and abs(metrics["sfid"]) < 1e-4 and metrics["precision"] == metrics["recall"] == 1


def test_pairs_are_measured_without_inception(tmp_path, images, capsys):
    smooth, noisy = images
    a, b, out = _folder(tmp_path / "a", smooth), _folder(tmp_path / "b", noisy), tmp_path / "out"
    assert _run("--reference", a, "--samples", b, "--protocol=softvq-rfid", "--out", out) == 0
    report = _report(out)
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


def test_missing_weights_remove_only_their_metrics(tmp_path, images, monkeypatch, capsys):
    monkeypatch.setattr(evaluation_inputs, "load_inception", pretrained.load_inception)
    a, b = _folder(tmp_path / "a", images[0]), _folder(tmp_path / "b", images[1])
    gone = str(tmp_path / "gone.pth")
    flags = ("--reference", a, "--samples", b, "--inception", gone, "--lpips", gone, "--out", tmp_path / "o")
    assert _run(*flags, "--protocol=softvq-rfid") == 0
    report, printed = _report(tmp_path / "o"), capsys.readouterr()
    assert report["metrics"].keys() == {"psnr", "ssim_gauss", "ssim_uniform7", "ssim_uniform7_range2"}
    for text in (printed.err, printed.out):
        assert gone in text and "pt_inception-2015-12-05" in text and "PerceptualSimilarity" in text
    assert gone in report["absent"]["fid"] and "vgg16.tv_in1k" in report["absent"]["lpips"]
    assert _run(*flags, "--protocol=adm") == 1  # nothing would be left
    assert "every metric of protocol adm needs it" in capsys.readouterr().err


def test_equal_pairs_have_infinite_psnr_and_valid_json(tmp_path, images, capsys):
    smooth, noisy = images
    mixed = np.concatenate([smooth[:5], noisy[5:]])
    a, b = _folder(tmp_path / "a", smooth), _folder(tmp_path / "b", mixed)
    _run("--reference", a, "--samples", b, "--protocol=softvq-rfid", "--out", tmp_path / "o")
    report = json.loads((tmp_path / "o" / "evaluation.json").read_text(), parse_constant=pytest.fail)
    assert report["metrics"]["psnr"] is None and report["metrics"]["equal_pairs"] == 5
    np.testing.assert_allclose(report["metrics"]["psnr_differing"], image_quality.psnr(smooth[5:], noisy[5:]).mean())
    assert report["absent"]["psnr"] == "infinite: 5 of 24 images equal their originals"
    assert "no PSNR (dB): infinite: 5 of 24" in capsys.readouterr().out


def test_nan_distances_are_an_error(tmp_path, images, monkeypatch, capsys):
    class Broken:
        fingerprint = "0123"

        def __init__(self, *network, devices):
            pass

        def __call__(self, a, b):
            return np.where(np.arange(len(a)) == 3, np.nan, 0.5).astype(np.float32)

    monkeypatch.setattr(evaluation_inputs, "load_lpips", lambda names: (None, None))
    monkeypatch.setattr(evaluation_inputs, "PerceptualDistance", Broken)
    a, b = _folder(tmp_path / "a", images[0]), _folder(tmp_path / "b", images[1])
    flags = ("--reference", a, "--samples", b, "--protocol=softvq-rfid", "--lpips", "heads.pth")
    assert _run(*flags, "--out", tmp_path / "o") == 1
    message = capsys.readouterr().err.splitlines()[-1]
    assert "b/003.png is not finite: the lpips weights (fingerprint 0123)" in message and "heads.pth" in message
    assert not (tmp_path / "o" / "evaluation.json").exists()


def test_different_image_sizes_give_a_warning(tmp_path, images, capsys):
    large = np.random.default_rng(2).integers(0, 256, (24, 48, 48, 3), dtype=np.uint8)
    a, b = _folder(tmp_path / "a", large), _folder(tmp_path / "b", images[1])
    assert _run("--reference", a, "--samples", b, "--inception=x", "--out", tmp_path / "o") == 0
    printed = capsys.readouterr()
    assert "the images of the reference have 48 x 48 pixels, those of the samples 32 x 32" in printed.err
    assert any("48 x 48" in line for line in _report(tmp_path / "o")["warnings"])
    assert "reference none, 48 x 48 pixels, samples none, 32 x 32 pixels" in printed.out


@pytest.fixture
def tokenizer():
    vit = ViTConfig(width=32, depth=1, num_heads=2, patch_size=8)
    config = TokenizerConfig(
        vit, vit, image_size=SIZE, num_latent_tokens=4, latent_dim=3, codebook_size=16, num_codebooks=2
    )
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda leaf: 0.1 * rng.normal(size=leaf.shape).astype(np.float32), abstract_params(config))
    return Tokenizer(config, params)


def test_a_tokenizer_on_a_folder_of_any_size(tmp_path, tokenizer):
    photographs = np.random.default_rng(0).integers(0, 256, (9, 70, 90, 3), dtype=np.uint8)
    a, out = _folder(tmp_path / "a" / "class", photographs).parent, tmp_path / "out"
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    flags = ("--tokenizer", tmp_path / "tokenizer", "--reference", a, "--protocol=softvq-rfid", "--inception=x")
    assert _run(*flags, "--out", out) == 0
    report = _report(out)
    metrics = report["metrics"]
    assert {
        "fid",
        "sfid",
        "is_mean",
        "psnr",
        "codebook_usage",
        "perplexity",
        "latent_mean",
        "latent_std",
    } <= metrics.keys()
    assert report["crop"] == {"reference": "ADM center crop to 32", "samples": "ADM center crop to 32"}

    originals = np.stack([open_images(str(a), SIZE).read(i, i + 1)[0] for i in range(9)])
    x = originals.astype(np.float32) / 127.5 - 1
    expected = image_quality.psnr(originals, to_uint8(np.asarray(tokenizer.reconstruct(x)))).mean()
    np.testing.assert_allclose(metrics["psnr"], expected, rtol=1e-4)
    latents = np.float64(tokenizer.encode(x))
    np.testing.assert_allclose(
        [metrics["latent_mean"], metrics["latent_std"]], [latents.mean(), latents.std()], rtol=1e-4
    )
    assert 0 < metrics["codebook_usage"] <= 1 and 1 <= metrics["perplexity"] <= 16
    assert report["compute"]["tokenizer"] == "float32"


def test_a_tokenizer_on_a_training_source(tmp_path, tokenizer, capsys):
    photographs = np.random.default_rng(0).integers(0, 256, (5, 40, 50, 3), dtype=np.uint8)
    files = sorted(_folder(tmp_path / "a", photographs).iterdir())
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    with tarfile.open(tmp_path / "train.tar", "w") as shard:
        for i, path in enumerate(files):
            shard.add(path, f"{i:03d}.png")
            label = tarfile.TarInfo(f"{i:03d}.cls")
            label.size = 1
            shard.addfile(label, io.BytesIO(b"0"))
    flags = ("--tokenizer", tmp_path / "tokenizer", "--protocol=softvq-rfid")
    assert _run(*flags, "--reference", tmp_path / "a", "--out", tmp_path / "files") == 0
    tar = (*flags, "--reference", tmp_path / "train.tar", "--data_source=tar")
    assert _run(*tar, "--out", tmp_path / "tar") == 0
    assert _report(tmp_path / "tar")["metrics"] == _report(tmp_path / "files")["metrics"]
    files[3].write_bytes(files[3].read_bytes()[:200])
    for source in ((), ("--data_source=folder",)):
        assert _run(*flags, "--reference", tmp_path / "a", *source, "--out", tmp_path / f"bad{len(source)}") == 0
        shown = capsys.readouterr().out
        assert "4 samples" in shown and "1 of 5 images of samples are unreadable and left out" in shown
    files[3].unlink()
    assert _run(*flags, "--reference", tmp_path / "a", "--out", tmp_path / "without") == 0
    without = _report(tmp_path / "without")
    for folder in ("bad0", "bad1"):
        report = _report(tmp_path / folder)
        assert report["metrics"] == without["metrics"] and report["counts"] == without["counts"]
        assert report["fingerprints"] == without["fingerprints"]
        assert [str(files[3]) in line for line in report["unreadable"]["samples"]] == [True]
        assert [item["index"] for item in report["pictures"]["worst"]].count(3) == 0


def test_an_interrupted_evaluation_resumes(tmp_path, images, monkeypatch, capsys):
    a, b, out = _folder(tmp_path / "a", images[0]), _folder(tmp_path / "b", images[1]), tmp_path / "out"
    flags = ("--reference", a, "--samples", b, "--inception=x", "--batch_size=8", "--out")
    _run(*flags, tmp_path / "whole")
    digests, extract = 0, FeatureExtractor.__call__

    def interrupted(self, batch):
        nonlocal digests
        digests += 1
        if digests == 5:  # the second batch of the samples
            raise KeyboardInterrupt
        return extract(self, batch)

    monkeypatch.setattr(FeatureExtractor, "__call__", interrupted)
    with pytest.raises(KeyboardInterrupt):
        _run(*flags, out)
    assert not (out / "evaluation.json").exists()
    assert _run(*flags, out) == 0 and digests == 5 + 2  # what is left: two batches of the samples
    assert _report(out)["metrics"] == _report(tmp_path / "whole")["metrics"]


def test_bad_input_is_one_line(tmp_path, images, capsys):
    smooth, noisy = images
    a, b = _folder(tmp_path / "a", smooth), _folder(tmp_path / "b", noisy)
    np.savez(tmp_path / "float.npz", smooth / np.float32(255))
    np.savez(tmp_path / "one.npz", smooth[:1])
    mixed = _folder(tmp_path / "mixed", [smooth[0], smooth[1, :20]])
    broken = tmp_path / "statistics.npz"
    np.savez(broken, mu=[0, np.nan], sigma=np.eye(2))

    def says(message, *flags):
        assert _run("--reference", a, "--out", tmp_path / "o", *flags) == 1
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
    a, b = _folder(tmp_path / "a", images[0]), _folder(tmp_path / "b", images[1])
    flags = ("--reference", a, "--inception=x", "--out", tmp_path / "o")
    assert _run(*flags, "--samples", b) == 0
    np.savez(tmp_path / "c.npz", images[1])
    assert _run(*flags, "--samples", tmp_path / "c.npz") == 1
    assert "is of another evaluation" in capsys.readouterr().err


def test_features_that_are_not_finite_stop_it(tmp_path, images, monkeypatch, capsys):
    a, b = _folder(tmp_path / "a", images[0]), _folder(tmp_path / "b", images[1])
    net, params = evaluation_inputs.load_inception("x")
    broken = jax.tree.map(lambda leaf: leaf * jnp.nan, params)
    monkeypatch.setattr(evaluation_inputs, "load_inception", lambda name: (net, broken))
    assert _run("--reference", a, "--samples", b, "--inception=x", "--out", tmp_path / "o") == 1
    message = capsys.readouterr().err.splitlines()[-1]
    assert "measuring reference: " in message and "a/000.png is not finite" in message and "--inception=x" in message


@pytest.mark.slow
def test_a_generator_is_sampled_on_the_fly(tmp_path, images, tokenizer, capsys):
    config = DiTConfig(num_tokens=4, channels=3, width=32, depth=1, num_heads=2, num_classes=5)
    rng = np.random.default_rng(0)
    shapes = generator.abstract_params(config)
    params = jax.tree.map(lambda leaf: 0.1 * rng.normal(size=leaf.shape).astype(np.float32), shapes)
    sit = generator.Generator(config, params, LatentStatistics(0.0, 1.0))
    sit.save_pretrained(tmp_path / "sit")
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    a = _folder(tmp_path / "a", images[0])
    flags = ("--reference", a, "--generator", tmp_path / "sit", "--tokenizer", tmp_path / "tokenizer", "--inception=x")
    flags += ("--num=10", "--labels=balanced", "--steps=3", "--guidance=2", "--guidance_high=0.5", "--seed=1")
    for batch in (4, 10):
        assert _run(*flags, "--batch_size", batch, "--out", tmp_path / str(batch)) == 0
    first, second = _report(tmp_path / "4"), _report(tmp_path / "10")
    records = tmp_path / "10" / "samples" / "records.json"
    np.testing.assert_allclose(first["metrics"]["fid"], second["metrics"]["fid"], rtol=1e-3)
    assert first["sampling"]["labels"] == "balanced" and first["weights"].keys() == {
        "inception",
        "generator",
        "tokenizer",
    }
    assert "labels balanced, seed 1" in capsys.readouterr().out
    latents = RowCache(tmp_path / "10" / "samples", json.loads(records.read_text())["about"])["latents"]
    np.testing.assert_allclose(second["metrics"]["latent_std"], np.float64(latents).std(), rtol=1e-6)
    assert latents.shape == (10, 4, 3) and len(np.unique(latents)) > 100
    # The same command goes on from what is there, which is everything.
    assert _run(*flags, "--batch_size=4", "--out", tmp_path / "4") == 0
    assert (
        _run(*flags[:4], "--inception=x", "--out", tmp_path / "4", "--tokenizer", tmp_path / "tokenizer", "--num=4")
        == 1
    )


def test_labels_of_samples():
    balanced = draw_labels("balanced", 50, 10, seed=0)
    assert balanced.dtype == np.int32 and (np.bincount(balanced) == 5).all() and (np.diff(balanced) < 0).any()
    uniform = draw_labels("uniform", 5000, 10, seed=0)
    assert np.bincount(uniform, minlength=10).min() > 400 and len(set(np.bincount(uniform))) > 1
    with pytest.raises(ValueError, match="labels are 'random'"):
        draw_labels("random", 5, 10, seed=0)
