"""Runs of `python -m softvq_jax.main` that are killed, preempted, resumed, and spread over processes."""

import itertools
import json
import os
import random
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict

from softvq_jax.train.preemption import EXIT_CODE
from softvq_jax.train.speed import TIMES
from softvq_jax.train.tokenizer_task import TokenizerTask
from softvq_jax.weights.files import read_tensors
from tests.programs import QUICK_COMPILATION, ROOT, free_port, join_flags

STEPS = 28
SHORT = {  # for runs on several devices, whose steps take a second each; the weights must still change
    "train.num_steps": 8,
    "train.batch_size": 8,
    "optim.warmup_epochs": 0.0,
    "optim.learning_rate": 3e-2,
    "optim.eps": 1e-2,  # steps follow the gradients' sizes; see tests.programs.gan_steps
    "optim.ema_decay": 0.5,
}
FLAGS = {
    "config": "configs/tiny_patches.py",
    "config.model.image_size": 48,
    "config.model.encoder.patch_size": 12,
    "config.model.decoder.patch_size": 12,
    "config.model.num_latent_tokens": 8,
    "config.model.codebook_size": 32,
    "config.gan.discriminator": "patchgan",
    "config.gan.start_step": 2,
    "config.gan.consistency_weight": 0.0,
    "config.optim.learning_rate": 1e-3,
    "config.train.batch_size": 4,
    "config.train.num_steps": STEPS,
    "config.checkpoint.every_steps": 4,
    "config.log.every_steps": 1,
    "config.evals.held_out.every_steps": 0,
    "config.evals.held_out.num_images": 8,
}


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    """Compiled programs, shared by all runs here."""
    return tmp_path_factory.mktemp("cache")


def start(workdir, cache, *, processes=1, devices=1, **fields) -> list[subprocess.Popen]:
    """Starts a run on `processes` processes of `devices` CPU devices; output goes to `<workdir>/log.<process>`."""
    workdir.mkdir(exist_ok=True)
    values = FLAGS | {"workdir": workdir} | {f"config.{name}": value for name, value in fields.items()}
    if cache is not None:
        values["compilation_cache"] = cache
    flags, address = [f"--{name}={value}" for name, value in values.items()], f"127.0.0.1:{free_port()}"
    env = os.environ | {"JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": str(devices), "NPROC": str(8 * devices)}
    env |= {"JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
    if cache is None:
        env["JAX_ENABLE_COMPILATION_CACHE"] = "false"
    if fields.get("gan.discriminator") == "none":  # steps with a GAN take longer then than their compilation saves
        env |= QUICK_COMPILATION
    running = []
    for process in range(processes):
        join = join_flags(address, processes, process) if processes > 1 else []
        command = [sys.executable, "-m", "tests.programs.recorded_main", *flags, *join]
        with (workdir / f"log.{process}").open("a") as log:
            running.append(subprocess.Popen(command, cwd=ROOT, env=env, stdout=log, stderr=log))
        running[-1].log = workdir / f"log.{process}"
    return running


def finish(running, expected=0, timeout=600) -> None:
    """Waits for all; AssertionError with their output where one ends with another code."""
    for process in running:
        code = process.wait(timeout)
        assert code == expected, f"exit code {code}: {process.log.read_text()[-4000:]}"


def wait_for(condition, running, timeout=600.0):
    """Polls until `condition()` holds; AssertionError if the run ends before."""
    deadline = time.monotonic() + timeout
    while not condition():
        assert running[0].poll() is None and time.monotonic() < deadline, running[0].log.read_text()[-4000:]
        time.sleep(0.001)


def last_step(workdir) -> int:
    path = workdir / "metrics.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    return max((json.loads(line)["step"] for line in lines if line.endswith("}")), default=0)


def saving(workdir) -> bool:
    """Returns whether a checkpoint is being written: it has a temporary name until it is complete."""
    folder = workdir / "checkpoints"
    return folder.exists() and any("tmp" in path.name for path in folder.iterdir())


def complete(workdir) -> list[int]:
    folder = workdir / "checkpoints"
    return sorted(int(path.name) for path in folder.iterdir() if path.name.isdigit()) if folder.exists() else []


def logged(workdir, after=0) -> dict[int, dict]:
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return {line["step"]: line for line in lines if "generator_total" in line and line["step"] > after}


def parameters(workdir) -> dict[str, np.ndarray]:
    return read_tensors(workdir / "tokenizer" / "model.safetensors")


def initial(workdir) -> dict[str, np.ndarray]:
    """Returns the initial parameters of a run."""
    config = ConfigDict(json.loads((workdir / "config.json").read_text()))
    task = TokenizerTask.open(config)
    state = jax.jit(task.init)(jax.random.key(config.seed), task.initial)
    task.export(jax.device_get(state.ema)).save_pretrained(workdir / "initial")
    return read_tensors(workdir / "initial" / "model.safetensors")


def digest(workdir) -> list[int]:
    """Returns the checksum of every array of the last checkpoint: parameters, moments, averages, buffers."""
    last = complete(workdir)[-1]
    record = json.loads((workdir / "checkpoints" / str(last) / "record" / "metadata").read_text())
    assert record["step"] == last and record["next_sample"] == last * FLAGS["config.train.batch_size"]
    return record["digest"]


