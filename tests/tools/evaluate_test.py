import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from PIL import Image

from softvq_jax import generator
from softvq_jax.evaluate import pixel
from softvq_jax.evaluate.features import FeatureExtractor
from softvq_jax.evaluate.fid import frechet_distance
from softvq_jax.evaluate.generation import draw_labels
from softvq_jax.evaluate.images import open_images
from softvq_jax.models.dit import DiTConfig
from softvq_jax.models.functional import Functional
from softvq_jax.models.tokenizer import TokenizerConfig
from softvq_jax.models.vit import ViTConfig
from softvq_jax.statistics import LatentStatistics
from softvq_jax.tokenizer import Tokenizer, abstract_params
from softvq_jax.tools import evaluate, evaluation_inputs
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
    return evaluate.main(evaluate.parse_flags(["evaluate", *map(str, flags)]))


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
    assert report["protocol"]["name"] == "torch-fidelity" and len(report["warnings"]) == 2
    assert all(report["fingerprints"].values()) and report["weights"]["inception"]
    printed = capsys.readouterr()
    assert "(torch-fidelity, 24 samples, 24 reference)" in printed.out and "covariance is singular" in printed.err
    assert f"inception {report['weights']['inception']}" in printed.out


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


def test_statistics_stand_for_their_images(tmp_path, images):
    smooth, noisy = images
    a, b = _folder(tmp_path / "a", smooth), _folder(tmp_path / "b", noisy)
    _run("--reference", a, "--samples", b, "--inception=x", "--out", tmp_path / "o1")
    _run("--reference", tmp_path / "o1" / "reference.npz", "--samples", b, "--inception=x", "--out", tmp_path / "o2")
    first, second = _report(tmp_path / "o1"), _report(tmp_path / "o2")
    for name in ("fid", "sfid", "is_mean"):
        np.testing.assert_allclose(second["metrics"][name], first["metrics"][name], rtol=1e-12)
    assert "there are only statistics" in second["absent"]["precision_recall"]
    assert second["counts"]["reference"] == 24


def test_a_set_is_at_no_distance_from_its_copy(tmp_path, images):
    a, b = (_folder(tmp_path / name, images[0]) for name in "ab")
    _run("--reference", a, "--samples", b, "--inception=x", "--out", tmp_path / "o")
    metrics = _report(tmp_path / "o")["metrics"]
    assert abs(metrics["fid"]) < 1e-4 and abs(metrics["sfid"]) < 1e-4 and metrics["precision"] == metrics["recall"] == 1


def test_pairs_are_measured_without_inception(tmp_path, images, capsys):
    smooth, noisy = images
    a, b, out = _folder(tmp_path / "a", smooth), _folder(tmp_path / "b", noisy), tmp_path / "out"
    assert _run("--reference", a, "--samples", b, "--protocol=softvq-rfid", "--out", out) == 0
    report = _report(out)
    np.testing.assert_allclose(report["metrics"]["psnr"], pixel.psnr(smooth, noisy).mean())
    np.testing.assert_allclose(report["metrics"]["ssim_gauss"], pixel.ssim(smooth, noisy).mean())
    assert report["absent"]["fid"] == "needs the Inception weights"
    assert "no FID: needs the Inception weights" in capsys.readouterr().out
    worst = np.asarray(Image.open(out / "worst.png"))
    order = np.argsort(pixel.psnr(smooth, noisy))
    np.testing.assert_array_equal(worst[:SIZE, :SIZE], smooth[order[0]])
    np.testing.assert_array_equal(worst[-SIZE:, :SIZE], noisy[order[0]])
    told = {"index": order[0], "image": str(a / f"{order[0]:03d}.png"), "psnr": pixel.psnr(smooth, noisy).min()}
    assert report["pictures"]["worst"][0] == told


def test_equal_pairs_have_infinite_psnr_and_valid_json(tmp_path, images, capsys):
    a, b = (_folder(tmp_path / name, images[0]) for name in "ab")
    _run("--reference", a, "--samples", b, "--protocol=softvq-rfid", "--out", tmp_path / "o")
    report = json.loads((tmp_path / "o" / "evaluation.json").read_text(), parse_constant=pytest.fail)
    assert report["metrics"]["psnr"] is None and "infinite" in capsys.readouterr().out
    assert [image["psnr"] for image in report["pictures"]["worst"]] == [None] * 8


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
    assert {"fid", "sfid", "is_mean", "psnr", "code_use", "perplexity", "latent_mean", "latent_std"} <= metrics.keys()
    assert report["crop"] == {"reference": "ADM centre crop to 32", "samples": "ADM centre crop to 32"}

    originals = np.stack([open_images(str(a), SIZE).read(i, i + 1)[0] for i in range(9)])
    x = originals.astype(np.float32) / 127.5 - 1
    expected = pixel.psnr(originals, pixel.to_uint8(tokenizer.reconstruct(x))).mean()
    np.testing.assert_allclose(metrics["psnr"], expected, rtol=1e-4)
    latents = np.float64(tokenizer.encode(x))
    np.testing.assert_allclose(
        [metrics["latent_mean"], metrics["latent_std"]], [latents.mean(), latents.std()], rtol=1e-4
    )
    assert 0 < metrics["code_use"] <= 1 and 1 <= metrics["perplexity"] <= 16


def test_an_interrupted_evaluation_goes_on(tmp_path, images, monkeypatch, capsys):
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

    def says(message, *flags):
        assert _run("--reference", a, "--out", tmp_path / "o", *flags) == 1
        printed = capsys.readouterr().err.strip().splitlines()[-1]
        assert printed.startswith("evaluate: ") and message in printed

    says("--reference and --samples are both", "--samples", tmp_path / "b" / ".." / "a", "--inception=x")
    says("give --inception", "--samples", b)
    says("expected uint8 images", "--samples", tmp_path / "float.npz", "--inception=x")
    says("at least 2 images, and there are 1", "--samples", tmp_path / "one.npz", "--inception=x")
    says("001.png is 20 x 32", "--samples", mixed, "--inception=x")
    says("no image in or at", "--samples", tmp_path / "gone", "--inception=x")
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
    assert "features of image 0 are not finite" in capsys.readouterr().err


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
    np.testing.assert_allclose(first["metrics"]["fid"], second["metrics"]["fid"], rtol=1e-3)
    assert first["sampling"]["labels"] == "balanced" and first["weights"].keys() == {
        "inception",
        "generator",
        "tokenizer",
    }
    assert "labels balanced" in capsys.readouterr().out
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
