"""Whole training steps depend neither on the mesh nor on the processes, and gather one block's weights at a time."""

import json

import numpy as np
import pytest

from tests import programs

MESHES = ("8,1", "1,8", "4,2")
PARTS = ("generator", "discriminator", "ema", "buffers", "lecam")
PER_TENSOR, FLOOR = (
    3e-3,
    1e-2,
)  # a tensor that moves less than this share of its network rounds more, relative to its move


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """`{mesh: (arrays, report)}` of `tests.programs.gan_steps` on one device and on eight; "copying" is a program that
    first gathers its parameters."""
    folder = tmp_path_factory.mktemp("steps")
    programs.run("gan_steps", folder, "1,1", *MESHES, "copying", devices=8, timeout=900)
    return {
        mesh: (mesh == "copying" or np.load(folder / f"{mesh}.npz"), json.loads((folder / f"{mesh}.json").read_text()))
        for mesh in ("1,1", *MESHES, "copying")
    }


def assert_same_steps(spread, alone) -> None:
    """Two runs logged the same, and moved every tensor by the same."""
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
        for name, length, difference in zip(names, lengths, apart, strict=True):  # those that hardly move are rounding
            assert difference < PER_TENSOR * max(length, FLOOR * whole), (name, difference, length, whole)
    np.testing.assert_array_equal(spread["['code_age']"], alone["['code_age']"])


@pytest.mark.slow
@pytest.mark.parametrize("mesh", MESHES)
def test_losses_and_states_are_those_of_one_device(runs, mesh):
    alone = runs["1,1"][0]
    assert {"log perceptual", "log alignment", "log entropy", "log consistency", "log lecam"} <= set(alone.files)
    assert_same_steps(runs[mesh][0], alone)


@pytest.mark.heavy
def test_two_processes_of_four_devices_are_one_of_eight(runs, tmp_path):
    programs.run("gan_steps", tmp_path, "4,2", processes=2, devices=4, timeout=900)
    assert_same_steps(np.load(tmp_path / "4,2.npz"), runs["4,2"][0])


def gathers_whole_stacks(report) -> bool:
    """Whether a step gathers a parameter of all blocks at once, rather than of one block at a time."""
    return any(size in report["stacks"] for size, _ in report["gathered"])


@pytest.mark.slow
def test_no_step_gathers_the_parameters_of_more_than_one_block(runs):
    assert not runs["8,1"][1]["stacks"]  # Copied anyway.
    for mesh in ("1,8", "4,2"):
        report = runs[mesh][1]
        in_loops = {size for size, in_loop in report["gathered"] if in_loop}
        assert not gathers_whole_stacks(report)
        # Loops over blocks gather a block's weights, the one over views the heads', and nothing else: no tokens.
        assert set(report["tensors"]) <= in_loops <= set(report["in_loops"])
    assert gathers_whole_stacks(runs["copying"][1])