def assert_same(ours, theirs):
    assert digest(ours) == digest(theirs)
    one, two = parameters(ours), parameters(theirs)
    assert one.keys() == two.keys()
    for name, array in one.items():
        np.testing.assert_array_equal(array, two[name], err_msg=name)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory, cache):
    workdir = tmp_path_factory.mktemp("runs") / "whole"
    finish(start(workdir, cache))
    return workdir


def test_a_killed_run_ends_bit_for_bit_the_same(cache, tmp_path):
    whole, workdir, steps = tmp_path / "whole", tmp_path / "run", 20
    fields = {"gan.discriminator": "none", "train.num_steps": steps}  # compiles faster
    finish(start(whole, cache, **fields))
    running = start(workdir, cache, **fields)
    wait_for(lambda: last_step(workdir) >= 5 and complete(workdir), running)
    running[0].kill()
    finish(running, -signal.SIGKILL)
    assert max(complete(workdir)) < steps
    finish(start(workdir, cache, **fields))
    assert complete(workdir)[-1] == steps
    assert_same(workdir, whole)


@pytest.mark.heavy  # two and a half minutes
def test_a_run_killed_between_saves_and_in_one_ends_bit_for_bit_the_same(uninterrupted, cache, tmp_path):
    workdir, moment = tmp_path / "run", random.randint(5, 9)
    running = start(workdir, cache)
    wait_for(lambda: last_step(workdir) >= moment and complete(workdir), running)
    running[0].kill()
    finish(running, -signal.SIGKILL)
    first = complete(workdir)

    running = start(workdir, cache)
    wait_for(lambda: last_step(workdir) >= first[-1] + 6, running)
    wait_for(lambda: saving(workdir), running)
    running[0].kill()
    finish(running, -signal.SIGKILL)
    assert saving(workdir)  # The unfinished checkpoint is still there.

    finish(start(workdir, cache))
    assert not saving(workdir)  # The unfinished checkpoint is removed.
    assert_same(workdir, uninterrupted)


@pytest.mark.heavy  # two minutes; `loop_test` shows the same in one process
def test_preemption_while_compiling_evaluating_and_saving(uninterrupted, cache, tmp_path):
    workdir = tmp_path / "run"
    log = lambda: (workdir / "log.0").read_text()  # noqa: E731

    def stop_when(condition, **fields):
        running = start(workdir, fields.pop("cache", cache), **fields)
        wait_for(condition, running)
        running[0].send_signal(signal.SIGTERM)
        finish(running, EXIT_CODE)

    stop_when(lambda: "config:" in log())  # before data and weights are open
    assert "compiling" not in log()
    stop_when(lambda: "compiling the training step" in log(), cache=None)
    assert not complete(workdir)
    stop_when(lambda: f"step 6/{STEPS}" in log(), **{"evals.held_out.every_steps": 6, "evals.held_out.num_images": 64})
    assert "step 6, held out" not in log()  # it exits before the end of the evaluation
    [saved] = complete(workdir)[-1:]
    assert saved == 6
    stop_when(lambda: last_step(workdir) > saved and saving(workdir))
    assert complete(workdir)[-1] > saved
    finish(start(workdir, cache))
    assert_same(workdir, uninterrupted)


@pytest.mark.heavy  # three minutes; `gan_steps_test` and `failure_test` have two processes, too
def test_two_processes_equal_one_and_resume_as_one(cache, tmp_path):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    short = SHORT | {"mesh.fsdp": 2, "checkpoint.every_steps": 100}
    finish(start(whole, cache, devices=8, **short))
    running = start(cut, cache, processes=2, devices=4, **short)
    wait_for(lambda: last_step(cut) >= 3, running)
    running[1].send_signal(signal.SIGTERM)  # One process gets the signal; both save and exit.
    finish(running, EXIT_CODE)
    stopped = complete(cut)[-1]
    finish(start(cut, cache, devices=4, **(short | {"mesh.fsdp": 4})))

    size = SHORT["train.batch_size"]
    read = [json.loads(line) for line in (cut / "read.0").read_text().splitlines()]
    others = [json.loads(line) for line in (cut / "read.1").read_text().splitlines()]
    together = [sorted(a + b) for a, b in zip(read, others, strict=False)][:stopped]
    alone = [row for row in read if len(row) == size]
    assert [*itertools.chain(*together, *alone)] == list(range(SHORT["train.num_steps"] * size))
    for step, line in logged(cut).items():
        for name, value in logged(whole)[step].items():
            if name not in TIMES:
                tolerance = 1e-3 if name.endswith("_norm") else 1e-4
                np.testing.assert_allclose(line[name], value, rtol=tolerance, atol=1e-6, err_msg=f"{name} at {step}")
    fresh = initial(whole)
    ours, theirs = (
        np.concatenate([(array - fresh[name]).ravel() for name, array in parameters(workdir).items()])
        for workdir in (cut, whole)
    )
    assert np.linalg.norm(theirs) > 1e-2
    assert np.linalg.norm(ours - theirs) < 1e-2 * np.linalg.norm(theirs)
