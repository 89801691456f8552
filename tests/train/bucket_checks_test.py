"""Paths in buckets are checked before a run: one line for each, with what it holds or why it cannot be used."""

import json
import os
import pathlib
import subprocess
import sys

import pytest

from softvq_jax.data.bucket_summary import describe
from softvq_jax.storage.paths import as_path
from softvq_jax.train.bucket_checks import check_buckets
from tests import bucket_servers
from tests.data.buckets_test import KINDS, upload

LAUNCH = pathlib.Path(__file__).parents[2] / "launch"
HOLDS = {
    "folder": "2 folders, such as a with 9 images",
    "tar": "3 tar files; the first begins with a/00.png",
    "array_record": "18 images of 2 classes in 3 shards",
    "parquet": "3 Parquet files; the first has 6 images of 2 classes",
}


@pytest.mark.parametrize("kind", KINDS)
def test_data_of_each_kind_are_described_without_reading_them(kind, proxy, tmp_path):
    KINDS[kind](tmp_path / "data")
    upload(tmp_path / "data", proxy.root / "data")
    del proxy.requests[:]
    assert describe(kind, f"{proxy.root}/data") == HOLDS[kind]
    assert len(proxy.requests) < 30
    wrong = "tar" if kind != "tar" else "folder"
    with pytest.raises((ValueError, FileNotFoundError)) as caught:
        describe(wrong, f"{proxy.root}/data")
    if kind != "folder":  # of which only subfolders are seen
        assert f"is not for data.source={wrong!r}, but for data.source={kind!r}" in str(caught.value)


def test_other_data_and_missing_ones_are_named(proxy):
    root = proxy.root
    info = {"fileFormat": "tfrecord", "name": "cats", "splits": [{"name": "train", "shardLengths": ["3", "4"]}]}
    (root / "cats" / "dataset_info.json").write_text(json.dumps(info))
    with pytest.raises(ValueError, match="not in ArrayRecord format"):
        describe("tfds", f"{root}/cats@train")
    (root / "cats" / "dataset_info.json").write_text(json.dumps(info | {"fileFormat": "array_record"}))
    assert describe("tfds", f"{root}/cats@train") == "7 examples of cats"
    with pytest.raises(ValueError, match="has no split 'test'; it has train"):
        describe("tfds", f"{root}/cats@test")
    (root / "packed" / "0.tar").write_bytes(b"\x1f\x8b" + bytes(600))
    with pytest.raises(ValueError, match=r"0\.tar is compressed"):
        describe("tar", f"{root}/packed")
    with pytest.raises(FileNotFoundError, match=f"there is nothing at {root}/none"):
        describe("folder", f"{root}/none")
    missing = str(root).replace("softvq-test", "softvq-missing")
    for kind in KINDS:
        with pytest.raises(FileNotFoundError, match=f"there is no bucket {missing}. Create it"):
            describe(kind, f"{missing}/data")
    proxy.fault = lambda method, uri: 403
    for kind in KINDS:
        with pytest.raises(PermissionError, match="no permission to"):
            describe(kind, f"{root}/cats")


def test_every_path_of_a_run_has_one_line(bucket, tiny_config, capsys, tmp_path):
    (bucket / "lpips.pth").write_bytes(bytes(2_000_000))
    (bucket / "images" / "a" / "0.png").write_bytes(bytes(30))
    (bucket / "run" / "config.json").write_text("{}")
    config = tiny_config
    config.data.update(source="folder", path=f"{bucket}/images", eval_path=f"{bucket}/none")
    config.weights.lpips_trunk = f"{bucket}/lpips.pth"
    config.weights.dino = f"{bucket}/dino.pth"
    missing = str(bucket).replace("softvq-test", "softvq-missing")
    config.checkpoint.fallback = f"{missing}/fallback"
    assert check_buckets(config, as_path(f"{bucket}/run")) == 1
    lines = capsys.readouterr().out.splitlines()
    assert sorted(lines) == sorted([
        f"ok: data.path={bucket}/images: 1 folder, such as a with 1 image",
        f"error: data.eval_path: there is nothing at {bucket}/none",
        f"ok: weights.lpips_trunk={bucket}/lpips.pth: 2.0 MB",
        f"error: weights.dino: there is no {bucket}/dino.pth",
        f"error: checkpoint.fallback: {missing}/fallback: there is no bucket {missing}. Create it, or correct its name",
        f"ok: workdir={bucket}/run: can be written; it holds config.json",
    ])  # fmt: skip
    assert [path.name for path in (bucket / "run").iterdir()] == ["config.json"]
    config.data.eval_path = config.weights.dino = config.checkpoint.fallback = ""
    assert check_buckets(config, as_path(f"{bucket}/run")) == 0


def test_a_dry_run_of_a_launch_script_checks_the_buckets(gcs):
    with bucket_servers.environment(bucket_servers.gcs_environment(gcs)):
        root = as_path("gs://softvq-test/launched")
        command = [LAUNCH / "tpu_vm.sh", "--name", "n", "--zone", "z", "--dry-run", "--", "--config=tiny"]
        command += [f"--workdir={root}/run", "--config.data.source=folder", f"--config.data.path={root}/none"]
        result = subprocess.run(command, env=os.environ | {"PYTHON": sys.executable}, text=True, capture_output=True)
        root.rmtree()
    assert result.returncode == 1 and result.stdout.startswith("gcloud compute tpus tpu-vm ssh n")
    assert result.stderr.splitlines()[-2:] == [
        f"error: data.path: there is nothing at {root}/none",
        f"ok: workdir={root}/run: can be written; a new run",
    ]
