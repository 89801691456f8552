"""Checkpoints in a bucket: complete with their marker, newest ones kept, damaged ones moved; and a whole run."""

import os
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

from softvq_jax.storage.paths import as_path
from softvq_jax.train.checkpoint import Checkpoints, SaveFailed
from softvq_jax.weights.checkpoints import COMMITTED, find_checkpoint
from tests import bucket_servers


def state(value):
    return {"weights": jax.numpy.full((64, 64), value), "noise": jax.random.normal(jax.random.key(value), (1000,))}


@pytest.fixture(params=["gs", "s3"])
def folder(request):
    """A folder in a bucket, without the proxy, as TensorStore reads the address of the `gs://` server only once."""
    server = request.getfixturevalue({"gs": "gcs", "s3": "s3"}[request.param])
    settings = {"gs": bucket_servers.gcs_environment, "s3": bucket_servers.s3_environment}[request.param]
    with bucket_servers.environment(settings(server)):
        root = as_path(f"{request.param}://softvq-test/checkpointed")
        yield root / "checkpoints"
        root.rmtree()


@pytest.mark.slow
def test_newest_checkpoints_are_kept_and_damaged_or_unfinished_ones_are_not_used(folder):
    checkpoints = Checkpoints(folder, keep=2, keep_every_steps=0)
    for step in (1, 2, 3):
        checkpoints.save(state(step), {"step": step})
    checkpoints.close()
    assert [path.name for path in folder.iterdir()] == ["2", "3"]
    assert all((path / COMMITTED).is_file() for path in folder.iterdir())
    (folder / "4" / "record" / "metadata").write_text("{}")  # of a save that was killed
    assert find_checkpoint(folder.parent) == folder / "3"
    digit = (folder / "3" / "record" / "metadata").read_text()
    (folder / "3" / "record" / "metadata").write_text(
        digit.replace('"step":3', '"step":7').replace('"step": 3', '"step": 7')
    )
    checkpoints = Checkpoints(folder, keep=2, keep_every_steps=0)
    restored = checkpoints.restore(state(0))
    assert restored is not None and restored.record["step"] == 2
    jax.tree.map(np.testing.assert_array_equal, restored.state, state(2))
    assert [path.name.split("_")[0] for path in (folder.parent / "damaged").iterdir()] == ["3"]
    checkpoints.save(state(4), {"step": 4})  # over what the killed save left
    checkpoints.close()
    assert [path.name for path in folder.iterdir()] == ["2", "4"] and find_checkpoint(folder, 4) == folder / "4"
    assert find_checkpoint(folder, 2) == folder / "2"
    with pytest.raises(SaveFailed, match="which is not older"):
        Checkpoints(folder, keep=2, keep_every_steps=0).save(state(3), {"step": 3})


@pytest.mark.heavy  # three runs; the test above and those in tests/storage cover the same code
def test_a_killed_run_in_a_bucket_ends_with_the_bits_of_a_local_one(folder, tmp_path):
    settings = {
        "train.num_steps": 8,
        "checkpoint.every_steps": 2,
        "log.every_steps": 1,
        "evals.held_out.every_steps": 4,
    }
    command = [
        sys.executable,
        "-m",
        "softvq_jax.main",
        "--config=tiny_patches",
        f"--compilation_cache={tmp_path / 'cache'}",
    ]
    command += [f"--config.{name}={value}" for name, value in settings.items()]
    subprocess.run([*command, f"--workdir={tmp_path / 'run'}"], check=True, env=os.environ)
    run = folder.parent
    program = subprocess.Popen([*command, f"--workdir={run}"], env=os.environ, stderr=subprocess.DEVNULL)
    while find_checkpoint(run) is None and program.poll() is None:
        time.sleep(0.1)
    program.send_signal(signal.SIGKILL)
    program.wait()
    assert not (run / "tokenizer" / "model.safetensors").exists()
    subprocess.run([*command, f"--workdir={run}"], check=True, env=os.environ)
    expected = (tmp_path / "run" / "tokenizer" / "model.safetensors").read_bytes()
    assert (run / "tokenizer" / "model.safetensors").read_bytes() == expected
