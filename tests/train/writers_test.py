"""Metrics and pictures in TensorBoard's files and in an offline run of Weights & Biases, read back by other readers."""

import contextlib
import errno
import json
import logging
import os
import pathlib
import shutil
import time

import numpy as np
import pytest

from softvq_jax.config.run import writer_names
from softvq_jax.train import writers
from softvq_jax.train.closing import at_end
from softvq_jax.train.metrics import MetricsWriter
from softvq_jax.train.write_errors import WriteFailed

CONFIG = {"task": "tokenizer", "log": {"wandb_project": "mine"}}


def write(workdir, names, step=0):
    """Writes steps `step + 1` and `step + 2`, and a picture."""
    workdir.mkdir(exist_ok=True)
    run = writers.RunInfo(workdir, "0a1b2c3d", CONFIG, step)
    writer = MetricsWriter(workdir, step=step, active=True, writers=lambda: writers.Writers(names, run))
    for number in (step + 1, step + 2):
        writer.scalars(number, {"reconstruction": 1 / number, "eval_psnr": 20.0, "images_per_second": 7.0})
    writer.pictures(step + 2, "samples", [np.full((2, 8, 8, 3), 200, np.uint8)])
    writer.close()


def test_tags_are_groups_and_names():
    names = ("reconstruction", "eval_psnr", "images_per_second", "mfu", "goodput", "learning_rate", "codebook_usage")
    assert [writers.tag(name) for name in names] == [
        "losses/reconstruction",
        "held_out/psnr",
        "speed/images_per_second",
        "speed/mfu",
        "speed/goodput",
        "optimization/learning_rate",
        "codebook_and_latents/codebook_usage",
    ]


def test_names_in_the_config():
    assert writer_names("") == [] and writer_names("wandb, tensorboard,") == ["wandb", "tensorboard"]


def test_tensorboard_events(tmp_path):
    pytest.importorskip("tensorboardX")
    from tensorboardX.proto.event_pb2 import Event

    write(tmp_path, "tensorboard")
    write(tmp_path, "tensorboard", step=1)
    found = {}
    for path in sorted((tmp_path / "tensorboard").iterdir()):
        for event in events(path, Event):
            for value in event.summary.value:
                kind = value.WhichOneof("value")
                found.setdefault(value.tag, []).append(
                    (event.step, getattr(value, kind) if kind == "simple_value" else kind)
                )
    assert set(found) == {"losses/reconstruction", "held_out/psnr", "speed/images_per_second", "images/samples"}
    assert found["losses/reconstruction"] == [(1, 1.0), (2, 0.5), (2, 0.5), (3, pytest.approx(1 / 3))]
    assert found["images/samples"] == [(2, "image"), (3, "image")]


def events(path, kind):
    """The records of an event file: length, its checksum, the content, its checksum."""
    data, position = path.read_bytes(), 0
    while position < len(data):
        length = int.from_bytes(data[position : position + 8], "little")
        yield kind.FromString(data[position + 12 : position + 12 + length])
        position += 12 + length + 4


def open_tensorboard(workdir):
    pytest.importorskip("tensorboardX")
    return writers.TensorBoard(writers.RunInfo(workdir, "0a1b2c3d", CONFIG, 0))


def test_a_full_disk_stops_tensorboard_and_nothing_waits(tmp_path, monkeypatch):
    def on_full_disk(path):
        pathlib.Path(path).touch()
        return open("/dev/full", "wb")

    monkeypatch.setattr(pytest.importorskip("tensorboardX.record_writer"), "open_file", on_full_disk)
    writer = open_tensorboard(tmp_path)
    says = rf"{tmp_path}/tensorboard/events\.out\.tfevents\S+ could not be written: No space left on device$"
    with pytest.raises(WriteFailed, match=says):
        writer.scalars(1, {"losses/total": 1.0})
    for step in range(2, 40):  # the thread of a `SummaryWriter` would have ended, with a queue of ten
        with contextlib.suppress(WriteFailed):
            writer.scalars(step, {"losses/total": 1.0})
    writer.close()  # says nothing a second time


