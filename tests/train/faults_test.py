"""Faults of the disk and of other runs: noticed at once, named in one line, and nothing left behind."""

import contextlib
import errno
import json
import os
import shutil
import subprocess
import sys

import pytest

from softvq_jax import Tokenizer
from softvq_jax.storage import lock
from softvq_jax.train import metrics, preemption
from softvq_jax.train.checkpoint import Checkpoints, SaveFailed
from softvq_jax.train.evaluators import HeldOut
from softvq_jax.train.loop import Run
from softvq_jax.train.metrics import MetricsWriter
from softvq_jax.train.speed import TIMES
from softvq_jax.train.tasks import TASKS
from softvq_jax.train.write_errors import WriteFailed
from tests.programs import ROOT
from tests.train.conftest import tiny

ENV = os.environ | {"JAX_PLATFORMS": "cpu"}


def run(config, workdir):
    return Run(config, workdir, TASKS["tokenizer"])


def lines(workdir):
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def finished_once(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("finished") / "run"
    config = tiny()
    config.evals.held_out.every_steps = 3
    config.checkpoint.best_metric = "eval_psnr"
    return config, workdir, run(config, workdir).train()


@pytest.fixture
def finished(finished_once, tmp_path):
    config, workdir, results = finished_once
    return config.copy_and_resolve_references(), shutil.copytree(workdir, tmp_path / "run"), results


def test_a_finished_run_started_again_appends_nothing(finished):
    config, workdir, results = finished
    before = (workdir / "metrics.jsonl").read_bytes()
    shutil.rmtree(workdir / "tokenizer")  # as of a run that was killed before its export
    assert run(config, workdir).train() == results
    assert (workdir / "metrics.jsonl").read_bytes() == before
    assert not (workdir / lock.NAME).exists()
    Tokenizer.from_pretrained(workdir)


@pytest.mark.parametrize("cut", ["evaluating", "before the line", "power"])
def test_an_interrupted_evaluation_is_made_up(finished, tmp_path, cut, monkeypatch):
    """Preempted inside the evaluation of step 3; killed between its best step and its line; its line lost."""
    config, whole, _ = finished
    expected = [{k: v for k, v in line.items() if k not in TIMES} for line in lines(whole)]
    workdir = tmp_path / "cut"
    evaluate, scalars = HeldOut.__call__, MetricsWriter.scalars

    def preempted(self, state, step):
        if step == 3:
            raise preemption.Preempted
        return evaluate(self, state, step)

    def killed(self, step, values):
        if step == 3 and metrics.TRAINING not in values:
            raise KeyboardInterrupt
        scalars(self, step, values)

    with monkeypatch.context() as patch, pytest.raises((preemption.Preempted, KeyboardInterrupt)):
        if cut == "evaluating":
            patch.setattr(HeldOut, "__call__", preempted)
        else:
            config.checkpoint.every_steps = 3  # it resumes from step 3
            patch.setattr(MetricsWriter, "scalars", killed)
        run(config, workdir).train()
    if cut == "power":
        shutil.rmtree(workdir / "best")
    config.checkpoint.every_steps = 2
    run(config, workdir).train()
    ours = [{k: v for k, v in line.items() if k not in TIMES} for line in lines(workdir)]
    assert ours == expected
    best = lambda folder: max(int(p.name) for p in (folder / "best" / "checkpoints").iterdir())  # noqa: E731
    assert best(workdir) == best(whole)
    Tokenizer.from_pretrained(workdir / "best")


def test_an_evaluator_that_is_new_evaluates_a_finished_run_once(finished):
    config, workdir, results = finished
    path = workdir / "metrics.jsonl"
    *before, last = path.read_text().splitlines()
    values = {name: value for name, value in json.loads(last).items() if name == "step" or not name.startswith("eval_")}
    path.write_text("\n".join([*before, json.dumps(values)]) + "\n")
    assert run(config, workdir).train() == results
    assert path.read_text().splitlines() == [*before, last]


def test_a_second_run_in_a_workdir_is_refused_and_harms_nothing(finished):
    config, workdir, _ = finished
    saving = workdir / "checkpoints" / "9.orbax-checkpoint-tmp"
    saving.mkdir()
    hold = "import pathlib, time; from softvq_jax.storage.lock import FolderLock; "
    hold += f"held = FolderLock(pathlib.Path({str(workdir)!r}))"
    command = [sys.executable, "-c", f"{hold}; print(flush=True); time.sleep(60)"]
    holder = subprocess.Popen(command, stdout=subprocess.PIPE, cwd=ROOT)
    try:
        holder.stdout.readline()
        with pytest.raises(lock.Locked, match=rf"run is in use by process {holder.pid} on"):
            run(config, workdir)
        assert saving.exists()
    finally:
        holder.kill()
        holder.wait()
    run(config, workdir)


@pytest.mark.parametrize("line", [b"5", b'{"step": null}', b"\xff"])
def test_metrics_edited_by_hand_are_refused_before_compiling(finished, line, monkeypatch):
    config, workdir, _ = finished
    monkeypatch.setattr(Run, "_compile", lambda *_: pytest.fail("it compiles"))
    path = workdir / "metrics.jsonl"
    path.write_bytes(line + b"\n" + path.read_bytes())
    with pytest.raises(ValueError, match=rf"{path}, line 1") as caught:
        run(config, workdir).train()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "fields", [{"config": 5}, {"data": []}, {"next_sample": None}, {"weights": "x"}, {"changes": [5]}, {"data": {}}]
)
def test_records_edited_by_hand_are_refused_in_one_line(finished, fields):
    config, workdir, _ = finished
    for path in workdir.glob("checkpoints/*/record/metadata"):
        record = {name: value for name, value in json.loads(path.read_text()).items() if name != "record_sha256"}
        path.write_text(json.dumps(record | fields))
    with pytest.raises(
        ValueError, match=rf"record of the checkpoints in {workdir} has {next(iter(fields))}="
    ) as caught:
        run(config, workdir).train()
    assert "\n" not in str(caught.value)


