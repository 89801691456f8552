"""kill -9 at random moments: nothing is lost beyond the newest complete save, and the run ends the same bit for bit."""

import contextlib
import json
import os
import pathlib
import random
import re
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

from softvq_jax.train.speed import TIMES
from softvq_jax.weights.files import read_tensors
from tests import small_generators
from tests.campaigns import tries
from tests.programs import ROOT
from tests.train.conftest import tiny

STEPS = 20


class Runner:
    """Starts runs of one config in processes that fork from one that has imported JAX."""

    def __init__(self, config, folder):
        self.config = folder / "config.json"
        self.config.write_text(config.to_json_best_effort())
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.programs.fork_runs"],
            cwd=ROOT,
            env=os.environ | {"JAX_PLATFORMS": "cpu"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def start(self, workdir):
        self._process.stdin.write(f"{self.config} {workdir}\n")
        self._process.stdin.flush()
        return int(self._process.stdout.readline())

    def code(self):
        return int(self._process.stdout.readline())

    def close(self):
        self._process.stdin.close()
        self._process.wait(60)


def complete(workdir):
    folder = workdir / "checkpoints"
    return sorted(int(path.name) for path in folder.iterdir() if path.name.isdigit()) if folder.exists() else []


def content(workdir):
    """Everything that a run leaves which must not depend on interruptions."""
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    for line in lines:
        for name in TIMES:
            line.pop(name, None)
    [record] = workdir.glob(f"checkpoints/{STEPS}/record/metadata")
    kept = [path for path in (workdir / "tokenizer", workdir / "generator", workdir / "best") if path.exists()]
    weights = {
        str(path.relative_to(workdir)): read_tensors(path) for folder in kept for path in folder.rglob("*.safetensors")
    }
    return lines, json.loads(record.read_text())["digest"], weights


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
@pytest.mark.parametrize("task", ["tokenizer", "generator"])
def test_killed_at_random_moments(task, tmp_path, capsys):
    config = config_of(task, tmp_path)
    runner, rng = Runner(config, tmp_path), random.Random(1)
    whole = tmp_path / "whole"
    runner.start(whole)
    assert runner.code() == 0, pathlib.Path(f"{whole}.log").read_text()[-3000:]
    began = time.monotonic()
    runner.start(tmp_path / "timed")  # with all programs compiled
    assert runner.code() == 0
    seconds, expected = time.monotonic() - began, content(whole)
    total, killed, finished, lost = tries(12), 0, 0, 0
    while killed < total or finished == 0:
        workdir, saved = tmp_path / f"run{finished}", 0
        code = None
        while code != 0:
            pid = runner.start(workdir)
            moment = rng.uniform(0.0, seconds) if killed < total else None
            newest = kill_after(pid, moment, workdir, steer=rng.random() < 0.4, rng=rng)
            code, log = runner.code(), pathlib.Path(f"{workdir}.log").read_text()
            assert code in (0, -signal.SIGKILL), log[-4000:]
            resumed = re.findall(r"resuming after step (\d+)", log.rpartition("begins")[2])
            lost += bool(resumed) and int(resumed[-1]) < saved
            saved = newest
            killed += code != 0
        finished += 1
        ours = content(workdir)
        assert ours[:2] == expected[:2], workdir
        jax.tree.map(np.testing.assert_array_equal, ours[2], expected[2])
    with capsys.disabled():
        print(f"\n{task}: {killed} kills of {finished} runs, lost {lost}; all ended bit for bit the same")
    runner.close()
    assert not lost


def kill_after(pid, moment, workdir, *, steer, rng):
    """Kills after `moment` seconds, or steered, while a save is in progress; returns the newest complete step then."""
    deadline, newest = time.monotonic() + (moment or 3600.0), 0
    while runs(pid):
        newest = max(complete(workdir), default=0)
        saving = steer and any("tmp" in path.name for path in workdir.glob("checkpoints/*"))
        if moment is not None and (time.monotonic() > deadline or (saving and rng.random() < 0.01)):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            break
        time.sleep(0.0005)
    return newest


def runs(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
