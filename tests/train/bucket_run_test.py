"""Whole runs by the command line with data and workdir in a bucket: the bits of a local run, one line for each fault."""

import os
import pathlib
import subprocess
import sys
import tarfile

import jax
import numpy as np
import pytest

from softvq_jax.data.sources import open_source
from softvq_jax.tools import prepare_dataset
from softvq_jax.weights.checkpoints import find_checkpoint, read_weights
from tests import bucket_servers
from tests.data.buckets_test import upload
from tests.data.photographs import png
from tests.programs import QUICK_COMPILATION, ROOT, free_port, join_flags

FLAGS = {  # a few steps of the README's first command, of 16 images each
    "train.num_steps": 4,
    "checkpoint.every_steps": 2,
    "log.every_steps": 1,
    "evals.held_out.every_steps": 2,
    "evals.held_out.num_images": 8,
}


def command(workdir, cache, *more, **fields) -> list[str]:
    values = FLAGS | fields
    flags = [f"--config.{name}={value}" for name, value in values.items()]
    program = [sys.executable, "-m", "softvq_jax.main", "--config=configs/tiny.py", f"--workdir={workdir}"]
    return [*program, f"--compilation_cache={cache}", *flags, *more]


def run(*args, env=None, **fields) -> subprocess.CompletedProcess:
    env = os.environ | QUICK_COMPILATION | {"JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"} | (env or {})
    return subprocess.run(command(*args, **fields), env=env, cwd=ROOT, text=True, capture_output=True, timeout=600)


def weights(workdir) -> bytes:
    return (workdir / "tokenizer" / "model.safetensors").read_bytes()


def write_images(folder: pathlib.Path) -> None:
    for i in range(40):
        (folder / "ab"[i % 2]).mkdir(parents=True, exist_ok=True)
        (folder / "ab"[i % 2] / f"{i:02}.png").write_bytes(png(i))


def write_data(source: str, folder: pathlib.Path) -> None:
    """Writes the same images for a `data.source`."""
    images = folder.parent / "images" if source != "folder" else folder
    write_images(images)
    if source == "tar":
        folder.mkdir()
        with tarfile.open(folder / "images.tar", "w") as archive:
            archive.add(images, ".")
    elif source == "array_record":
        opened = open_source({"source": "folder"}, str(images))
        prepare_dataset.prepare(opened, folder, images_per_shard=15, size=None, num_workers=1)


@pytest.mark.heavy  # a minute each
@pytest.mark.parametrize(
    ("source", "scheme"),
    [("tar", "gs"), ("folder", "gs"), ("array_record", "gs"), ("tar", "s3"), ("array_record", "s3")],
)
def test_the_first_command_of_the_readme_ends_with_the_bits_of_the_local_run(source, scheme, request, tmp_path):
    bucket = request.getfixturevalue(f"{scheme}_folder")
    write_data(source, tmp_path / "data")
    upload(tmp_path / "data", bucket / "data")
    data = {"data.source": source, "data.augment": "random_region"}
    cache = request.config.cache.mkdir("bucket_runs")  # the programs of all cases are the same
    for workdir, path in ((tmp_path / "run", tmp_path / "data"), (bucket / "run", bucket / "data")):
        result = run(workdir, cache, **data, **{"data.path": path})
        assert result.returncode == 0, result.stderr[-3000:]
    assert weights(bucket / "run") == weights(tmp_path / "run")
    ours, theirs = (find_checkpoint(folder / "run", 4) for folder in (bucket, tmp_path))
    assert ours is not None and theirs is not None and (bucket / "run" / "metrics.jsonl").is_file()
    jax.tree.map(np.testing.assert_array_equal, read_weights(ours).params, read_weights(theirs).params)
    assert [path.name for path in (bucket / "run").glob(".lock")] == []


@pytest.mark.slow
def test_a_bucket_that_cannot_be_used_is_one_line(gs_folder, gcs, tmp_path):
    def last_lines(result):
        assert result.returncode == 1
        assert "Traceback" not in result.stderr
        return result.stderr.splitlines()[-2:]

    missing, _ = last_lines(run("gs://softvq-missing/run", tmp_path / "cache"))
    assert missing.startswith("error: gs://softvq-missing/run: there is no bucket gs://softvq-missing. Create it")
    with bucket_servers.Proxy(gcs) as proxy:
        proxy.fault = lambda method, path: 403 if method in ("POST", "PUT") else 0
        refused, _ = last_lines(
            run(gs_folder / "run", tmp_path / "cache", env=bucket_servers.gcs_environment(proxy.url))
        )
    assert refused.startswith(f"error: no permission to write {gs_folder}/run/") and "objectAdmin" in refused


