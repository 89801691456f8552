"""`tools.evaluate` on what a tokenizer reconstructs and what a generator draws."""

import io
import json
import tarfile

import jax
import numpy as np
import pytest

from softvq_jax import generator
from softvq_jax.evaluate.image_sampler import draw_labels
from softvq_jax.evaluate.image_sets import open_images
from softvq_jax.evaluate.row_cache import RowCache
from softvq_jax.latent_statistics import LatentStatistics
from softvq_jax.metrics import image_quality
from softvq_jax.models.dit import DiTConfig
from softvq_jax.models.tokenizer import TokenizerConfig
from softvq_jax.models.vit import ViTConfig
from softvq_jax.pixels import to_uint8
from softvq_jax.tokenizer import Tokenizer, abstract_params
from tests.tools.evaluations import SIZE, report_in, run, save_folder

pytestmark = pytest.mark.usefixtures("small_inception")


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
    a, out = save_folder(tmp_path / "a" / "class", photographs).parent, tmp_path / "out"
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    flags = ("--tokenizer", tmp_path / "tokenizer", "--reference", a, "--protocol=softvq-rfid", "--inception=x")
    assert run(*flags, "--out", out) == 0
    report = report_in(out)
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
    files = sorted(save_folder(tmp_path / "a", photographs).iterdir())
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    with tarfile.open(tmp_path / "train.tar", "w") as shard:
        for i, path in enumerate(files):
            shard.add(path, f"{i:03d}.png")
            label = tarfile.TarInfo(f"{i:03d}.cls")
            label.size = 1
            shard.addfile(label, io.BytesIO(b"0"))
    flags = ("--tokenizer", tmp_path / "tokenizer", "--protocol=softvq-rfid")
    assert run(*flags, "--reference", tmp_path / "a", "--out", tmp_path / "files") == 0
    tar = (*flags, "--reference", tmp_path / "train.tar", "--data_source=tar")
    assert run(*tar, "--out", tmp_path / "tar") == 0
    assert report_in(tmp_path / "tar")["metrics"] == report_in(tmp_path / "files")["metrics"]
    files[3].write_bytes(files[3].read_bytes()[:200])
    for source in ((), ("--data_source=folder",)):
        assert run(*flags, "--reference", tmp_path / "a", *source, "--out", tmp_path / f"bad{len(source)}") == 0
        shown = capsys.readouterr().out
        assert "4 samples" in shown and "1 of 5 images of samples are unreadable and left out" in shown
    files[3].unlink()
    assert run(*flags, "--reference", tmp_path / "a", "--out", tmp_path / "without") == 0
    without = report_in(tmp_path / "without")
    for folder in ("bad0", "bad1"):
        report = report_in(tmp_path / folder)
        assert report["metrics"] == without["metrics"] and report["counts"] == without["counts"]
        assert report["fingerprints"] == without["fingerprints"]
        assert [str(files[3]) in line for line in report["unreadable"]["samples"]] == [True]
        assert [item["index"] for item in report["pictures"]["worst"]].count(3) == 0


@pytest.mark.slow
def test_a_generator_is_sampled_on_the_fly(tmp_path, images, tokenizer, capsys):
    config = DiTConfig(num_tokens=4, channels=3, width=32, depth=1, num_heads=2, num_classes=5)
    rng = np.random.default_rng(0)
    shapes = generator.abstract_params(config)
    params = jax.tree.map(lambda leaf: 0.1 * rng.normal(size=leaf.shape).astype(np.float32), shapes)
    sit = generator.Generator(config, params, LatentStatistics(0.0, 1.0))
    sit.save_pretrained(tmp_path / "sit")
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    a = save_folder(tmp_path / "a", images[0])
    flags = ("--reference", a, "--generator", tmp_path / "sit", "--tokenizer", tmp_path / "tokenizer", "--inception=x")
    flags += ("--num=10", "--labels=balanced", "--steps=3", "--guidance=2", "--guidance_high=0.5", "--seed=1")
    for batch in (4, 10):
        assert run(*flags, "--batch_size", batch, "--out", tmp_path / str(batch)) == 0
    first, second = report_in(tmp_path / "4"), report_in(tmp_path / "10")
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
    assert run(*flags, "--batch_size=4", "--out", tmp_path / "4") == 0
    assert (
        run(*flags[:4], "--inception=x", "--out", tmp_path / "4", "--tokenizer", tmp_path / "tokenizer", "--num=4") == 1
    )


def test_labels_of_samples():
    balanced = draw_labels("balanced", 50, 10, seed=0)
    assert balanced.dtype == np.int32 and (np.bincount(balanced) == 5).all() and (np.diff(balanced) < 0).any()
    uniform = draw_labels("uniform", 5000, 10, seed=0)
    assert np.bincount(uniform, minlength=10).min() > 400 and len(set(np.bincount(uniform))) > 1
    with pytest.raises(ValueError, match="labels are 'random'"):
        draw_labels("random", 5, 10, seed=0)
