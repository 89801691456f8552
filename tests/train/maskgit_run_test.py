"""A discrete generator in the training loop: on stored indices and on images, exported, and refused."""

import json

import jax
import numpy as np
import pytest
from PIL import Image

from softvq_jax import Generator, Tokenizer
from softvq_jax.data import crops
from softvq_jax.data.latents import LatentShards
from softvq_jax.train import loop
from softvq_jax.train.latent_source import open_source
from softvq_jax.train.tasks import TASKS
from tests import small_generators
from tests.train.generator_run_test import encode


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return small_generators.save_tokenizer(tmp_path_factory.mktemp("runs") / "vq", bottleneck="vq")


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """24 noise images in two classes."""
    folder, rng = tmp_path_factory.mktemp("images"), np.random.default_rng(0)
    for i in range(24):
        (folder / f"class{i % 2}").mkdir(exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (40, 50, 3), np.uint8)).save(folder / f"class{i % 2}" / f"{i}.png")
    return folder


@pytest.fixture(scope="module")
def indices(tokenizer, images, tmp_path_factory):
    return encode(tokenizer, images, tmp_path_factory.mktemp("encoded") / "indices")


@pytest.fixture
def config(tokenizer, indices):
    config = small_generators.config("maskgit", path=str(indices), holdout=0.3)
    config.tokenizer = str(tokenizer)
    return config


def test_stored_indices_are_those_of_the_tokenizer(indices, tokenizer, images):
    shards, opened = LatentShards(str(indices)), Tokenizer.from_pretrained(tokenizer)
    assert (shards.info.codebook_size, shards.info.num_codebooks, shards.info.num_tokens) == (16, 2, 8)
    paths = sorted(images.rglob("*.png"))
    crop = np.stack([crops.center_crop(Image.open(path), 32) for path in paths]).astype(np.float32) / 127.5 - 1
    for flip, pictures in enumerate((crop, crop[:, :, ::-1])):
        stored = np.stack([shards[i].read()[0][flip] for i in range(24)])
        assert stored.dtype == np.int32
        agreement = np.mean(stored == np.asarray(opened.encode_indices(pictures)).reshape(24, 8))
        assert agreement > 0.98  # another batch size rounds otherwise, and codes may be equally near


def test_indices_of_images_on_the_fly(config):
    config.data.update(source="embedded", path="", augment="random_region", holdout=0.3)
    source, data = open_source(config)
    with data.replicated_batches() as batches:
        batch = next(batches)
    ours = np.asarray(source.to_latents(source.frozen, batch))
    pictures = batch["image"] / np.float32(127.5) - 1
    np.testing.assert_array_equal(ours, source.tokenizer.encode_indices(pictures).reshape(len(ours), 8))
    decoded = np.asarray(source.to_images(source.frozen, ours))
    np.testing.assert_allclose(decoded, source.tokenizer.reconstruct(pictures), atol=1e-4)


@pytest.mark.slow
def test_a_run_on_indices_leaves_a_generator(config, tmp_path, tokenizer):
    config.sampling.update(steps=3, guidance=2.0, temperature=3.0)
    results = loop.Run(config, tmp_path / "run", TASKS["generator"]).train()
    assert results["eval_loss"] > 0 and 0 <= results["eval_accuracy"] <= 1 and results["eval_samples"] == 7
    picture = np.asarray(Image.open(tmp_path / "run" / "images" / "samples_0000004.png"))
    generator = Generator.from_pretrained(tmp_path / "run")
    assert generator.discrete and generator.config.num_codebooks == 2
    assert "vq_mean" not in json.loads((tmp_path / "run" / "generator" / "config.json").read_text())
    drawn = generator.sample(np.arange(8), key=jax.random.key(0), **config.sampling.to_dict())
    decoded = Tokenizer.from_pretrained(tokenizer).decode_indices(drawn)
    np.testing.assert_allclose(np.asarray(decoded)[0], picture[:96:3, :96:3] / 127.5 - 1, atol=1.01 / 127.5)
    again = Generator.from_checkpoint(tmp_path / "run")
    np.testing.assert_array_equal(
        again.sample([1], key=jax.random.key(0)), generator.sample([1], key=jax.random.key(0))
    )


def test_another_codebook_is_refused(config):
    config.model.codebook_size = 32
    message = (
        "for 8 indices into 2 codebooks of 32 codes, but the latents are 8 indices into 2 codebooks of 16 codes: set "
        "model.num_tokens=8, model.num_codebooks=2 and model.codebook_size=16"
    )
    with pytest.raises(ValueError, match=message):
        open_source(config)


def test_indices_and_latents_are_not_mixed_up(config, indices, tokenizer, images, tmp_path):
    continuous = small_generators.config("sit", path=str(indices))
    with pytest.raises(
        ValueError, match=r"holds indices of a discrete tokenizer, but a sit is for latents: .*=latents"
    ):
        open_source(continuous)
    latents = encode(tokenizer, images, tmp_path / "latents", "--store=latents")
    assert LatentShards(str(latents))[0].read()[0].dtype == np.float32
    config.data.path = str(latents)
    with pytest.raises(ValueError, match=r"holds latents, but a maskgit is for indices .*--store=indices"):
        open_source(config)
    config.data.update(source="embedded", path="")
    config.tokenizer = str(small_generators.save_tokenizer(tmp_path / "softvq"))
    with pytest.raises(ValueError, match="the softvq bottleneck of the tokenizer has continuous latents"):
        open_source(config)
