"""Checkpoints that cannot be written: what is said, and what is left."""

import contextlib
import os
import resource
import time

import jax
import numpy as np
import pytest

from softvq_jax.train.checkpoint import Checkpoints, SaveFailed
from tests import programs


def state(value):
    return {"weights": jax.numpy.full((512, 512), value), "noise": jax.random.normal(jax.random.key(value), (2**20,))}


@contextlib.contextmanager
def full_disk(allowed=2**16):
    """No file can grow beyond `allowed` bytes meanwhile: to whoever writes, much like a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (allowed, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def assert_restores(folder, step, value):
    restored = Checkpoints(folder, keep=3, keep_every_steps=0).restore(state(value))
    assert restored.record["step"] == step
    jax.tree.map(np.testing.assert_array_equal, restored.state, state(value))


def test_a_full_disk_stops_the_run_and_leaves_older_checkpoints_whole(tmp_path):
    checkpoints = Checkpoints(tmp_path, keep=1, keep_every_steps=0)
    checkpoints.save(state(1), {"step": 1})
    checkpoints._manager.wait_until_finished()
    with full_disk(), pytest.raises(SaveFailed, match=r"could not be written to .* Complete are those of steps \[1\]"):
        checkpoints.save(state(2), {"step": 2})  # in the background: the error may come now or later
        checkpoints.close()
    assert_restores(tmp_path, 1, 1)


def test_an_error_in_the_background_is_raised_by_a_later_look(tmp_path):
    checkpoints = Checkpoints(tmp_path, keep=3, keep_every_steps=0)
    with full_disk():
        checkpoints.save(state(1), {"step": 1})
        with pytest.raises(SaveFailed, match=r"steps \[\]"):
            for _ in range(3000):
                checkpoints.check()
                time.sleep(0.01)


def test_what_a_save_that_was_cut_off_left_is_removed(tmp_path):
    left = tmp_path / "2.orbax-checkpoint-tmp" / "state"
    left.mkdir(parents=True)
    (left / "part").write_bytes(b"half")
    checkpoints = Checkpoints(tmp_path, keep=3, keep_every_steps=0)
    checkpoints.save(state(1), {"step": 1})
    checkpoints.close()
    assert [path.name for path in tmp_path.iterdir()] == ["1"]
    assert_restores(tmp_path, 1, 1)


def test_a_checkpoint_that_one_process_cannot_read_is_set_aside_by_all(tmp_path):
    programs.run("disagreement", tmp_path / "checkpoints", processes=2, devices=2)
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["1"]
    assert [path.name.split("_")[0] for path in (tmp_path / "damaged").iterdir()] == ["2"]


def test_a_save_beside_a_later_step_stops_the_run(tmp_path):
    (tmp_path / "999").mkdir()
    checkpoints = Checkpoints(tmp_path, keep=3, keep_every_steps=0)
    with pytest.raises(SaveFailed, match=r"step 1 was not written: .* holds one of step 999"):
        checkpoints.save(state(1), {"step": 1})
    checkpoints.delete_from(2)
    checkpoints.save(state(1), {"step": 1})
    checkpoints.close()
    assert_restores(tmp_path, 1, 1)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_permission(tmp_path):
    checkpoints = Checkpoints(tmp_path, keep=3, keep_every_steps=0)
    checkpoints.save(state(1), {"step": 1})
    checkpoints._manager.wait_until_finished()
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(SaveFailed, match="ermission"):
            checkpoints.save(state(2), {"step": 2})
            checkpoints.close()
    finally:
        tmp_path.chmod(0o700)
    assert_restores(tmp_path, 1, 1)
