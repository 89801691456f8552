"""Runs on what people bring: Python sequences, data that cannot be, held-out images that cannot be read."""

import json

import numpy as np
import pytest

from softvq_jax.train import loop
from softvq_jax.train.tasks import TASKS
from softvq_jax.train.tokenizer_task import TokenizerTask
from tests.data import reported_inputs


@pytest.mark.slow
def test_a_run_on_a_python_sequence(tiny_config, tmp_path):
    """Labels and images from Python; the source is recorded, and other images are refused."""
    items = [(np.asarray(reported_inputs.picture(i)), i % 3) for i in range(40)]
    tiny_config.data.update(source="folder", path="", holdout=0.2, augment="random_crop")
    run = loop.Run(tiny_config, tmp_path / "run", TokenizerTask, source=items)
    assert (len(run.data.source), len(run.data.held_out)) == (32, 8) and run.data.source.class_names == ("0", "1", "2")
    assert np.isfinite(run.train()["eval_psnr"])
    assert json.loads((tmp_path / "run" / "config.json").read_text())["data"]["source"] == "python"
    others = [(255 - pixels, label) for pixels, label in items]
    with pytest.raises(ValueError, match="not those that the checkpoints in this workdir were trained on"):
        loop.Run(tiny_config, tmp_path / "run", TokenizerTask, source=others).train()


@pytest.mark.slow
def test_unreadable_held_out_images_are_left_out_of_every_measure(tiny_config, tmp_path):
    """The numbers are those of the readable images alone, in the run's metrics and in its last evaluation."""
    reported_inputs.write(tmp_path / "train", *(f"{i}.png" for i in range(16)))
    for i in range(10):
        (tmp_path / "val").mkdir(exist_ok=True)
        reported_inputs.picture(100 + i).save(tmp_path / "val" / f"{i}.png")
    tiny_config.data.update(
        source="folder", path=str(tmp_path / "train"), eval_path=str(tmp_path / "val"), augment="random_crop"
    )
    tiny_config.data.max_unreadable_share = 1.0
    tiny_config.evals.held_out.num_images = 10
    found = {}
    for name in ("damaged", "without"):
        for i in (0, 3, 9):
            path = tmp_path / "val" / f"{i}.png"
            path.write_bytes(b"not an image") if name == "damaged" else path.unlink()
        results = loop.Run(tiny_config, tmp_path / name, TASKS["tokenizer"]).train()
        [evaluation] = (tmp_path / name / "evaluations").glob("*/evaluation.json")
        found[name] = results, json.loads(evaluation.read_text())
    (damaged, record), (without, clean) = found["damaged"], found["without"]
    assert damaged.pop("eval_unreadable") == 3 and "eval_unreadable" not in without
    assert damaged["eval_images"] == 7
    for name, value in without.items():
        assert damaged[name] == pytest.approx(value, rel=1e-5), name
    assert record["counts"] == clean["counts"] == {"samples": 7, "reference": 7}
    assert record["metrics"] == pytest.approx(clean["metrics"], rel=1e-5)
    assert len(record["unreadable"]["samples"]) == 3 and not clean["unreadable"]
    assert any("3 of 10 images of samples are unreadable" in line for line in record["warnings"])
    shown = [item["image"] for side in ("worst", "best") for item in record["pictures"][side]]
    assert not [name for name in shown if name.endswith(("/0.png", "/3.png", "/9.png"))]


def test_latents_for_a_tokenizer_are_refused_before_anything_is_read(tiny_config, tmp_path):
    tiny_config.data.update(source="latents", path=str(tmp_path / "nothing"))
    with pytest.raises(ValueError, match=r"data\.source='latents' is for generators; .*'?embedded"):
        loop.Run(tiny_config, tmp_path / "run", TASKS["tokenizer"])


def test_paths_in_a_config_are_expanded(tiny_config, tmp_path, monkeypatch):
    reported_inputs.write(tmp_path / "images", *(f"{i}.png" for i in range(4)))
    monkeypatch.setenv("IMAGES", str(tmp_path))
    tiny_config.data.update(source="folder", path="$IMAGES/images", holdout=0.5, augment="random_crop")
    tiny_config.checkpoint.fallback = "$IMAGES/second"
    run = loop.Run(tiny_config, "$IMAGES/run", TASKS["tokenizer"])
    assert run.config.data.path == str(tmp_path / "images") and tiny_config.data.path == "$IMAGES/images"
    assert run.config.checkpoint.fallback == str(tmp_path / "second") and run.workdir == tmp_path / "run"
