"""FID during training, and the best checkpoint."""

import json

import jax
import numpy as np
import pytest
from flax import nnx
from ml_collections import ConfigDict

from softvq_jax import Tokenizer, pixels
from softvq_jax.generators.config import generator_config
from softvq_jax.metrics import image_quality
from softvq_jax.metrics.fid import frechet_distance
from softvq_jax.models.functional import Functional
from softvq_jax.studies.crops import held_out
from softvq_jax.train import fid
from softvq_jax.train.loop import Run
from softvq_jax.train.preemption import Preempted, Preemption
from softvq_jax.train.tasks import TASKS
from softvq_jax.weights.pretrained import MissingWeights
from tests import programs, small_tokenizers
from tests.small_inception import SmallInception


@pytest.fixture
def config(tiny_config):
    tiny_config.gan.discriminator = "none"
    tiny_config.train.num_steps = 5
    tiny_config.evals.held_out.num_images = 64
    tiny_config.optim.learning_rate = 1e-2
    return tiny_config


@pytest.fixture
def small_inception(monkeypatch):
    net = Functional(SmallInception)
    params, _ = net.init(jax.random.key(0))
    monkeypatch.setattr(fid, "load_inception", lambda name: (net, params))
    return lambda images: np.float64(nnx.merge(*nnx.split(net(params)))(images)["f2048"])


def run(config, workdir):
    Run(config, workdir, TASKS["tokenizer"]).train()
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def reconstructed(workdir, originals):
    tokenizer = Tokenizer.from_pretrained(workdir)
    return pixels.to_uint8(np.asarray(tokenizer.reconstruct(originals.astype(np.float32) / 127.5 - 1)))


def rfid(inception, originals, workdir):
    """Of the tokenizer that a run left, by numpy."""
    features = [inception(x) for x in (originals, reconstructed(workdir, originals))]
    return frechet_distance(*(x for f in features for x in (f.mean(axis=0), np.cov(f, rowvar=False))))


@pytest.mark.slow
def test_rfid_on_a_schedule_is_that_of_the_averaged_weights_and_disturbs_nothing(
    config, small_inception, tmp_path, monkeypatch, caplog
):
    plain = [line for line in run(config, tmp_path / "plain") if "generator_total" in line]
    config.evals.fid.update(every_steps=2, num_images=50)
    (tmp_path / "run" / "measuring_killed" / "samples").mkdir(parents=True)  # as a killed run leaves it
    monkeypatch.setattr(fid, "LOG_SECONDS", 0.0)
    caplog.set_level("INFO", "absl")
    lines = run(config, tmp_path / "run")
    measured = {line["step"]: line["eval_rfid"] for line in lines if "eval_rfid" in line}
    assert list(measured) == [2, 4, 5] and len(set(measured.values())) == 3
    for before, after in zip(plain, [line for line in lines if "generator_total" in line], strict=True):
        assert before["generator_total"] == after["generator_total"]  # the same batches, bit for bit

    originals = held_out(config).images[:50]
    np.testing.assert_allclose(measured[5], rfid(small_inception, originals, tmp_path / "run"), rtol=2e-3)

    report = json.loads((tmp_path / "run" / "evaluations" / "step_0000005" / "evaluation.json").read_text())
    assert report["protocol"]["name"] == "softvq-rfid" and report["counts"] == {"samples": 50, "reference": 50}
    told = [message for message in caplog.messages if message.startswith(("measuring", "samples:", "reference:"))]
    assert [line for line in told if line in report["warnings"]] == report["warnings"] != []  # once a run
    assert sum("measuring samples: 50 of 50 images" in line for line in told) == 3
    assert report["metrics"]["fid"] == pytest.approx(measured[5]) and report["weights"]["tokenizer"]
    assert len(list((tmp_path / "run" / "evaluations").glob("*/worst.png"))) == 3

    again = Run(config, tmp_path / "preempted", TASKS["tokenizer"])

    def preempted_while_measuring(preemption):
        if list((tmp_path / "preempted").glob("measuring_*")):
            raise Preempted

    monkeypatch.setattr(Preemption, "check", preempted_while_measuring)
    with pytest.raises(Preempted):
        again.train()
    assert not list((tmp_path / "preempted").glob("measuring_*"))


