"""Encoding a data set: content of the latents, and resuming an interrupted command."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image

from softvq_jax import Tokenizer
from softvq_jax.data import crops
from softvq_jax.data.latents import LatentShards
from softvq_jax.data.pipeline import eval_batches, train_batches
from softvq_jax.tools import encode_latents
from softvq_jax.tools.command_line import exit_code
from softvq_jax.train.latent_source import open_source
from tests import programs, small_generators


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return small_generators.save_tokenizer(tmp_path_factory.mktemp("runs") / "tokenizer")


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """Ten noise images in two classes."""
    folder, rng = tmp_path_factory.mktemp("images"), np.random.default_rng(0)
    for i in range(10):
        (folder / f"class{i % 2}").mkdir(exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (40, 50, 3), np.uint8)).save(folder / f"class{i % 2}" / f"{i}.png")
    return folder


def flags(tokenizer, images, out, *more):
    return ["encode_latents", f"--from={tokenizer}", f"--data={images}", f"--out={out}", "--crops_per_shard=4", *more]


def command(*args):
    return exit_code(encode_latents.main, encode_latents.parse_flags(flags(*args)))


@pytest.fixture(scope="module")
def finished(tokenizer, images, tmp_path_factory):
    out = tmp_path_factory.mktemp("latents") / "whole"
    assert command(tokenizer, images, out) == 0
    return out


def test_latents_of_both_flips_labels_and_statistics(finished, tokenizer, images):
    shards, encode = LatentShards(str(finished)), Tokenizer.from_pretrained(tokenizer).encode
    every = []
    for i, path in enumerate(sorted(images.rglob("*.png"))):
        latents, label = shards[i].read()
        crop = crops.center_crop(Image.open(path), 32).astype(np.float32) / 127.5 - 1
        np.testing.assert_allclose(latents, encode(np.stack([crop, crop[:, ::-1]])), rtol=1e-4, atol=1e-5)
        assert label == int(path.parent.name[-1])
        every.append(latents)
    assert shards.info.count == len(shards) == 10
    np.testing.assert_allclose(
        [shards.info.mean, shards.info.std], [np.mean(every), np.std(every)], rtol=1e-5, atol=1e-7
    )
    of_channels = [np.mean(every, axis=(0, 1, 2)), np.std(every, axis=(0, 1, 2))]
    np.testing.assert_allclose([shards.info.channel_means, shards.info.channel_stds], of_channels, rtol=1e-4, atol=1e-6)


def test_statistics_of_channels_normalize_the_training_latents(finished):
    config = small_generators.config(path=str(finished), source="latents")
    config.objective.latent_statistics = "channel"
    latents, _ = open_source(config)
    every = np.stack([pair for i in range(10) for pair in LatentShards(str(finished))[i].read()[0]])
    normalized = np.asarray(latents.to_latents({}, {"latents": every}))
    np.testing.assert_allclose(normalized.mean(axis=(0, 1)), 0, atol=1e-3)
    np.testing.assert_allclose(normalized.std(axis=(0, 1)), 1, atol=1e-3)


def test_latents_of_older_versions_have_statistics_of_all_values_only(finished, tmp_path):
    shutil.copytree(finished, tmp_path / "old")
    index = json.loads((finished / "dataset.json").read_text())
    index["latents"] = {name: value for name, value in index["latents"].items() if not name.startswith("channel_")}
    (tmp_path / "old" / "dataset.json").write_text(json.dumps(index))
    config = small_generators.config(path=str(tmp_path / "old"), source="latents")
    assert open_source(config)[0].statistics.channels is None
    config.objective.latent_statistics = "channel"
    with pytest.raises(ValueError, match="have no statistics of channels: an older version encoded them"):
        open_source(config)


def test_an_interrupted_command_resumes(finished, tokenizer, images, tmp_path, monkeypatch):
    write, written = encode_latents.encode_shard, []

    def fail_at_second(path, *rest):
        if written:
            raise OSError("disk full")
        written.append(path)
        return write(path, *rest)

    monkeypatch.setattr(encode_latents, "encode_shard", fail_at_second)
    assert command(tokenizer, images, tmp_path) == 1
    monkeypatch.setattr(encode_latents, "encode_shard", lambda path, *rest: written.append(path) or write(path, *rest))
    assert command(tokenizer, images, tmp_path) == 0
    assert len(written) == 3 == len(set(written))  # the first shard was not encoded again
    assert json.loads((tmp_path / "dataset.json").read_text()) == json.loads((finished / "dataset.json").read_text())
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(path.name for path in finished.iterdir())


@pytest.mark.slow
def test_two_hosts_share_the_shards(finished, tokenizer, images, tmp_path):
    programs.run("run_tool", *flags(tokenizer, images, tmp_path / "out"), processes=2)
    ours, theirs = (json.loads((folder / "dataset.json").read_text()) for folder in (tmp_path / "out", finished))
    assert ours == theirs


def test_the_folder_of_another_job_is_refused(finished, tokenizer, images, tmp_path, capsys):
    assert command(tokenizer, images, finished) == 0  # the same: nothing to do
    assert command(tokenizer, images, finished, "--augment=random_crop") == 1
    assert "holds other latents (crops is 'ADM centre crop to 32' there, 'random_crop" in capsys.readouterr().err
    other = small_generators.save_tokenizer(tmp_path / "other", seed=1)
    assert command(other, images, finished) == 1
    assert "holds other latents (tokenizer is" in capsys.readouterr().err
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").write_text("")
    assert command(tokenizer, images, tmp_path / "full") == 1
    assert "full exists and has no encoding.json: use another folder" in capsys.readouterr().err


def test_unreadable_images_are_skipped_and_listed(tokenizer, images, tmp_path):
    broken = tmp_path / "images" / "class0"
    broken.mkdir(parents=True)
    (broken / "a.png").write_bytes((images / "class0" / "0.png").read_bytes())
    (broken / "b.png").write_bytes(b"not a picture")
    assert command(tokenizer, tmp_path / "images", tmp_path / "out") == 0
    index = json.loads((tmp_path / "out" / "dataset.json").read_text())
    assert index["latents"]["count"] == 1 and [where[-5:] for where, _ in index["unreadable"]] == ["b.png"]


def test_random_crops_differ_from_pass_to_pass(tokenizer, images, tmp_path):
    assert command(tokenizer, images, tmp_path, "--augment=random_crop", "--passes=2") == 0
    shards = LatentShards(str(tmp_path))
    assert len(shards) == 20
    first, second = shards[0].read(), shards[10].read()
    assert first[1] == second[1] and np.abs(first[0] - second[0]).max() > 1e-3


def test_the_pipeline_chooses_one_of_both_flips_by_the_sample_index(finished):
    config = {"source": "latents", "path": str(finished), "eval_path": "", "holdout": 0.0}
    config |= {"augment": "", "num_workers": 0, "prefetch": 1, "max_unreadable_share": 0.0}
    options = dict(image_size=None, seed=3)
    with train_batches(config, global_batch=20, **options) as batches:
        whole = next(batches)
    with train_batches(config, global_batch=5, start_sample=10, **options) as batches:
        later = next(batches)
    np.testing.assert_array_equal(later["latents"], whole["latents"][10:15])
    assert whole["latents"].shape == (20, 8, 6) and whole["latents"].dtype == np.float32
    shards = LatentShards(str(finished))
    every = np.stack([shards[i].read()[0] for i in range(10)])
    flips = [np.argwhere((every == sample).all((2, 3)))[0] for sample in whole["latents"]]
    assert {flip for _, flip in flips} == {0, 1}
    assert sorted(item for item, _ in flips[:10]) == list(range(10))
    with eval_batches(config | {"eval_path": str(finished)}, global_batch=4, image_size=None) as batches:
        held_out = list(batches)
    np.testing.assert_array_equal(np.concatenate([b["latents"] for b in held_out])[:10], every[:, 0])
    assert [int(b["valid"].sum()) for b in held_out] == [4, 4, 2]
