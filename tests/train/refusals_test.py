"""A run that is refused at its start: one line, and nothing left behind."""

import os
import pathlib
import subprocess
import sys

import pytest

from softvq_jax.storage import files
from softvq_jax.train import writers
from softvq_jax.train.loop import Run
from softvq_jax.train.tasks import TASKS
from softvq_jax.train.workdir import Workdir
from tests.programs import ROOT
from tests.train.conftest import tiny

pytestmark = pytest.mark.slow
ENV = os.environ | {"JAX_PLATFORMS": "cpu"}


def run(config, workdir):
    return Run(config, workdir, TASKS["tokenizer"])


REFUSED = {
    "another metric": ["--config.checkpoint.best_metric=eval_rfid"],
    "no data": ["--config.data.source=folder", "--config.data.path=/nowhere"],
    "a batch that does not divide": ["--config.optim.accumulate=3"],
    "no such evaluator": ["--config.evals.fid.every_steps=1", "--config.evals.fid.weights=/nowhere"],
}


@pytest.mark.parametrize("flags", REFUSED.values(), ids=REFUSED)
def test_a_refusal_at_the_start_leaves_no_folder_and_no_traceback(flags, tmp_path):
    workdir = tmp_path / "new" / "run"
    command = [sys.executable, "-m", "softvq_jax.main", "--config=tiny_patches", f"--workdir={workdir}", *flags]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=ENV)
    assert done.returncode == 1 and "error: " in done.stderr, done.stderr
    assert "Traceback" not in done.stderr and "Exception" not in done.stderr, done.stderr
    assert not list(tmp_path.iterdir())


def test_a_writer_that_refuses_to_start_leaves_no_folder(tmp_path, monkeypatch):
    def refuses(run):
        raise ValueError("log.writers=wandb: no login")

    monkeypatch.setitem(writers.WRITERS, "wandb", refuses)
    config = tiny()
    config.log.writers = "wandb"
    with pytest.raises(ValueError, match="no login"):
        run(config, tmp_path / "run").train()
    assert not list(tmp_path.iterdir())


def test_a_fallback_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(
        PermissionError, match=r"file/second: Not a directory. Choose another config\.checkpoint\.fallback"
    ):
        Workdir(tmp_path / "run", str(tmp_path / "file" / "second"))
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_refusal_leaves_what_was_there(tmp_path):
    config = tiny()
    config.checkpoint.best_metric = "eval_rfid"
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match="best_metric"):
        run(config, tmp_path / "run")
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["notes.txt"]
    with pytest.raises(ValueError, match="best_metric"):
        run(config, tmp_path / "deep" / "er")
    assert not (tmp_path / "deep").exists()


def test_folders_are_made_and_removed(tmp_path):
    new = files.make_folder(tmp_path / "a" / "b")
    assert new == [tmp_path / "a", tmp_path / "a" / "b"] and files.make_folder(tmp_path / "a" / "b") == []
    (tmp_path / "a" / "file").touch()
    files.remove_empty(new)
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["file"]
    with pytest.raises(NotADirectoryError):
        files.make_folder(pathlib.Path(tmp_path / "a" / "file" / "b"))
