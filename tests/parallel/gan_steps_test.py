"""Whole training steps do not depend on the mesh, and gather one block's weights at a time."""

import json

import numpy as np
import pytest

from tests import programs

MESHES = ("8,1", "1,8", "4,2")


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


@pytest.mark.slow
@pytest.mark.parametrize("mesh", MESHES)
def test_losses_and_parameters_are_those_of_one_device(runs, mesh):
    alone, spread = runs["1,1"][0], runs[mesh][0]
    assert {"log perceptual", "log alignment", "log entropy", "log consistency", "log lecam"} <= set(alone.files)
    logs, moved = ([name for name in alone.files if name.startswith("log ") == log] for log in (True, False))
    for name in logs:
        tolerance = 1e-3 if name.endswith("_norm") else 1e-4
        np.testing.assert_allclose(spread[name], alone[name], rtol=tolerance, atol=1e-7, err_msg=name)
    ours, theirs = (np.concatenate([run[name].ravel() for name in moved]) for run in (spread, alone))
    assert np.linalg.norm(theirs) > 1e-2
    assert np.linalg.norm(ours - theirs) < 1e-3 * np.linalg.norm(theirs)


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