@contextlib.contextmanager
def at_step(step, action):
    """Calls `action` before the line of a step is written."""
    scalars = MetricsWriter.scalars

    def acting(self, done, values):
        if done == step:
            action()
        scalars(self, done, values)

    MetricsWriter.scalars = acting
    try:
        yield
    finally:
        MetricsWriter.scalars = scalars


def test_a_workdir_removed_in_mid_run_is_named_and_the_state_saved_elsewhere(finished, tmp_path):
    config, whole, _ = finished
    config.checkpoint.update(every_steps=100, fallback=str(tmp_path / "second"))  # no save is in progress
    workdir = tmp_path / "removed"
    with at_step(5, lambda: shutil.rmtree(workdir)), pytest.raises(WriteFailed) as caught:
        run(config, workdir).train()
    assert f"{workdir / 'metrics.jsonl'} could not be written: No such file or directory" in str(caught.value)
    [saved] = (tmp_path / "second").glob("removed_step_5/5")
    assert f"move {saved} to {workdir / 'checkpoints'}" in str(caught.value) and "\n" not in str(caught.value)
    assert not workdir.exists()
    (workdir / "checkpoints").mkdir(parents=True)
    shutil.move(saved, workdir / "checkpoints")
    run(config, workdir).train()
    digest = lambda folder: json.loads((folder / "checkpoints/6/record/metadata").read_text())["digest"]  # noqa: E731
    assert digest(workdir) == digest(whole)


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 24 MB."""
    mount = tmp_path / "small"
    mount.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", str(mount)]
    if os.geteuid() or sys.platform != "linux" or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("needs root and mount")
    yield mount
    subprocess.run(["umount", "-l", str(mount)], check=True)


def test_a_read_only_or_full_disk_is_named(tmp_path, monkeypatch):
    writer = MetricsWriter(tmp_path, step=0, active=True)
    for number, says in ((errno.EROFS, "Read-only file system"), (errno.ENOSPC, "No space left on device")):

        def fail(*_, number=number):
            raise OSError(number, os.strerror(number))

        with monkeypatch.context() as patch:
            patch.setattr(os, "write", fail)
            with pytest.raises(WriteFailed, match=rf"{tmp_path}/metrics\.jsonl could not be written: {says}"):
                writer.scalars(1, {"loss": 1.0})
    writer.scalars(1, {"loss": 1.0})
    assert lines(tmp_path) == [{"step": 1, "loss": 1.0}]


def fill(disk, free):
    """Fills a disk up to `free` bytes."""
    space = os.statvfs(disk)
    with contextlib.suppress(OSError), (disk / "filler").open("wb") as file:
        file.write(bytes(max(0, space.f_bavail * space.f_frsize - free)))


def test_a_full_disk_at_metrics_is_named(finished, small_disk, tmp_path):
    config, _, _ = finished
    config.checkpoint.update(every_steps=100, fallback=str(tmp_path / "second"))
    config.evals.held_out.every_steps = 0
    workdir = small_disk / "run"
    pad = " " * 5000  # past the last block of the file

    def full():
        with (workdir / "metrics.jsonl").open("a") as file:
            file.write("")
        fill(small_disk, 0)
        values["pad"] = pad

    values = {}
    scalars = MetricsWriter.scalars

    def long_line(self, step, line):
        scalars(self, step, {**line, **{f"{i}": 1.0 for i in range(2000)}} if "pad" in values else line)

    MetricsWriter.scalars = long_line
    try:
        with (
            at_step(3, full),
            pytest.raises(WriteFailed, match=r"metrics\.jsonl could not be written: No space left") as e,
        ):
            run(config, workdir).train()
    finally:
        MetricsWriter.scalars = scalars
    assert "The state of step 3 is saved in" in str(e.value)


def test_a_disk_that_is_full_at_a_checkpoint_prints_no_traceback(small_disk, tmp_path):
    """The whole log of a process: one line of the error, from hundreds of tracebacks of the checkpoint library."""
    program = f"""
