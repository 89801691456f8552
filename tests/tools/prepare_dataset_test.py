import json
import pathlib
import resource
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from absl import logging
from PIL import Image

from softvq_jax.data import array_record, records
from softvq_jax.data.array_record import ArrayRecordShards
from softvq_jax.data.folder import ImageFolder
from softvq_jax.data.source import UnreadableImage
from softvq_jax.tools import prepare_dataset
from softvq_jax.tools.command_line import exit_code
from tests.data.photographs import pixels, png

ROOT = pathlib.Path(__file__).parents[2]
SETTINGS = {"images_per_shard": 4, "size": None, "num_workers": 1}


@pytest.fixture
def folder(tmp_path):
    for number in range(10):
        path = tmp_path / "images" / f"class{number % 3}" / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png(number))
    return tmp_path / "images"


def command(*flags):
    return [sys.executable, "-m", "softvq_jax.tools.prepare_dataset", *flags]


def test_every_image_is_kept_byte_for_byte(folder, tmp_path):
    index = prepare_dataset.prepare(ImageFolder(str(folder)), tmp_path / "out", **SETTINGS)
    assert [shard["records"] for shard in index["shards"]] == [4, 3, 3]
    assert index["images"] == 10 and index["unreadable"] == []
    expected = sorted(folder.rglob("*.png"))
    shards = ArrayRecordShards(str(tmp_path / "out"))
    assert len(shards) == 10 and shards.class_names == ("class0", "class1", "class2")
    for i, path in enumerate(expected):
        encoded, label = shards[i].load()
        assert encoded == path.read_bytes()
        assert f"class{label}" == path.parent.name
        name = array_record.read_record(shards[i].shard, shards[i].position)["name"]
        assert name.decode() == str(path.relative_to(folder))
    with pytest.raises(IndexError):
        shards[10]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "dataset.json", *(f"images-0000{i}-of-00003.array_record" for i in range(3)),
    ]  # fmt: skip


def test_size_shrinks_larger_images_only(tmp_path):
    (tmp_path / "images").mkdir()
    Image.fromarray(np.kron(pixels(0, 12, 16), np.ones((8, 8, 1), np.uint8))).save(tmp_path / "images" / "a.png")
    (tmp_path / "images" / "b.png").write_bytes(png(1))
    prepare_dataset.prepare(ImageFolder(str(tmp_path / "images")), tmp_path / "out", **SETTINGS | {"size": 48})
    large, small = (ArrayRecordShards(str(tmp_path / "out"))[i] for i in range(2))
    assert large.read()[0].size == (64, 48) and large.read()[0].format == "JPEG"
    assert small.load()[0] == png(1)


def test_unreadable_images_are_named_and_left_out(folder, tmp_path, monkeypatch):
    (folder / "class1" / "4.png").write_bytes(b"torn")
    warnings = []
    monkeypatch.setattr(logging, "warning", lambda message, *arguments: warnings.append(message % arguments))
    index = prepare_dataset.prepare(ImageFolder(str(folder)), tmp_path / "out", **SETTINGS)
    assert index["images"] == len(ArrayRecordShards(str(tmp_path / "out"))) == 9
    ((name, reason),) = index["unreadable"]
    assert name == "class1/4.png" and "not an image of the formats" in reason
    assert len(warnings) == 1 and name in warnings[0]


def test_nothing_readable(folder, tmp_path):
    for path in folder.rglob("*.png"):
        path.write_bytes(b"torn")
    with pytest.raises(ValueError, match="none of the 10 images is readable"):
        prepare_dataset.prepare(ImageFolder(str(folder)), tmp_path / "out", **SETTINGS)
    assert not (tmp_path / "out" / "dataset.json").exists()


def test_another_data_set_in_the_folder_is_refused(folder, tmp_path):
    prepare_dataset.prepare(ImageFolder(str(folder)), tmp_path / "out", **SETTINGS)
    before = (tmp_path / "out" / "dataset.json").read_bytes()
    prepare_dataset.prepare(ImageFolder(str(folder)), tmp_path / "out", **SETTINGS)  # the same: nothing to do
    with pytest.raises(ValueError, match=r"size is None there, 64 here\): use another --out"):
        prepare_dataset.prepare(ImageFolder(str(folder)), tmp_path / "out", **SETTINGS | {"size": 64})
    assert (tmp_path / "out" / "dataset.json").read_bytes() == before


def test_the_same_command_continues_after_a_kill(folder, tmp_path):
    """After kill -9 finished shards are kept, and the result equals that of a run without a kill."""
    for number in range(10, 300):
        (folder / "class0" / f"{number}.png").write_bytes(png(number))
    out, whole = tmp_path / "out", tmp_path / "whole"
    flags = [f"--path={folder}", "--images_per_shard=6", "--num_workers=1"]
    process = subprocess.Popen(command(*flags, f"--out={out}"), cwd=ROOT)
    journal = out / prepare_dataset.JOURNAL
    while process.poll() is None and not (journal.exists() and len(journal.read_text().splitlines()) > 4):
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert not (out / "dataset.json").exists()
    finished = {json.loads(line)["file"] for line in journal.read_text().splitlines()[1:4]}
    times = {name: (out / name).stat().st_mtime_ns for name in finished}
    with open(journal, "a") as file:
        file.write('{"file": "images-000')  # a line that was interrupted by the kill
    (out / "images-00049-of-00050.array_record.7.partial").write_bytes(b"half")
    with pytest.raises(FileNotFoundError, match=r"no .*dataset\.json"):
        ArrayRecordShards(str(out))

    result = subprocess.run(command(*flags, f"--out={out}"), cwd=ROOT, capture_output=True, text=True, check=True)
    assert "300 images of 3 classes in 50 shards" in result.stdout
    assert {name: (out / name).stat().st_mtime_ns for name in finished} == times
    prepare_dataset.prepare(ImageFolder(str(folder)), whole, **SETTINGS | {"images_per_shard": 6})
    assert json.loads((out / "dataset.json").read_text()) == json.loads((whole / "dataset.json").read_text())
    assert sorted(path.name for path in out.iterdir()) == sorted(path.name for path in whole.iterdir())


