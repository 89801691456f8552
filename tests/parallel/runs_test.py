"""Whole runs of generators, with FID during training: on two processes as on one, and resumed on fewer devices."""

import json
import shutil

import numpy as np
import pytest

from softvq_jax.generators.family import FAMILIES
from softvq_jax.train.speed import TIMES
from tests import programs, small_generators

CONFIG = """
from tests import small_generators


def get_config():
    config = small_generators.config({family!r}, source="embedded", path="", augment="random_region", holdout=0.3)
    config.tokenizer = {tokenizer!r}
    config.sampling.steps = 2
    config.optim.eps = 1e-2  # steps follow the gradients' sizes; see tests.programs.gan_steps
    config.evals.held_out.num_pictures = 0
    config.evals.fid.update(every_steps=2, num_images=16, weights="small")
    return config
"""


def run(folder, workdir, **machines) -> list[str]:
    flags = (f"--config={folder / 'config.py'}", f"--workdir={workdir}")
    return programs.run("fid_main", *flags, timeout=3000, **machines)


def lines(workdir, *, after=0) -> list[dict]:
    found = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k not in TIMES} for line in found if line["step"] > after]


def assert_same(ours, theirs):
    """Checks that two runs logged the same values; FID sees the rounding of uint8 images."""
    assert [line.keys() for line in ours] == [line.keys() for line in theirs]
    for line, expected in zip(ours, theirs, strict=True):
        for name, value in expected.items():
            tolerance = 1e-2 if name == "eval_gfid" else 1e-3 if name.endswith("norm") or "is_" in name else 1e-4
            np.testing.assert_allclose(line[name], value, rtol=tolerance, err_msg=f"{name} at {line['step']}")


@pytest.fixture(scope="module", params=sorted(FAMILIES))
def whole(request, tmp_path_factory):
    """A folder with a config and its run of four steps on one process with eight devices, `run`."""
    folder = tmp_path_factory.mktemp(request.param)
    bottleneck = "vq" if FAMILIES[request.param].discrete else "softvq"
    tokenizer = small_generators.save_tokenizer(folder / "tokenizer", bottleneck=bottleneck)
    (folder / "config.py").write_text(CONFIG.format(family=request.param, tokenizer=str(tokenizer)))
    run(folder, folder / "run", devices=8)
    return folder


@pytest.mark.heavy
def test_a_run_resumes_on_fewer_devices_with_the_same_losses(whole, tmp_path):
    cut = shutil.copytree(whole / "run", tmp_path / "cut")
    shutil.rmtree(cut / "checkpoints" / "4")
    [output] = run(whole, cut, devices=2)
    assert "each step accumulates gradients over 4 microbatches of 1 images per device" in output
    assert "resuming after step 2" in output
    assert [line["step"] for line in lines(cut, after=2)] == [3, 4, 4]
    assert_same(lines(cut), lines(whole / "run"))


@pytest.mark.heavy
def test_two_processes_of_four_devices_equal_one_of_eight(whole, tmp_path):
    run(whole, tmp_path / "two", processes=2, devices=4)
    assert_same(lines(tmp_path / "two"), lines(whole / "run"))
