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

from softvq_jax.storage.paths import is_remote
from softvq_jax.weights.checkpoints import step_of
from tests import small_generators
from tests.campaigns import tries
from tests.campaigns.runner import Runner, complete, content, kill_when
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


@pytest.mark.heavy
@pytest.mark.parametrize("place", ["disk", "gs", "s3"])
@pytest.mark.parametrize("task", ["tokenizer", "generator"])
def test_killed_at_random_moments(task, place, request, tmp_path, capsys):
    """The runs that are killed are on the disk or in a bucket; the one that is not killed is on the disk."""
    root = tmp_path if place == "disk" else request.getfixturevalue(f"{place}_folder")
    with Runner(request.config.cache.mkdir("campaigns"), logs=tmp_path) as runner:
        run_campaign(task, root, runner, tmp_path, capsys)


def run_campaign(task, root, runner, tmp_path, capsys):
    path = tmp_path / "config.json"
    path.write_text(config_of(task, tmp_path).to_json_best_effort())

    def finish(workdir):
        began = time.monotonic()
        assert runner.code(runner.start(path, workdir)) == 0, runner.log_of(workdir).read_text()[-3000:]
        return time.monotonic() - began

    finish(tmp_path / "whole")
    seconds, expected = finish(root / "timed"), content(tmp_path / "whole", STEPS)  # with all programs compiled
    rng = random.Random(int(os.environ.get("CAMPAIGN_SEED", 1)))
    total, kills, finished, lost = tries(12), collections.Counter(), 0, 0
    while kills.total() < total or finished == 0:
        workdir, saved, code = root / f"run{finished}", 0, None
        while code != 0:
            pid = runner.start(path, workdir)
            moment = rng.uniform(0.0, seconds) if kills.total() < total else None
            newest = kill_after(pid, moment, workdir, steer=rng.random() < 0.4, rng=rng)
            code, log = runner.code(pid), runner.log_of(workdir).read_text().rpartition("begins")[2]
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
            print(
                f"\n{task}, {root}: run {finished} ended bit for bit the same; so far {kills.total()} kills, lost {lost}"
            )
    with capsys.disabled():
        print(
            f"{task}, {root}: {kills.total()} kills of {finished} runs, lost {lost}; {dict(kills)}; {seconds:.1f} s a run"
        )
    assert kills.total() >= total and finished >= 1 and not lost


def kill_after(pid, moment, workdir, *, steer, rng):
    """Kills after `moment` seconds, or steered, while a save is in progress; returns the newest complete step then."""
    deadline, newest = time.monotonic() + (moment or 3600.0), 0
    pause, chance = (0.05, 0.3) if is_remote(workdir) else (0.004, 0.02)

    def now():
        nonlocal newest
        newest = max(complete(workdir), default=0)
        steered = steer and saving(workdir) and rng.random() < chance
        return moment is not None and (time.monotonic() > deadline or steered)

    kill_when(pid, now, pause)
    return newest


def saving(workdir):
    """Whether a checkpoint is being written: it has a temporary name, or in a bucket no marker."""
    paths = (workdir / "checkpoints").glob("*")
    return any("tmp" in path.name or (is_remote(path) and step_of(path) is None) for path in paths)


def phase(workdir, log):
    """What a run that was killed was doing."""
    if saving(workdir):
        return "in a save"
    if "compiled in" not in log:
        return "while starting"
    steps = re.findall(r"step (\d+)/", log)
    return "at the end" if steps and int(steps[-1]) == STEPS else "while training"