def test_a_removed_folder_of_tensorboard_is_named(tmp_path):
    writer = open_tensorboard(tmp_path)
    shutil.rmtree(tmp_path / "tensorboard")
    for write in (lambda: writer.scalars(1, {"a": 1.0}), lambda: writer.picture(1, "b", np.zeros((4, 4, 3), np.uint8))):
        with pytest.raises(WriteFailed, match=rf"{tmp_path}/tensorboard/\S+ could not be written: No such file"):
            write()
    writer.close()


@pytest.mark.slow
def test_a_wandb_run_goes_on_offline(tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    write(tmp_path / "a_run", "wandb")
    write(tmp_path / "a_run", "wandb", step=1)
    folders = sorted((tmp_path / "a_run" / "wandb").glob("offline-run-*"))
    assert [folder.name.split("-")[-1] for folder in folders] == ["0a1b2c3d"] * 2
    deadline = time.monotonic() + 30
    while not all(len(history(folder)) == 3 for folder in folders) and time.monotonic() < deadline:
        time.sleep(0.1)  # wandb's own process writes the files
    first, second = map(history, folders)
    assert [(line["step"], line.get("losses/reconstruction")) for line in first] == [(1, 1.0), (2, 0.5), (2, None)]
    assert [line["step"] for line in second] == [2, 3, 3]
    assert "held_out/psnr" in first[0] and first[-1]["images/samples._type"] == "image-file"


@pytest.mark.slow
def test_a_removed_folder_of_wandb_is_named(tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    writer = writers.WandB(writers.RunInfo(tmp_path, "0a1b2c3d", CONFIG, 0))
    writer.scalars(1, {"a": 1.0})
    shutil.rmtree(tmp_path / "wandb")
    with pytest.raises(WriteFailed, match=rf"{tmp_path}/wandb/\S+ could not be written: No such file or directory"):
        writer.scalars(2, {"a": 1.0})
    writer.close()


def history(folder: pathlib.Path) -> list[dict]:
    """The logged values in the file of an offline run: a header of 7 bytes, then records in LevelDB's log format."""
    from wandb.proto import wandb_internal_pb2

    [path] = folder.glob("*.wandb")
    data, position, content, lines = path.read_bytes(), 7, b"", []
    while position < len(data):
        left = 32768 - position % 32768  # of the block
        if left < 7:
            position += left
            continue
        length, kind = int.from_bytes(data[position + 4 : position + 6], "little"), data[position + 6]
        content += data[position + 7 : position + 7 + length]
        position += 7 + length
        if kind in (1, 4):  # a whole record, or the last part of one
            record, content = wandb_internal_pb2.Record.FromString(content), b""
            if record.WhichOneof("record_type") == "history":
                items = record.history.item
                lines.append({item.key or ".".join(item.nested_key): json.loads(item.value_json) for item in items})
    return lines


@pytest.mark.parametrize("name", ["tensorboard", "wandb"])
def test_a_missing_extra_is_named(tmp_path, monkeypatch, name):
    def missing(run):
        raise ImportError

    monkeypatch.setitem(writers.WRITERS, name, missing)
    with pytest.raises(ImportError, match=rf"log.writers={name} needs: pip install 'softvq-jax\[{name}\]'"):
        writers.Writers(name, writers.RunInfo(tmp_path, "", CONFIG, 0))


class OnFullDisk:
    """A writer whose last lines cannot be written."""

    def __init__(self, run):
        self.run = run

    def close(self):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_an_error_of_closing_does_not_hide_that_of_the_run(tmp_path, monkeypatch, caplog):
    monkeypatch.setitem(writers.WRITERS, "tensorboard", OnFullDisk)
    run, says = writers.RunInfo(tmp_path, "", CONFIG, 0), rf"{tmp_path} could not be written: No space left on device"

    writer = MetricsWriter(tmp_path, step=0, active=True, writers=lambda: writers.Writers("tensorboard", run))
    with pytest.raises(WriteFailed, match=says), at_end(writer.close):
        pass
    with (
        caplog.at_level(logging.ERROR),
        pytest.raises(WriteFailed, match="the state is saved"),
        at_end(writer.close),
    ):
        raise WriteFailed("the state is saved elsewhere")
    assert "No space left on device" in caplog.text
