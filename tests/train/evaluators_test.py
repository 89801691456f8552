"""The evaluators of a run are entries of its config, user code among them."""

import json
from typing import ClassVar

import jax
import numpy as np
import pytest
from PIL import Image

from softvq_jax.config.evals import add_evaluator
from softvq_jax.train import loop
from softvq_jax.train.evaluator import Evaluation, Evaluator
from softvq_jax.train.preemption import Preempted
from softvq_jax.train.tasks import TASKS


class LargestWeight(Evaluator):
    """A user's evaluator: the largest averaged weight, and a picture of the gray level in its section."""

    better: ClassVar = {"eval_largest_weight": "lower"}

    def __call__(self, state, step):
        self.run.check_preemption()
        weights = jax.tree.leaves(self.run.on_host(state.ema))
        gray = np.full((1, 8, 8, 3), self.section.level, np.uint8)
        return Evaluation({"eval_largest_weight": max(float(np.abs(leaf).max()) for leaf in weights)}, {"gray": [gray]})


@pytest.fixture
def config(tiny_config):
    add_evaluator(tiny_config, "mine", f"{__name__}:LargestWeight", every_steps=4, level=7)
    tiny_config.gan.discriminator = "none"
    return tiny_config


def run(config, workdir):
    return loop.Run(config, workdir, TASKS["tokenizer"])


def lines(workdir):
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.slow
def test_an_evaluator_of_the_user_runs_on_its_schedule_and_chooses_the_best_step(config, tmp_path):
    config.checkpoint.best_metric = "eval_largest_weight"
    metrics = run(config, tmp_path / "run").train()
    found = {x["step"]: x["eval_largest_weight"] for x in lines(tmp_path / "run") if "eval_largest_weight" in x}
    assert list(found) == [4, 6] and metrics["eval_largest_weight"] == found[6] and "eval_psnr" in metrics
    assert [x["step"] for x in lines(tmp_path / "run") if "eval_psnr" in x] == [6]
    assert (np.asarray(Image.open(tmp_path / "run" / "images" / "gray_0000004.png")) == 7).all()
    best = min(found, key=found.get)
    assert [x.name for x in (tmp_path / "run" / "best" / "checkpoints").iterdir() if x.name.isdigit()] == [str(best)]


@pytest.mark.slow
def test_a_preemption_inside_an_evaluator_saves_the_step(config, tmp_path, preempt_at):
    with preempt_at(5), pytest.raises(Preempted):  # after the questions of four steps
        run(config, tmp_path / "run").train()
    assert "eval_largest_weight" not in (tmp_path / "run" / "metrics.jsonl").read_text()
    again = run(config, tmp_path / "run")
    assert again.checkpoints.latest_step() == 4
    assert "eval_largest_weight" in again.train()


@pytest.mark.parametrize(
    ("evaluator", "says"),
    [
        ("", r"evals\.mine is not one of held_out, fid, nearest_class: set evals\.mine\.evaluator="),
        ("no_such_module:Mine", r"evals\.mine\.evaluator='no_such_module:Mine': No module named 'no_such_module'"),
        (f"{__name__}:Nothing", r"no attribute 'Nothing'; expected 'package\.module:Class'"),
    ],
)
def test_an_evaluator_that_cannot_be_found_is_refused_at_the_start(config, tmp_path, evaluator, says):
    config.evals.mine.evaluator = evaluator
    with pytest.raises(ValueError, match=says):
        run(config, tmp_path / "run")


def test_samples_of_a_tokenizer_have_no_class(config, tmp_path):
    add_evaluator(config, "nearest_class", "", every_steps=1, num_samples=8)
    with pytest.raises(ValueError, match="needs images of a class-conditional generator"):
        run(config, tmp_path / "run")
