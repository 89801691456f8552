"""kill -9 at random moments: nothing is lost beyond the newest complete save, and the run ends the same bit for bit.

`CAMPAIGN_TRIES=25 CAMPAIGN_SEED=3` kills 25 times, at other moments than with another seed, so that many kills can be
counted over several calls. Every call counts and checks its own.
"""

import collections
import os
import random
import re
import signal
import time

import jax
import numpy as np
import pytest

from tests import small_generators
from tests.campaigns import tries
from tests.campaigns.runner import Runner, complete, content, kill_when, log_of
from tests.train.conftest import tiny

STEPS = 20


def config_of(task, tmp_path):
    if task == "tokenizer":
        config = tiny()
        config.checkpoint.best_metric = "eval_psnr"
    else:
        tokenizer = small_generators.save_tokenizer(tmp_path / "tokenizer")
        config = small_generators.config("sit")
        config.data.update(source="embedded", path="", augment="random_region", holdout=0.3)
        config.tokenizer = str(tokenizer)
        config.checkpoint.best_metric = "eval_loss"
    config.train.num_steps = STEPS
    config.checkpoint.every_steps = 3
    config.evals.held_out.every_steps = 5
    config.log.every_steps = 1
    return config


@pytest.fixture
def runner(request):
    with Runner(request.config.cache.mkdir("campaigns")) as runner:
        yield runner


@pytest.mark.heavy
@pytest.mark.parametrize("task", ["tokenizer", "generator"])
def test_killed_at_random_moments(task, runner, tmp_path, capsys):
    path = tmp_path / "config.json"
    path.write_text(config_of(task, tmp_path).to_json_best_effort())

    def finish(name):
        began = time.monotonic()
        assert runner.code(runner.start(path, tmp_path / name)) == 0, log_of(tmp_path / name).read_text()[-3000:]
        return time.monotonic() - began

    finish("whole")
    seconds, expected = finish("timed"), content(tmp_path / "whole", STEPS)  # with all programs compiled
    rng = random.Random(int(os.environ.get("CAMPAIGN_SEED", 1)))
    total, kills, finished, lost = tries(12), collections.Counter(), 0, 0
    while kills.total() < total or finished == 0:
        workdir, saved, code = tmp_path / f"run{finished}", 0, None
        while code != 0:
            pid = runner.start(path, workdir)
            moment = rng.uniform(0.0, seconds) if kills.total() < total else None
            newest = kill_after(pid, moment, workdir, steer=rng.random() < 0.4, rng=rng)
            code, log = runner.code(pid), log_of(workdir).read_text().rpartition("begins")[2]
            assert code in (0, -signal.SIGKILL), log[-4000:]
            resumed = re.findall(r"resuming after step (\d+)", log)
            lost += bool(resumed) and int(resumed[-1]) < saved
            saved = newest
            kills.update([phase(workdir, log)] if code else [])
        finished += 1
        ours = content(workdir, STEPS)
        assert ours[:2] == expected[:2], workdir
        jax.tree.map(np.testing.assert_array_equal, ours[2], expected[2])
        with capsys.disabled():
            print(f"\n{task}: run {finished} ended bit for bit the same; so far {kills.total()} kills, lost {lost}")
    with capsys.disabled():
        print(f"{task}: {kills.total()} kills of {finished} runs, lost {lost}; {dict(kills)}; {seconds:.1f} s a run")
    assert kills.total() >= total and finished >= 1 and not lost


def kill_after(pid, moment, workdir, *, steer, rng):
    """Kills after `moment` seconds, or steered, while a save is in progress; returns the newest complete step then."""
    deadline, newest = time.monotonic() + (moment or 3600.0), 0

    def now():
        nonlocal newest
        newest = max(complete(workdir), default=0)
        steered = steer and saving(workdir) and rng.random() < 0.02
        return moment is not None and (time.monotonic() > deadline or steered)

    kill_when(pid, now)
    return newest


def saving(workdir):
    return any("tmp" in path.name for path in workdir.glob("checkpoints/*"))


def phase(workdir, log):
    """What a run that was killed was doing."""
    if saving(workdir):
        return "in a save"
    if "compiled in" not in log:
        return "while starting"
    steps = re.findall(r"step (\d+)/", log)
    return "at the end" if steps and int(steps[-1]) == STEPS else "while training"
