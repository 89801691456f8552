"""Power cuts: what a run calls complete is on disk."""

import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys

import jax
import numpy as np
import pytest

from softvq_jax import Tokenizer
from softvq_jax.train.checkpoint import Checkpoints
from softvq_jax.train.loop import Run
from softvq_jax.train.metrics import MetricsWriter
from softvq_jax.train.tasks import TASKS
from softvq_jax.train.write_errors import WriteFailed
from softvq_jax.weights.files import read_tensors
from tests.durable import Disk
from tests.programs import ROOT
from tests.train import survival_test


def state(value):
    return {"weights": jax.numpy.full((64, 64), value, jax.numpy.float32), "count": jax.numpy.int32(value)}


def restored(folder):
    found = Checkpoints(folder, keep=1, keep_every_steps=0).restore(state(0))
    jax.tree.map(np.testing.assert_array_equal, found.state, state(found.record["step"]))
    return found.record["step"]


def test_at_no_moment_a_power_cut_loses_more_than_the_newest_checkpoint(tmp_path):
    """The folder as it is on disk at every fsync and every rename of five saves, of which one is kept."""
    folder, cuts = tmp_path / "checkpoints", []
    folder.mkdir()
    with Disk(folder) as disk:
        checkpoints = Checkpoints(folder, keep=1, keep_every_steps=0)
        saved = [0]
        cut = lambda: cuts.append((saved[0], disk.after_power_cut(tmp_path / f"cut{len(cuts)}")))  # noqa: E731
        for step in range(1, 6):
            saved[0], disk.on_event = step - 1, cut if step > 1 else lambda: None
            checkpoints.save(state(step), {"step": step})
            checkpoints.wait()
            whole = disk.after_power_cut(tmp_path / f"after{step}")
            assert [path.name for path in whole.iterdir()] == [str(step)]
            assert same(whole / str(step), folder / str(step))
        checkpoints.close()
    assert len(cuts) > 50
    for complete, cut in cuts:
        assert any(step.is_dir() and is_whole(step) for step in map(lambda n: cut / str(n), (complete, complete + 1)))
    for complete, cut in cuts[:: len(cuts) // 12]:
        assert restored(cut) >= complete
    name = next(path for kind, path in disk.events if kind == "rename" and path == "5")
    before = disk.events[: disk.events.index(("rename", name))]
    assert ("fsync", ".") in disk.events[disk.events.index(("rename", name)) :]
    assert any(path.endswith("record/metadata") for kind, path in before)


def is_whole(step):
    """Whether all files of a checkpoint have their content; the digest of its arrays is checked by a restore."""
    record = step / "record" / "metadata"
    return (
        record.is_file() and bool(record.read_bytes()) and all(p.stat().st_size for p in step.rglob("*") if p.is_file())
    )


def same(one, two):
    files = sorted(path.relative_to(one) for path in one.rglob("*"))
    return files == sorted(path.relative_to(two) for path in two.rglob("*")) and all(
        (one / path).read_bytes() == (two / path).read_bytes() for path in files if (one / path).is_file()
    )


@pytest.mark.slow
def test_all_files_of_a_finished_run_are_on_disk(tiny_config, tmp_path):
    tiny_config.checkpoint.best_metric = "eval_psnr"
    workdir = tmp_path / "runs" / "run"
    with Disk(tmp_path) as disk:
        Run(tiny_config, workdir, TASKS["tokenizer"]).train()
        cut = disk.after_power_cut(tmp_path.with_name(f"{tmp_path.name}_cut")) / "runs" / "run"
    assert {"metrics.jsonl", "config.json", "tokenizer", "best", "images", "evaluations", "checkpoints"} <= {
        path.name for path in cut.iterdir()
    }
    assert same(cut, workdir)
    Tokenizer.from_pretrained(cut / "best")
    lines = [json.loads(line) for line in (cut / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2, 3, 4, 5, 6, 6]


@pytest.fixture
def device(tmp_path):
    """An ext4 file system in a file, which writes nothing by itself for ten minutes: `(mount point, power cut)`."""
    image, mount = tmp_path / "disk.img", tmp_path / "disk"
    mount.mkdir()
    if os.geteuid() or sys.platform != "linux" or shutil.which("mkfs.ext4") is None:
        pytest.skip("needs root, Linux and mkfs.ext4")

    def call(*command):
        return subprocess.run(command, capture_output=True, text=True)

    with image.open("wb") as file:
        file.truncate(96 * 2**20)
    call("mkfs.ext4", "-q", str(image))
    mounted = call("mount", "-o", "loop,commit=600", str(image), str(mount))
    if mounted.returncode:
        pytest.skip(f"no loop devices here: {mounted.stderr.strip()}")

    def power_cut():
        """The journal ends as if the machine had; what was not synced is gone."""
        aborted = call("mount", "-o", "remount,abort", str(mount))
        assert aborted.returncode == 0 or "abort" in pathlib.Path("/proc/mounts").read_text(), aborted.stderr
        call("umount", str(mount))
        again = call("mount", "-o", "loop,commit=600", str(image), str(mount))
        assert again.returncode == 0, again.stderr

    yield mount, power_cut
    call("umount", str(mount))


def empty_files(workdir):
    return [str(path.relative_to(workdir)) for path in workdir.rglob("*") if path.is_file() and not path.stat().st_size]


def saves(workdir, steps, kill_after=None):
    """Runs `tests.programs.saving`; returns the steps that it says are saved, until it ends or is killed."""
    command = [sys.executable, "-m", "tests.programs.saving", str(workdir), str(steps)]
    environment = os.environ | {"JAX_PLATFORMS": "cpu"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT, env=environment) as process:
        said = []
        for line in process.stdout:
            said.append(int(line.split()[1]))
            if kill_after is not None and len(said) > kill_after:
                process.kill()
    assert process.returncode == (0 if kill_after is None else -signal.SIGKILL)
    return said


@pytest.mark.slow
def test_power_cuts_on_a_loop_device(device):
    """What was said to be saved is there after the power cut, and after exit 0 no file has lost its content."""
    mount, power_cut = device
    workdir = mount / "run"
    for _ in range(2):
        newest = saves(workdir, 100, kill_after=5)[-1]
        power_cut()
        assert restored(workdir / "checkpoints") >= newest
    newest = saves(workdir, newest + 5)[-1]
    power_cut()
    assert restored(workdir / "checkpoints") == newest
    assert not empty_files(workdir)
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == list(range(1, newest + 1))
    assert len(list((workdir / "images").iterdir())) >= newest
    assert read_tensors(workdir / "tokenizer" / "model.safetensors")["a"].shape == (1000,)


@pytest.mark.heavy
def test_power_cuts_of_a_run_on_a_loop_device(device, tmp_path_factory):
    """After exit 0 nothing is lost; in the middle of a run at most the newest save, and its resumption ends the same."""
    mount, power_cut = device
    cache, whole = tmp_path_factory.mktemp("cache"), tmp_path_factory.mktemp("runs") / "whole"
    survival_test.finish(survival_test.start(whole, cache))

    workdir = mount / "run"
    for moment in (6, 13, 20):
        running = survival_test.start(workdir, cache)
        # On a busy machine, the first checkpoint may be complete only after the last step.
        at = lambda: survival_test.last_step(workdir) >= moment and survival_test.complete(workdir)  # noqa: B023, E731
        survival_test.wait_for(at, running)
        saved = survival_test.complete(workdir)
        running[0].send_signal(signal.SIGKILL)
        survival_test.finish(running, -signal.SIGKILL)
        power_cut()
        left = survival_test.complete(workdir)
        assert left and left[-1] >= saved[-1], (saved, left)
    survival_test.finish(survival_test.start(workdir, cache))
    resumed = re.findall(r"resuming after step (\d+)", (workdir / "log.0").read_text())
    power_cut()
    logs = {"log.0", "read.0"}
    assert not [name for name in empty_files(workdir) if name not in logs]
    survival_test.assert_same(workdir, whole)
    assert len(resumed) >= 1


@pytest.mark.slow
def test_a_disk_that_turns_read_only_in_mid_run_is_named(device, tiny_config, tmp_path, monkeypatch):
    """As Linux does after an error of the disk: the state is saved elsewhere."""
    mount, _ = device
    tiny_config.checkpoint.update(every_steps=100, fallback=str(tmp_path / "second"))
    workdir, scalars = mount / "run", MetricsWriter.scalars

    def at_step_3(writer, step, values):
        if step == 3:
            subprocess.run(["mount", "-o", "remount,abort", str(mount)], capture_output=True)
        scalars(writer, step, values)

    monkeypatch.setattr(MetricsWriter, "scalars", at_step_3)
    with pytest.raises(WriteFailed) as caught:
        Run(tiny_config, workdir, TASKS["tokenizer"]).train()
    said = str(caught.value)
    assert f"{workdir / 'metrics.jsonl'} could not be written: Read-only file system. The state of step 3" in said
    assert "\n" not in said
    [saved] = (tmp_path / "second").glob("run_step_3/3")
    assert Checkpoints(saved.parent, keep=1, keep_every_steps=0).record()["step"] == 3
