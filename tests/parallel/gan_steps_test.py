"""Training steps do not depend on mesh or processes, and gather the weights of one block at a time."""

import json

import numpy as np
import pytest

from tests import programs

PARTS = ("generator", "discriminator", "ema", "buffers", "lecam")
PER_TENSOR, FLOOR = (
    3e-3,
    1e-2,
)  # a tensor that moves less than this share of its network rounds more, relative to its move


def run(folder, *meshes):
    """Returns `{mesh: (arrays, summary)}` of `tests.programs.gan_steps` on eight devices."""
    programs.run("gan_steps", folder, *meshes, devices=8, timeout=900, env=programs.OPTIMIZED)
    return {
        mesh: (mesh == "copying" or np.load(folder / f"{mesh}.npz"), json.loads((folder / f"{mesh}.json").read_text()))
        for mesh in meshes
    }


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Runs on one device, and on eight with parameters in two shards."""
    return run(tmp_path_factory.mktemp("steps"), "1,1", "4,2")


@pytest.fixture(scope="module")
def other_runs(tmp_path_factory):
    """Runs on other meshes; "copying" first gathers all parameters."""
    return run(tmp_path_factory.mktemp("other_steps"), "8,1", "1,8", "copying")


def assert_same_steps(spread, alone) -> None:
    """Checks that two runs logged the same values, and changed every tensor by the same amount."""
    for name in (name for name in alone.files if name.startswith("log ")):
        tolerance = 1e-3 if name.endswith("_norm") else 1e-4
        np.testing.assert_allclose(spread[name], alone[name], rtol=tolerance, atol=1e-7, err_msg=name)
    for part in PARTS:
        names = [name for name in alone.files if name.startswith(f"['{part}']")]
        lengths = np.array([np.linalg.norm(alone[name]) for name in names])
        apart = np.array([np.linalg.norm(spread[name] - alone[name]) for name in names])
        whole = np.linalg.norm(lengths)
        assert whole > 1e-2
        assert np.linalg.norm(apart) < 1e-3 * whole, part
        for name, length, difference in zip(names, lengths, apart, strict=True):  # small changes are rounding
            assert difference < PER_TENSOR * max(length, FLOOR * whole), (name, difference, length, whole)
    np.testing.assert_array_equal(spread["['code_age']"], alone["['code_age']"])


@pytest.mark.slow
def test_losses_and_states_are_those_of_one_device(runs):
    alone = runs["1,1"][0]
    assert {"log perceptual", "log alignment", "log entropy", "log consistency", "log lecam"} <= set(alone.files)
    assert_same_steps(runs["4,2"][0], alone)


@pytest.mark.heavy
@pytest.mark.parametrize("mesh", ["8,1", "1,8"])
def test_losses_and_states_are_those_of_one_device_on_other_meshes(runs, other_runs, mesh):
    assert_same_steps(other_runs[mesh][0], runs["1,1"][0])


@pytest.mark.heavy
def test_two_processes_of_four_devices_are_one_of_eight(runs, tmp_path):
    programs.run("gan_steps", tmp_path, "4,2", processes=2, devices=4, timeout=900, env=programs.OPTIMIZED)
    assert_same_steps(np.load(tmp_path / "4,2.npz"), runs["4,2"][0])


def gathers_stacks(summary) -> bool:
    """Returns whether a step gathers a parameter of all blocks at once, instead of one block at a time."""
    return any(size in summary["stacks"] for size, _ in summary["gathered"])


@pytest.mark.slow
def test_no_step_gathers_the_parameters_of_more_than_one_block(runs):
    check_gathered(runs["4,2"][1])


@pytest.mark.heavy
def test_no_step_gathers_the_parameters_of_more_than_one_block_on_other_meshes(other_runs):
    assert not other_runs["8,1"][1]["stacks"]  # Parameters are replicated.
    check_gathered(other_runs["1,8"][1])
    assert gathers_stacks(other_runs["copying"][1])


def check_gathered(summary) -> None:
    """Checks that loops over blocks gather the weights of a block, that over views those of the heads, and none tokens."""
    in_loops = {size for size, in_loop in summary["gathered"] if in_loop}
    assert not gathers_stacks(summary)
    assert set(summary["tensors"]) <= in_loops <= set(summary["in_loops"])
