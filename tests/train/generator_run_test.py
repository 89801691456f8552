"""Generator runs in the training loop: on stored latents and on images, resumed, exported, and refused."""

import json
import shutil

import jax
import numpy as np
import pytest
from PIL import Image

from softvq_jax import Generator, Tokenizer
from softvq_jax.tools import encode_latents
from softvq_jax.train import latent_source, loop, preemption
from softvq_jax.train.compatibility import WeightsMismatch
from softvq_jax.train.latent_source import open_source
from softvq_jax.train.nearest_class import nearest_labels
from softvq_jax.train.tasks import TASKS
from tests import small_generators
from tests.data import reported_inputs


def run(config, workdir):
    return loop.Run(config, workdir, TASKS["generator"])


def encode(tokenizer, images, out, *more):
    argv = ["encode_latents", f"--from={tokenizer}", f"--data={images}", f"--out={out}", *more]
    encode_latents.main(encode_latents.parse_flags(argv))
    return out


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return small_generators.save_tokenizer(tmp_path_factory.mktemp("runs") / "tokenizer")


@pytest.fixture(scope="module")
def encoded(tokenizer, tmp_path_factory):
    """Latents of 24 noise images in two classes."""
    folder, rng = tmp_path_factory.mktemp("images"), np.random.default_rng(0)
    for i in range(24):
        (folder / f"class{i % 2}").mkdir(exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (40, 50, 3), np.uint8)).save(folder / f"class{i % 2}" / f"{i}.png")
    return encode(tokenizer, folder, tmp_path_factory.mktemp("encoded") / "latents")


@pytest.fixture
def latents(encoded, tmp_path):
    return shutil.copytree(encoded, tmp_path / "latents")


@pytest.fixture
def config(tokenizer, latents):
    config = small_generators.config("sit", path=str(latents), holdout=0.3)
    config.tokenizer = str(tokenizer)
    return config


def final_state(config, workdir):
    again = run(config, workdir)
    with jax.set_mesh(again.mesh):
        state, record = again._restore_or_init()
    assert record["step"] == config.train.num_steps
    return jax.device_get(state)


@pytest.mark.slow
def test_a_run_on_latents_resumes_bit_for_bit_and_leaves_a_generator(config, tmp_path, tokenizer, preempt_at):
    results = run(config, tmp_path / "whole").train()
    assert results["eval_loss"] > 0 and results["eval_samples"] == 7
    with preempt_at(3), pytest.raises(preemption.Preempted):
        run(config, tmp_path / "cut").train()
    config.tokenizer = str(shutil.copytree(tokenizer, tmp_path / "moved"))  # the same weights at another path
    moved = run(config, tmp_path / "cut")
    moved.train()
    moved.record.weights["tokenizer"] = "another"
    with pytest.raises(WeightsMismatch, match=r"tokenizer: \w{16} in the checkpoint, another now"):
        moved._restore_or_init()
    jax.tree.map(np.testing.assert_array_equal, *(final_state(config, tmp_path / name) for name in ("whole", "cut")))

    picture = np.asarray(Image.open(tmp_path / "whole" / "images" / "samples_0000004.png"))
    assert picture.shape == (3 * 32 + 14, 8 * (3 * 32 + 2) - 2, 3)  # enlarged, with class names below
    generator = Generator.from_pretrained(tmp_path / "whole")
    info = json.loads((tmp_path / "latents" / "dataset.json").read_text())["latents"]
    assert (generator.statistics.mean, generator.statistics.std) == (info["mean"], info["std"])
    drawn = generator.sample(np.arange(8), key=jax.random.key(0), steps=3, guidance=1.75, guidance_interval=(0.0, 0.7))
    images = Tokenizer.from_pretrained(tokenizer).decode(drawn)
    np.testing.assert_allclose(np.asarray(images)[0], picture[:96:3, :96:3] / 127.5 - 1, atol=1.01 / 127.5)


def test_images_are_encoded_on_the_fly(config):
    config.data.update(source="embedded", path="", augment="random_region", holdout=0.3)
    source, data = open_source(config)
    assert set(source.inputs(8, 6)) == {"image", "label"}
    with data.replicated_batches() as batches:
        batch = next(batches)
    ours = np.asarray(source.to_latents(source.frozen, batch))
    theirs = source.tokenizer.encode(batch["image"] / np.float32(127.5) - 1)
    np.testing.assert_allclose(ours, source.statistics.normalize(np.asarray(theirs)), rtol=1e-4, atol=1e-4)
    assert abs(ours.mean()) < 0.3 and 0.7 < ours.std() < 1.3  # of one batch: measured on more


