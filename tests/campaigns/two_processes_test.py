"""Every generator family on two processes, killed in the middle: they go on together, and end the same bit for bit."""

import json
import os
import signal
import subprocess
import sys

import pytest

from softvq_jax.generators.family import FAMILIES
from tests import small_generators
from tests.programs import QUICK_COMPILATION, ROOT, free_port, join_flags
from tests.train.survival_test import complete, finish, last_step, wait_for

STEPS = 8
CONFIG = """
from tests import small_generators

def get_config():
    config = small_generators.config({family!r}, source="embedded", path="", augment="random_region", holdout=0.3)
    config.tokenizer = {tokenizer!r}
    config.train.num_steps = {steps}
    config.mesh.fsdp = 2
    return config
"""


def start(workdir, config, cache):
    """Starts two processes of one device each, which share every array."""
    workdir.mkdir(exist_ok=True)
    address, running = f"127.0.0.1:{free_port()}", []
    env = os.environ | QUICK_COMPILATION | {"JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": "1", "NPROC": "8"}
    env |= {"JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
    for process in range(2):
        flags = [f"--config={config}", f"--workdir={workdir}", f"--compilation_cache={cache}"]
        command = [sys.executable, "-m", "softvq_jax.main", *flags, *join_flags(address, 2, process)]
        with (workdir / f"log.{process}").open("a") as log:
            running.append(subprocess.Popen(command, cwd=ROOT, env=env, stdout=log, stderr=log))
        running[-1].log = workdir / f"log.{process}"
    return running


def content(workdir):
    """What a run leaves which must not depend on the kill."""
    record = json.loads((workdir / "checkpoints" / str(STEPS) / "record" / "metadata").read_text())
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    for line in lines:
        line.pop("images_per_second", None)
    return record["digest"], lines


@pytest.mark.heavy  # six starts of JAX for each family; `survival_test` shows two processes of a tokenizer
@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_a_kill_of_two_processes(family, tmp_path):
    bottleneck = "vq" if family == "maskgit" else "softvq"
    tokenizer = str(small_generators.save_tokenizer(tmp_path / "tokenizer", bottleneck=bottleneck))
    config = tmp_path / "config.py"
    config.write_text(CONFIG.format(family=family, tokenizer=tokenizer, steps=STEPS))
    whole, cut, cache = tmp_path / "whole", tmp_path / "cut", tmp_path / "cache"
    finish(start(whole, config, cache))

    running = start(cut, config, cache)
    wait_for(lambda: last_step(cut) >= 3 and complete(cut), running)
    running[1].kill()  # as by a lack of memory; the other waits in its next collective operation, and is ended as well
    finish(running[1:], -signal.SIGKILL)
    running[0].kill()
    running[0].wait()
    saved = complete(cut)[-1]
    assert saved < STEPS
    finish(start(cut, config, cache))
    assert f"resuming after step {saved}" in (cut / "log.0").read_text()
    assert content(cut) == content(whole)
