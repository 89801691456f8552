"""Going on with other settings, on request: what may change, what is recorded, and the advice after a NaN."""

import json
import logging
import re
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from softvq_jax.train import compatibility, loop, notes
from softvq_jax.train.metrics import NonFinite
from softvq_jax.train.run_record import RunRecord
from softvq_jax.train.tasks import TASKS
from softvq_jax.train.tokenizer_step import TokenizerStep
from tests.train.start_test import small


def run(config, workdir, **options):
    return loop.Run(config, workdir, TASKS["tokenizer"], **options)


@pytest.fixture(scope="module")
def finished_once(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("finished") / "run"
    run(small(), workdir).train()
    return workdir


@pytest.fixture
def finished(finished_once, tmp_path):
    shutil.copytree(finished_once, tmp_path / "run")
    return tmp_path / "run"


def record_of(workdir, step):
    return json.loads((workdir / "checkpoints" / str(step) / "record" / "metadata").read_text())


SAVED = {"train.batch_size": 8, "optim.learning_rate": 1e-4, "optim.schedule": "cosine", "model.latent_dim": 8}


def test_only_some_fields_may_change():
    changed = SAVED | {"train.batch_size": 16, "optim.learning_rate": 1e-5}
    with pytest.raises(compatibility.ConfigMismatch, match="go on with them by --resume_with_changes"):
        compatibility.check_config(SAVED, changed)
    compatibility.check_config(SAVED, changed, allow_changes=True)
    for field, value in (("optim.schedule", "constant"), ("model.latent_dim", 4)):
        with pytest.raises(compatibility.ConfigMismatch) as error:
            compatibility.check_config(SAVED, changed | {field: value}, allow_changes=True)
        assert [line.split(":")[0].strip() for line in str(error.value).splitlines()[1:-1]] == [field]
        assert "--resume_with_changes" not in str(error.value)


def test_fields_that_older_versions_lack_have_their_defaults():
    defaults = {"init_from": "", "freeze": "", "optim.ema_warmup": False}
    compatibility.check_config(SAVED, SAVED | defaults, defaults)
    with pytest.raises(compatibility.ConfigMismatch, match="freeze: '' in the checkpoint, 'encoder' now"):
        compatibility.check_config(SAVED, SAVED | defaults | {"freeze": "encoder"}, defaults, allow_changes=True)


def test_the_position_in_the_data_counts_from_each_change():
    before = RunRecord(SAVED, {}, {}, {"fingerprint": "", "parts": {}}, {})
    assert before.at_step(5)["next_sample"] == 40
    after = RunRecord(SAVED | {"train.batch_size": 16}, {}, {}, before.data, {}).after(before.at_step(5))
    assert [after.at_step(step)["next_sample"] for step in (5, 6, 7)] == [40, 56, 72]
    assert after.at_step(6)["changes"] == [{"step": 5, "next_sample": 40, "fields": {"train.batch_size": [8, 16]}}]
    again = RunRecord(SAVED | {"train.batch_size": 4}, {}, {}, before.data, {}).after(after.at_step(7))
    assert again.at_step(9)["next_sample"] == 72 + 2 * 4 and len(again.changes) == 2
    again.check_position(again.at_step(9))
    with pytest.raises(ValueError, match=r"continues with sample 80, .* lead to 84"):
        again.check_position(again.at_step(10) | {"next_sample": 80})


@pytest.mark.slow
def test_a_finished_run_goes_on_longer_with_another_rate_and_batch(finished, caplog):
    config = small()
    config.train.update(num_steps=7, batch_size=16)
    config.optim.update(learning_rate=5e-5, ema_decay=0.5)
    with pytest.raises(compatibility.ConfigMismatch, match="--resume_with_changes"):
        run(config, finished)._restore_or_init()
    with caplog.at_level(logging.INFO):
        run(config, finished, allow_changes=True).train()
    lines = [json.loads(line) for line in (finished / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "generator_total" in line] == [1, 2, 3, 4, 5, 6, 7]
    record = record_of(finished, 7)
    [change] = record["changes"]
    assert change["step"] == 4 and change["next_sample"] == 32 and record["next_sample"] == 32 + 3 * 16
    assert change["fields"] == {
        "optim.ema_decay": [0.9, 0.5],
        "optim.learning_rate": [1e-4, 5e-5],
        "train.batch_size": [8, 16],
        "train.num_steps": [4, 7],
    }
    assert "the run ends at step 7, before at 4" in caplog.text
    # The rate of step 5 before: after the end of the old cosine, 0.1 of its peak.
    logged = next(line["learning_rate"] for line in lines if line["step"] == 5)
    progress = (4 - 1) / (7 - 1)
    expected = 5e-5 * 16 / 256 * (0.1 + 0.9 * 0.5 * (1 + np.cos(np.pi * progress)))
    np.testing.assert_allclose(logged, expected, rtol=1e-5)
    # 0.1 of the old peak is 3.125e-07, which is rounded up or down.
    assert f"the learning rate of step 5 is {expected:.3g}, with the old settings 3.1" in caplog.text

    run(config, finished).train()  # the same command without the flag now resumes
    with pytest.raises(compatibility.ConfigMismatch):
        run(small(), finished)._restore_or_init()
    config.train.num_steps = 5
    with pytest.raises(ValueError, match=r"the checkpoint is of step 7, but the run ends at step 5"):
        run(config, finished, allow_changes=True)._restore_or_init()


@pytest.mark.slow
def test_the_advice_after_a_nan_works(tmp_path, monkeypatch):
    """A loss that is not finite for the samples of one step, in the order of seed 0."""
    step = TokenizerStep.__call__

    def broken(self, state, frozen, batch, key):
        state, metrics = step(self, state, frozen, batch, key)
        bad = jnp.where((state.step == 4) & (self.config.seed == 0), jnp.nan, 1.0)
        params = jax.tree.map(lambda leaf: leaf * bad, state.tokenizer.params)
        state = state.replace(tokenizer=state.tokenizer.replace(params=params))
        return state, metrics | {"reconstruction": metrics["reconstruction"] * bad}

    monkeypatch.setattr(TokenizerStep, "__call__", broken)
    config = small()
    config.train.num_steps = 6
    with pytest.raises(
        NonFinite, match=r"reconstruction is nan at step 4; the run stops\. The newest .* of step 2"
    ) as error:
        run(config, tmp_path / "run").train()
    assert (tmp_path / "run" / "checkpoints" / "2").is_dir()
    fields = dict(re.findall(r"--config\.([\w.]+)=([\w.e-]*\w)", str(error.value)))
    assert fields == {"optim.learning_rate": "5e-05", "seed": "1"} and "--resume_with_changes" in str(error.value)
    config.update_from_flattened_dict({"optim.learning_rate": float(fields["optim.learning_rate"]), "seed": 1})
    results = run(config, tmp_path / "run", allow_changes=True).train()
    assert np.isfinite(results["eval_psnr"])
    record = record_of(tmp_path / "run", 6)
    assert record["changes"][0]["fields"] == {"optim.learning_rate": [1e-4, 5e-5], "seed": [0, 1]}


def test_the_advice_names_what_there_is(tmp_path):
    config = small()
    assert "no checkpoint yet: start again" in notes.after_non_finite(3, [], config, tmp_path)
    assert "step 2. Go on" in notes.after_non_finite(4, [2], config, tmp_path)
    config.optim.update(optimizer="muon", muon_learning_rate=0.02)
    assert "--config.optim.learning_rate=5e-05 --config.optim.muon_learning_rate=0.01" in notes.after_non_finite(
        4, [2], config, tmp_path
    )
    assert f"move {tmp_path}/checkpoints/4 away, to go on from step 2" in notes.after_non_finite(
        5, [2, 4], config, tmp_path
    )