@pytest.mark.heavy
def test_two_processes_measure_the_whole_set_and_agree_on_the_best_step(small_inception, tmp_path):
    flags = {
        "config": "configs/tiny_patches.py",
        "workdir": tmp_path,
        "config.model.image_size": 32,
        "config.model.num_latent_tokens": 8,
        "config.model.codebook_size": 32,
        "config.train.batch_size": 8,
        "config.train.num_steps": 2,
        "config.evals.held_out.num_images": 32,
        "config.evals.fid.every_steps": 1,
        "config.evals.fid.num_images": 30,
        "config.evals.fid.weights": "small",
        "config.checkpoint.best_metric": "eval_rfid",
    }
    programs.run("fid_main", *(f"--{name}={value}" for name, value in flags.items()), processes=2, timeout=600)
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    measured = {line["step"]: line["eval_rfid"] for line in lines if "eval_rfid" in line}
    assert list(measured) == [1, 2]
    report = json.loads((tmp_path / "evaluations" / "step_0000002" / "evaluation.json").read_text())
    assert report["counts"] == {"samples": 30, "reference": 30}
    best = min(measured, key=measured.get)
    assert [path.name for path in (tmp_path / "best" / "checkpoints").iterdir() if path.name.isdigit()] == [str(best)]

    run_config = ConfigDict(json.loads((tmp_path / "config.json").read_text()))
    originals = held_out(run_config).images[:30]
    np.testing.assert_allclose(measured[2], rfid(small_inception, originals, tmp_path), rtol=2e-3)


@pytest.mark.slow
@pytest.mark.parametrize("metric", ["eval_psnr", "eval_rfid"])
def test_the_best_step_is_kept_also_over_a_restart(config, small_inception, tmp_path, metric):
    config.evals.held_out.every_steps = config.evals.fid.every_steps = 1
    config.checkpoint.best_metric = metric
    config.checkpoint.every_steps = 100
    lines = run(config, tmp_path / "run")
    values = {line["step"]: line[metric] for line in lines if metric in line}
    best = max(values, key=values.get) if metric == "eval_psnr" else min(values, key=values.get)
    folder = tmp_path / "run" / "best"
    assert [path.name for path in (folder / "checkpoints").iterdir() if path.name.isdigit()] == [str(best)]
    originals = held_out(config).images
    psnr = image_quality.psnr(originals, reconstructed(folder, originals)).mean()
    np.testing.assert_allclose(
        psnr, next(x["eval_psnr"] for x in lines if x["step"] == best and "eval_psnr" in x), atol=0.01
    )

    again = Run(config, tmp_path / "run", TASKS["tokenizer"])
    assert again.best.value == values[best]
    worse = values[best] - 1 if metric == "eval_psnr" else values[best] + 1
    assert not again.best.is_better({metric: worse}, 99) and not again.best.is_better({"other": 0.0}, 99)
    again.best.close()


def test_missing_weights_of_the_fid_network_are_reported_before_the_run(config, tmp_path):
    config.evals.fid.update(every_steps=2, weights="/nowhere/inception.pth")
    with pytest.raises(
        MissingWeights, match=r"missing: the FID network[^$]*mseitzer/pytorch-fid[^$]*evals.fid.every_steps=0"
    ):
        run(config, tmp_path / "run")
    assert not (tmp_path / "run" / "config.json").exists()


@pytest.mark.usefixtures("small_inception")
def test_fid_of_one_image_is_refused_before_the_run(config, tmp_path):
    config.evals.fid.update(every_steps=2, num_images=1)
    with pytest.raises(
        ValueError, match=r"FID \(config.evals.fid.num_images\) needs at least 2 images, and there are 1"
    ):
        run(config, tmp_path / "run")


def test_a_reference_that_rfid_cannot_use_and_a_best_that_is_not_measured_are_refused(config, tmp_path):
    for metric, says in (("beauty", "expected one of eval_psnr"), ("eval_ssim", "set evals.fid.every_steps")):
        config.checkpoint.best_metric = metric
        with pytest.raises(ValueError, match=says):
            Run(config, tmp_path / "run", TASKS["tokenizer"])


@pytest.mark.slow
def test_gfid_of_a_generator(small_inception, tmp_path):
    small_tokenizers.tokenizer(small_tokenizers.config()).save_pretrained(tmp_path / "tokenizer")
    config = generator_config("sit", "B")
    config.tokenizer = str(tmp_path / "tokenizer")
    config.model.update(num_tokens=8, channels=6, num_classes=8, width=32, depth=1, num_heads=2, dtype="float32")
    config.sampling.update(steps=2)
    config.optim.update(learning_rate=3.0, warmup_epochs=0.0, ema_decay=0.0)  # from zero far enough to be seen
    config.train.update(batch_size=8, num_steps=2)
    config.data.update(source="embedded", augment="random_region", holdout=0.3)
    config.evals.held_out.update(every_steps=0, num_images=8, num_pictures=0)
    config.evals.fid.update(every_steps=1, num_images=20)
    config.checkpoint.best_metric = "eval_gfid"
    Run(config, tmp_path / "run", TASKS["generator"]).train()
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    gfids = {line["step"]: line["eval_gfid"] for line in lines if "eval_gfid" in line}
    assert list(gfids) == [1, 2] and gfids[1] != gfids[2]
    report = json.loads((tmp_path / "run" / "evaluations" / "step_0000002" / "evaluation.json").read_text())
    assert report["protocol"]["name"] == "adm" and report["sampling"]["steps"] == 2
    assert report["counts"] == {"samples": 20, "reference": 20}
