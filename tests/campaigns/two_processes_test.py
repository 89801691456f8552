"""Every generator family on two processes, killed in the middle: they go on together, and end the same bit for bit."""

import os
import signal

import jax
import numpy as np
import pytest

from softvq_jax.generators.family import FAMILIES
from tests import small_generators
from tests.campaigns.runner import Runner, complete, content, kill_when
from tests.programs import QUICK_COMPILATION, free_port

STEPS = 6


@pytest.fixture(scope="module")
def runner(tmp_path_factory):
    """Its processes have one device each."""
    env = QUICK_COMPILATION | {"JAX_NUM_CPU_DEVICES": "1", "NPROC": "8"}
    with Runner(tmp_path_factory.mktemp("cache"), env) as runner:
        yield runner


def config_of(family, folder):
    """A run of two processes that share every array."""
    bottleneck = "vq" if FAMILIES[family].discrete else "softvq"
    tokenizer = small_generators.save_tokenizer(folder / "tokenizer", bottleneck=bottleneck)
    config = small_generators.config(family, source="embedded", path="", augment="random_region", holdout=0.3)
    config.tokenizer = str(tokenizer)
    config.train.num_steps = STEPS
    config.mesh.fsdp = 2
    return config


@pytest.mark.heavy  # a minute for each family; `survival_test` shows two processes of a tokenizer
@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_a_kill_of_two_processes(family, runner, tmp_path):
    path, whole, cut = tmp_path / "config.json", tmp_path / "whole", tmp_path / "cut"
    path.write_text(config_of(family, tmp_path).to_json_best_effort())

    def start(workdir):
        address = f"127.0.0.1:{free_port()}"
        return [runner.start(path, workdir, address, 2, process) for process in range(2)]

    def codes(workdir):
        return [runner.code(pid) for pid in start(workdir)]

    assert codes(whole) == [0, 0], runner.log_of(whole).read_text()[-4000:]

    first, second = start(cut)
    kill_when(second, lambda: complete(cut))  # as by a lack of memory
    assert runner.code(second) == -signal.SIGKILL, runner.log_of(cut).read_text()[-4000:]
    os.kill(first, signal.SIGKILL)  # it waits in its next collective operation
    runner.code(first)
    saved = complete(cut)[-1]
    assert saved < STEPS
    assert codes(cut) == [0, 0], runner.log_of(cut).read_text()[-4000:]
    assert f"resuming after step {saved}" in runner.log_of(cut).read_text()
    ours, expected = content(cut, STEPS), content(whole, STEPS)
    assert ours[:2] == expected[:2]
    jax.tree.map(np.testing.assert_array_equal, ours[2], expected[2])