SAVE = """
import sys
import jax
from softvq_jax.storage.paths import as_path
from softvq_jax.train.checkpoint import Checkpoints
checkpoints = Checkpoints(as_path(sys.argv[1]), keep=2, keep_every_steps=0)
for step in (1, 2):
    checkpoints.save({"weights": jax.random.normal(jax.random.key(step), (512, 512))}, {"step": step})
    checkpoints.wait()
checkpoints.close()
one = jax.sharding.SingleDeviceSharding(jax.devices()[0])
abstract = {"weights": jax.ShapeDtypeStruct((512, 512), "float32", sharding=one)}
restored = Checkpoints(as_path(sys.argv[1]), keep=2, keep_every_steps=0).restore(abstract)
assert restored.record["step"] == 2
assert (restored.state["weights"] == jax.random.normal(jax.random.key(2), (512, 512))).all()
"""


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["gs", "s3"])
def test_arrays_are_written_again_while_the_server_is_overloaded(scheme, request):
    """Each upload of an array is refused twice, in both saves."""
    refused, folder = {}, request.getfixturevalue(f"{scheme}_folder")
    upload_method, settings = {
        "gs": ("POST", bucket_servers.gcs_environment),
        "s3": ("PUT", bucket_servers.s3_environment),
    }[scheme]
    with bucket_servers.Proxy(request.getfixturevalue({"gs": "gcs", "s3": "s3"}[scheme])) as proxy:

        def fault(method, path):
            if method == upload_method and ("%2Fd%2F" in path or "/d/" in path):
                refused[path] = refused.get(path, 0) + 1
                return 503 if refused[path] <= 2 else 0
            return 0

        proxy.fault = fault
        env = os.environ | settings(proxy.url)
        result = subprocess.run(
            [sys.executable, "-c", SAVE, str(folder / "checkpoints")],
            env=env,
            cwd=ROOT,
            text=True,
            capture_output=True,
        )
    assert result.returncode == 0, result.stderr[-3000:]
    assert refused and all(count == 3 for count in refused.values())
    assert [path.name for path in (folder / "checkpoints").iterdir()] == ["1", "2"]


@pytest.mark.heavy  # six starts of JAX
@pytest.mark.parametrize("scheme", ["gs", "s3"])
def test_two_processes_on_a_bucket_are_killed_and_end_with_the_bits_of_a_local_run(scheme, request, tmp_path):
    bucket, logs = request.getfixturevalue(f"{scheme}_folder"), tmp_path / "logs"
    logs.mkdir()

    def start(workdir):
        address, running = f"127.0.0.1:{free_port()}", []
        env = os.environ | QUICK_COMPILATION | {"JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": "1", "NPROC": "8"}
        env |= {"JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
        for process in range(2):
            flags = {"mesh.fsdp": 2, "checkpoint.every_steps": 2, "train.num_steps": 8}
            words = command(workdir, tmp_path / "cache", *join_flags(address, 2, process), **flags)
            with (logs / f"{process}").open("a") as log:
                running.append(subprocess.Popen(words, cwd=ROOT, env=env, stdout=log, stderr=log))
        return running

    def finish(running):
        for number, process in enumerate(running):
            assert process.wait(600) == 0, (logs / f"{number}").read_text()[-4000:]

    finish(start(tmp_path / "run"))
    running = start(bucket / "run")
    while find_checkpoint(bucket / "run") is None:
        assert running[0].poll() is None, (logs / "0").read_text()[-4000:]
    for process in running:
        process.kill()
        process.wait()
    saved = find_checkpoint(bucket / "run")
    assert saved is not None and int(saved.name) < 8 and not (bucket / "run" / "tokenizer").exists()
    finish(start(bucket / "run"))
    assert f"resuming after step {saved.name}" in (logs / "0").read_text()
    assert weights(bucket / "run") == weights(tmp_path / "run")