def test_verify_finds_every_damage(folder, tmp_path):
    out = tmp_path / "out"
    prepare_dataset.prepare(ImageFolder(str(folder)), out, **SETTINGS)
    assert prepare_dataset.verify(out, 1) == []
    shards = sorted(out.glob("*.array_record"))
    content = bytearray(shards[0].read_bytes())
    content[content.index(b"class0/3.png")] ^= 1
    shards[0].write_bytes(content)
    shards[1].unlink()
    shards[2].write_bytes(b"short")
    problems = "\n".join(prepare_dataset.verify(out, 1))
    assert f"{shards[0]} is not the file that was written" in problems and f"{shards[0]} record 1: " in problems
    assert f"{shards[1]} is missing" in problems
    assert f"{shards[2]} is not the file that was written" in problems


def test_damaged_shards_are_found_on_reading(folder, tmp_path):
    out = tmp_path / "out"
    prepare_dataset.prepare(ImageFolder(str(folder)), out, **SETTINGS)
    before = ArrayRecordShards(str(out)).fingerprint()
    first = sorted(out.glob("*.array_record"))[0]
    content = bytearray(first.read_bytes())

    content[content.index(b"class0/3.png")] ^= 1
    first.write_bytes(content)
    shards = ArrayRecordShards(str(out))
    assert shards.fingerprint() != before
    assert shards[0].read()[1] == 0
    with pytest.raises(UnreadableImage, match=r"images-00000-of-00003\.array_record record 1: RuntimeError"):
        shards[1].read()

    first.write_bytes(content[:-100])
    with pytest.raises(ValueError, match=r"has 130,972 bytes, dataset\.json says 131,072"):
        ArrayRecordShards(str(out))
    shutil.move(first, tmp_path)
    with pytest.raises(FileNotFoundError, match=r"is missing, but dataset\.json lists it"):
        ArrayRecordShards(str(out))


def test_a_record_that_is_not_an_image_is_reported(tmp_path):
    writer = pytest.importorskip("array_record.python.array_record_module").ArrayRecordWriter
    path = str(tmp_path / "x.array_record")
    shard = writer(path, "group_size:1")
    for content in (records.encode({"latent": np.zeros(3)}), b"other"):
        shard.write(content)
    shard.close()
    for position, reason in enumerate(["KeyError: 'image'", "CorruptRecord: not a record of version 1"]):
        with pytest.raises(UnreadableImage, match=f"record {position}: {reason}"):
            array_record.RecordedImage(path, position, 1).load()


def run_here(capsys, *flags) -> str:
    """Runs the tool in this process; returns its message where it fails."""
    args = prepare_dataset.parse_flags(["prepare_dataset", "--num_workers=1", *flags])
    assert exit_code(prepare_dataset.main, args) == 1
    return capsys.readouterr().err


def test_a_full_disk_is_reported_and_the_same_command_continues(folder, tmp_path, capsys):
    """No file may grow beyond 64 KiB; a shard takes 128."""
    out = tmp_path / "out"
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**16, before[1]))
    try:
        said = run_here(capsys, f"--path={folder}", f"--out={out}")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert f"{out}/images-00000-of-00001.array_record could not be written: " in said and "File too large" in said
    assert "start the same command again" in said and len(said.splitlines()) == 1
    assert [path.name for path in out.iterdir()] == [prepare_dataset.JOURNAL]
    assert "the data set is not finished" in run_here(capsys, f"--out={out}", "--verify")
    prepare_dataset.prepare(ImageFolder(str(folder)), out, **SETTINGS | {"images_per_shard": 5000})
    assert prepare_dataset.verify(out, 1) == []


def test_invalid_folders_are_reported(folder, tmp_path, capsys, monkeypatch):
    out = tmp_path / "out"
    out.mkdir()
    index = out / "dataset.json"
    assert f"no {index}: expected a folder that prepare_dataset wrote" in run_here(capsys, f"--out={out}", "--verify")
    for content, reason in [
        ('{"plan": ', "is damaged (Expecting value"),
        ("[]", "was not written by prepare_dataset"),
    ]:
        index.write_text(content)
        for flags in (["--verify"], [f"--path={folder}"]):
            assert f"{index} {reason}" in run_here(capsys, f"--out={out}", *flags)
    below = index / "below"
    assert f"{below} could not be written: Not a directory" in run_here(capsys, f"--path={folder}", f"--out={below}")
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)
    said = run_here(capsys, "--source=tfds", "--path=mnist@test", f"--out={tmp_path / 'mnist'}")
    assert "pip install 'softvq-jax[tfds]'" in said and not (tmp_path / "mnist").exists()


@pytest.mark.parametrize(("flags", "message"), [
    (["--path=/nowhere"], "prepare_dataset: error: no folder '/nowhere'"),
    ([], "give --path to write a data set, or --verify"),
    (["--path=x", "--num_workers=0"], "--num_workers=0: expected at least 1"),
])  # fmt: skip
def test_invalid_flags(flags, message, tmp_path):
    result = subprocess.run(command(f"--out={tmp_path / 'out'}", *flags), cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == (1 if "/nowhere" in message else 2) and message in result.stderr
    assert not (tmp_path / "out").exists()