@pytest.mark.slow
def test_a_run_on_images_measures_how_many_samples_resemble_their_class(config, tmp_path):
    config.data.update(source="embedded", path="", augment="random_region", holdout=0.3)
    config.evals.nearest_class.every_steps = 100
    results = run(config, tmp_path / "run").train()
    assert results["eval_right_class_by_chance"] == 0.125
    assert results["eval_right_class_of_real"] > 0.3  # a tokenizer of random weights keeps some color
    assert 0 <= results["eval_right_class"] <= 1


def test_nearest_labels_are_by_color():
    red, blue = np.zeros((2, 4, 4, 3), np.uint8)
    red[..., 0], blue[..., 2] = 200, 200
    images, references = np.stack([blue, red, blue]), np.stack([red, blue])
    np.testing.assert_array_equal(nearest_labels(images, references, np.array([5, 7])), [7, 5, 7])


def test_latents_of_another_tokenizer_are_refused(config, tmp_path):
    config.tokenizer = str(small_generators.save_tokenizer(tmp_path / "other", seed=1))
    with pytest.raises(
        ValueError, match=r"made by the tokenizer with fingerprint [0-9a-f]{16}, but .* has [0-9a-f]{16}"
    ):
        open_source(config)


def test_other_sizes_and_too_many_classes_are_refused(config):
    config.model.channels = 5
    with pytest.raises(ValueError, match="for 8 tokens of 5 channels, but the latents are 8 of 6: set"):
        open_source(config)
    config.model.update(channels=6, num_classes=1)
    with pytest.raises(
        ValueError, match=r"the data have 2 classes, the generator labels 0 to 0: set model\.num_classes=2"
    ):
        open_source(config)


@pytest.mark.slow
def test_data_without_classes_are_refused_for_many_classes(config, tmp_path, caplog):
    """A flat folder; with one class it is no matter, and one named class of many is told."""
    reported_inputs.write(tmp_path / "flat", *(f"{i}.png" for i in range(8)))
    config.data.update(source="folder", path=str(tmp_path / "flat"), holdout=0.5)
    config.model.num_classes = 5
    with pytest.raises(ValueError, match=r"no classes, .*num_classes=5: .*data\.classes='names'.*num_classes=1"):
        open_source(config)
    config.model.num_classes = 1
    open_source(config)
    config.data.classes, config.model.num_classes = "folders", 5
    reported_inputs.write(tmp_path / "one", *(f"cat/{i}.png" for i in range(8)))
    config.data.path = str(tmp_path / "one")
    with caplog.at_level("WARNING"):
        open_source(config)
    assert "all data are of one class, cat, and model.num_classes=5" in caplog.text


@pytest.mark.parametrize(("discrete", "kind"), [(False, ""), (True, r" --config\.model\.bottleneck=vq")])
def test_the_message_for_a_missing_tokenizer_says_how_to_train_one(discrete, kind, tmp_path):
    """With the tokenizer of `tiny_sit`, and of `tiny_maskgit`."""
    command = rf"python -m softvq_jax\.main --config=configs/tiny_patches\.py{kind} --workdir=.*runs/tiny"
    with pytest.raises(FileNotFoundError, match=command):
        latent_source.open_tokenizer(str(tmp_path / "runs" / "tiny"), discrete)


def test_missing_latents_and_missing_statistics_are_refused(config, latents, tmp_path):
    config.data.path = str(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match=r"softvq_jax\.tools\.encode_latents"):
        open_source(config)
    index = json.loads((latents / "dataset.json").read_text())
    del index["latents"]
    (latents / "dataset.json").write_text(json.dumps(index))
    config.data.path = str(latents)
    with pytest.raises(ValueError, match="has no statistics of latents"):
        open_source(config)


def test_images_need_a_tokenizer(config):
    config.tokenizer = ""
    config.data.update(source="embedded", path="")
    with pytest.raises(ValueError, match=r"set config\.tokenizer, which encodes them"):
        open_source(config)