import pathlib, sys, jax
from softvq_jax.train.checkpoint import Checkpoints, SaveFailed
state = {{str(i): jax.random.normal(jax.random.key(i), (2 ** 16,)) for i in range(200)}}
checkpoints = Checkpoints(pathlib.Path({str(small_disk / "checkpoints")!r}), keep=3, keep_every_steps=0)
try:
    checkpoints.save(state, {{"step": 1}})
    checkpoints.close()
except SaveFailed as error:
    sys.exit(f"error: {{error}}")
"""
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=ENV,
    )
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr and len(done.stderr.splitlines()) == 1, done.stderr[-5000:]
    assert "could not be written" in done.stderr and "Complete checkpoints: []" in done.stderr


def test_a_folder_of_checkpoints_that_is_removed_is_not_made_again(tmp_path):
    checkpoints = Checkpoints(tmp_path / "checkpoints", keep=3, keep_every_steps=0)
    shutil.rmtree(tmp_path / "checkpoints")
    with pytest.raises(SaveFailed, match="has been removed while the run was writing"):
        checkpoints.save({"weights": 1.0}, {"step": 1})
    assert not (tmp_path / "checkpoints").exists()


def test_exported_files_follow_the_umask(finished, tmp_path):
    config, workdir, _ = finished
    shutil.rmtree(workdir / "tokenizer")
    before = os.umask(0o027)
    try:
        run(config, workdir).train()
    finally:
        os.umask(before)
    modes = {path.name: path.stat().st_mode & 0o777 for path in (workdir / "tokenizer").iterdir()}
    assert set(modes.values()) == {0o640} and "model.safetensors" in modes
