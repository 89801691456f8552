"""Commands whose outputs and inputs are in a bucket: the same as on the disk."""

import io
import json

import jax
import numpy as np
import pytest
from PIL import Image

from softvq_jax.data.array_record import ArrayRecordShards
from softvq_jax.data.latents import LatentShards
from softvq_jax.models.functional import Functional
from softvq_jax.tools import encode_latents, evaluate, evaluation_inputs, export, prepare_dataset, sample
from softvq_jax.train import loop
from softvq_jax.train.tasks import TASKS
from tests import small_generators
from tests.data.buckets_test import upload
from tests.data.photographs import png
from tests.small_inception import SmallInception
from tests.tools.sample_test import save_generator
from tests.train.start_test import small

pytestmark = pytest.mark.slow


@pytest.fixture
def images(tmp_path):
    for i in range(10):
        (tmp_path / "images" / "ab"[i % 2]).mkdir(parents=True, exist_ok=True)
        (tmp_path / "images" / "ab"[i % 2] / f"{i}.png").write_bytes(png(i))
    return tmp_path / "images"


def run(tool, *flags) -> None:
    name = tool.__name__.rpartition(".")[2]
    assert tool.main(tool.parse_flags([name, *map(str, flags)])) in (0, None)


def names(folder) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_a_data_set_and_its_latents(gs_folder, tmp_path, images):
    upload(images, gs_folder / "images")
    tokenizer = small_generators.save_tokenizer(tmp_path / "tokenizer")
    upload(tokenizer, gs_folder / "tokenizer")
    for place in (tmp_path, gs_folder):
        run(
            prepare_dataset,
            "--source=folder",
            f"--path={place}/images",
            f"--out={place}/shards",
            "--images_per_shard=4",
        )
        run(encode_latents, f"--from={place}/tokenizer", f"--data={place}/images", f"--out={place}/latents")
        run(prepare_dataset, f"--out={place}/shards", "--verify")
    for name, opened in (("shards", ArrayRecordShards), ("latents", LatentShards)):
        ours, theirs = opened(f"{gs_folder}/{name}"), opened(f"{tmp_path}/{name}")
        assert names(gs_folder / name) == names(tmp_path / name)
        assert len(ours) == len(theirs) == 10 and ours.class_names == theirs.class_names
        for i in range(10):
            a, b = ((shards[i].load if name == "shards" else shards[i].read)() for shards in (ours, theirs))
            assert a[1] == b[1] and np.array_equal(np.frombuffer(a[0], np.uint8), np.frombuffer(b[0], np.uint8))


def test_samples_and_their_evaluation(gs_folder, tmp_path, monkeypatch):
    net = Functional(SmallInception)
    params, _ = net.init(jax.random.key(0))
    monkeypatch.setattr(evaluation_inputs, "load_inception", lambda name: (net, params))
    save_generator(tmp_path / "generator")
    small_generators.save_tokenizer(tmp_path / "tokenizer")
    for name in ("generator", "tokenizer"):
        upload(tmp_path / name, gs_folder / name)
    for place in (tmp_path, gs_folder):
        flags = [
            f"--from={place}/generator",
            f"--tokenizer={place}/tokenizer",
            "--steps=3",
            "--num=12",
            "--classes=0-6",
        ]
        run(sample, *flags, f"--out={place}/samples.npz", "--grid")
        run(sample, *flags, f"--out={place}/png", "--seed=1")
        flags = [f"--reference={place}/samples.npz", f"--samples={place}/png", "--protocol=torch-fidelity"]
        run(evaluate, *flags, "--inception=x", f"--out={place}/evaluation")
    for name in names(tmp_path / "png"):
        if name.endswith(".png"):
            ours, theirs = (
                Image.open(io.BytesIO((place / "png" / name).read_bytes())) for place in (gs_folder, tmp_path)
            )
            assert np.array_equal(np.asarray(ours), np.asarray(theirs))
    assert names(gs_folder / "png") == names(tmp_path / "png")
    with (
        (gs_folder / "samples.npz").open("rb") as file,
        np.load(file) as ours,
        np.load(tmp_path / "samples.npz") as theirs,
    ):
        assert np.array_equal(ours["arr_0"], theirs["arr_0"])
    ours, theirs = (
        json.loads((place / "evaluation" / "evaluation.json").read_text())["metrics"] for place in (gs_folder, tmp_path)
    )
    assert ours == theirs and ours["fid"] > 0


def test_an_export(gs_folder, tmp_path):
    """The last step exports what the run itself exported."""
    config = small()
    config.train.num_steps = 2
    loop.Run(config, gs_folder / "run", TASKS["tokenizer"]).train()
    for place in (tmp_path, gs_folder):
        run(export, f"--from={gs_folder}/run", "--step=2", f"--out={place}/exported")
        assert names(place / "exported") == names(gs_folder / "run" / "tokenizer")
        for name in ("config.json", "model.safetensors"):
            assert (place / "exported" / name).read_bytes() == (gs_folder / "run" / "tokenizer" / name).read_bytes()
    with pytest.raises(ValueError, match="--out must be a new or empty folder"):
        run(export, f"--from={gs_folder}/run", f"--out={gs_folder}/exported")
