"""Checkpoints that cannot be written, are damaged, or do not belong to their folder."""

import contextlib
import json
import os
import random
import resource
import shutil
import time

import jax
import numpy as np
import pytest

from softvq_jax.train.checkpoint import RECORD_DIGEST, Checkpoints, SaveFailed
from tests import programs


def state(value):
    return {"weights": jax.numpy.full((512, 512), value), "noise": jax.random.normal(jax.random.key(value), (2**20,))}


@contextlib.contextmanager
def full_disk(allowed=2**16):
    """Limits files to `allowed` bytes inside the context; a writer sees much the same as on a full disk."""
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


def test_a_full_disk_stops_the_run_and_leaves_older_checkpoints_readable(tmp_path):
    checkpoints = Checkpoints(tmp_path, keep=1, keep_every_steps=0)
    checkpoints.save(state(1), {"step": 1})
    checkpoints._manager.wait_until_finished()
    with full_disk(), pytest.raises(SaveFailed, match=r"could not be written to .* Complete checkpoints: \[1\]"):
        checkpoints.save(state(2), {"step": 2})  # the background save may fail now or later
        checkpoints.close()
    assert_restores(tmp_path, 1, 1)


def test_an_error_in_the_background_is_raised_by_a_later_check(tmp_path):
    checkpoints = Checkpoints(tmp_path, keep=3, keep_every_steps=0)
    with full_disk():
        checkpoints.save(state(1), {"step": 1})
        with pytest.raises(SaveFailed, match=r"Complete checkpoints: \[\]"):
            for _ in range(3000):
                checkpoints.check()
                time.sleep(0.01)


def test_leftovers_of_an_interrupted_save_are_removed(tmp_path):
    leftover = tmp_path / "2.orbax-checkpoint-tmp" / "state"
    leftover.mkdir(parents=True)
    (leftover / "part").write_bytes(b"half")
    checkpoints = Checkpoints(tmp_path, keep=3, keep_every_steps=0)
    checkpoints.save(state(1), {"step": 1})
    checkpoints.close()
    assert [path.name for path in tmp_path.iterdir()] == ["1"]
    assert_restores(tmp_path, 1, 1)


@pytest.mark.slow
def test_a_checkpoint_that_one_process_cannot_read_is_moved_by_all(tmp_path):
    programs.run("disagreement", tmp_path / "checkpoints", processes=2, devices=2)
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["1"]
    assert [path.name.split("_")[0] for path in (tmp_path / "damaged").iterdir()] == ["2"]


def test_a_checkpoint_of_a_later_step_stops_the_run(tmp_path):
    (tmp_path / "999").mkdir()
    checkpoints = Checkpoints(tmp_path, keep=3, keep_every_steps=0)
    with pytest.raises(SaveFailed, match=r"step 1 was not written: .* holds one of step 999"):
        checkpoints.save(state(1), {"step": 1})
    checkpoints.delete_from(2)
    checkpoints.save(state(1), {"step": 1})
    checkpoints.close()
    assert_restores(tmp_path, 1, 1)


def test_a_damaged_record_falls_back_to_the_checkpoint_before(tmp_path):
    """Every bit of the record, flipped by itself (128 of them, drawn at random): never refused, never used."""
    checkpoints = Checkpoints(tmp_path, keep=3, keep_every_steps=0)
    for step in (1, 2):
        checkpoints.save({"weights": jax.numpy.arange(4.0)}, {"step": step, "config": {"a.b": 0.1, "c": "x"}})
    checkpoints.close()
    path = tmp_path / "2" / "record" / "metadata"
    content, rng = path.read_bytes(), random.Random(0)
    reopened = Checkpoints(tmp_path, keep=3, keep_every_steps=0)
    for bit in rng.sample(range(8 * len(content)), 128):
        damaged = bytearray(content)
        damaged[bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        record = reopened.record()
        assert record["step"] == 1 or (record["config"] == {"a.b": 0.1, "c": "x"} and record["step"] == 2), bit
    start = content.index(RECORD_DIGEST.encode())
    for bit in range(8 * start, 8 * (start + len(RECORD_DIGEST))):
        damaged = bytearray(content)
        damaged[bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        assert reopened.record()["step"] == 1, f"bit {bit}, in the name of the digest"
    path.write_bytes(content)
    assert reopened.record()["step"] == 2


def test_records_of_older_versions_and_of_other_steps(tmp_path):
    folder = tmp_path / "checkpoints"
    checkpoints = Checkpoints(folder, keep=3, keep_every_steps=0)
    for step in (1, 2):
        checkpoints.save(state(step), {"step": step})
    checkpoints.close()
    path = folder / "2" / "record" / "metadata"
    record = json.loads(path.read_text())
    del record[RECORD_DIGEST]
    path.write_text(json.dumps(record))
    assert_restores(folder, 2, 2)  # an older version's
    shutil.copytree(folder / "1", folder / "3")
    assert_restores(folder, 2, 2)  # one that was copied to another step's name
    assert [path.name.split("_")[0] for path in (tmp_path / "damaged").iterdir()] == ["3"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root can write everywhere")
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
