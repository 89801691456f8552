"""Paths in buckets against fake-gcs-server and moto: the same answers as `pathlib`, and one clear line for each fault."""

import asyncio
import pathlib
import pickle
import subprocess
import sys
import threading
import time
import types

import pytest

from softvq_jax.storage import bucket_errors, files, listing
from softvq_jax.storage.bucket_errors import Exists, Forbidden, NotFound, Unavailable
from softvq_jax.storage.buckets import BucketPath
from softvq_jax.storage.paths import as_path, is_remote

TREE = {
    "a.txt": b"one",
    "run/metrics.jsonl": b"{}\n",
    "run/images/1.png": b"\0\1",
    "run/images/2.png": b"\0\2",
    "é ü#?.txt": b"x",
}


def test_a_bucket_answers_as_a_folder_does(bucket, tmp_path):
    for root in (bucket, tmp_path):
        for name, content in TREE.items():
            files.write_bytes(root / name, content) if is_remote(root) else None
            if not is_remote(root):
                (root / name).parent.mkdir(parents=True, exist_ok=True)
                (root / name).write_bytes(content)
    for pattern in ("*", "*.txt", "run/*", "*/metrics.jsonl", "run/images/*.png", "none/*"):
        expected = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.glob(pattern))
        assert [str(path.relative_to(bucket)) for path in bucket.glob(pattern)] == expected
        assert [name.removeprefix(f"{bucket}/") for name in listing.glob(f"{bucket}/{pattern}")] == expected
    assert [path.name for path in bucket.rglob("*.png")] == ["1.png", "2.png"]
    assert [path.name for path in bucket.iterdir()] == sorted(path.name for path in tmp_path.iterdir())
    assert listing.sizes(f"{bucket}/run") == {"metrics.jsonl": 3}
    for name in (*TREE, "run", "run/images", "none", "run/none.txt"):
        ours, theirs = bucket / name, tmp_path / name
        assert (ours.exists(), ours.is_file(), ours.is_dir()) == (theirs.exists(), theirs.is_file(), theirs.is_dir())
        if theirs.is_file():
            assert ours.read_bytes() == theirs.read_bytes() and ours.stat().st_size == theirs.stat().st_size


def test_reading_and_writing(bucket, tmp_path):
    path = bucket / "folder" / "file.txt"
    path.write_text("hellö")
    assert path.read_text() == "hellö" and path.read_range(1, 3) == b"el"
    version = path.stat().version
    path.write_bytes(bytes(range(256)) * 1000)
    assert path.stat().version != version
    with path.open("rb") as file:
        file.seek(-256, 2)
        assert file.read() == bytes(range(256))
    with path.open("w") as file:
        file.write("line\n")
    assert path.read_text() == "line\n"
    with pytest.raises(Exists, match="exists already"):
        path.create(b"")
    (bucket / "new").create(b"x")
    files.move_folder(bucket / "folder", bucket / "moved")
    assert [path.name for path in bucket.iterdir()] == ["moved", "new"]
    with files.replacing(bucket / "whole") as partial:
        partial.write_bytes(b"1")
        assert not (bucket / "whole").exists()
    assert (bucket / "whole").read_bytes() == b"1"
    with pytest.raises(ZeroDivisionError), files.replacing(bucket / "whole") as partial:
        partial.write_bytes(b"2")
        raise ZeroDivisionError
    assert (bucket / "whole").read_bytes() == b"1"
    (bucket / "whole").unlink()
    (bucket / "whole").unlink(missing_ok=True)
    assert not (bucket / "whole").exists()


def test_a_folder_is_deleted_by_several_requests_at_a_time(proxy):
    for i in range(12):
        (proxy.root / "run" / str(i)).write_bytes(b"")
    running, most = set(), []

    def slow(method, uri):
        if method in ("DELETE", "POST"):
            running.add(uri)
            most.append(len(running))
            time.sleep(0.1)
            running.discard(uri)
        return 0

    proxy.fault = slow
    (proxy.root / "run").rmtree()
    assert not (proxy.root / "run").exists() and max(most) > 3


def test_names():
    path = as_path("gs://bucket/run/weights.safetensors")
    assert isinstance(path, BucketPath) and (path.name, path.stem, path.suffix) == (
        "weights.safetensors",
        "weights",
        ".safetensors",
    )
    assert (
        str(path.parent / ".." / "other") == "gs://bucket/other"
        and path.parent.parent == path.bucket == path.bucket.parent
    )
    assert path.relative_to(path.bucket) == pathlib.PurePosixPath("run/weights.safetensors")
    assert path.is_relative_to(as_path("gs://bucket/run")) and not path.is_relative_to(as_path("gs://bucket/ru"))
    assert as_path(pathlib.Path("gs://bucket/run")) == path.parent  # pathlib removes a slash
    assert as_path("runs/a") == pathlib.Path("runs/a") and not is_remote("runs/gs://a")
    for wrong in ("gs://", "s3:///"):
        with pytest.raises(ValueError, match="names no bucket"):
            as_path(wrong)
    with pytest.raises(ValueError, match="http:// cannot be opened here"):
        as_path("http://host/a")


def test_what_is_missing_is_named(bucket):
    with pytest.raises(NotFound, match=f"there is no {bucket}/none"):
        (bucket / "none").read_bytes()
    missing = as_path(str(bucket).replace("softvq-test", "softvq-missing"))
    for use in (
        missing.check_bucket,
        lambda: (missing / "a").write_text("a"),
        lambda: files.make_folder(missing / "run"),
    ):
        with pytest.raises(NotFound, match=f"there is no bucket {missing}. Create it"):
            use()


def test_a_missing_permission_is_named(proxy):
    path = proxy.root / "a"
    path.write_text("a")
    proxy.fault = lambda method, uri: 403
    for use in (lambda: path.write_text("b"), path.read_bytes, path.exists, path.is_dir, proxy.root.check_bucket):
        with pytest.raises(Forbidden, match=r"no permission to .* on (gs|s3)://softvq-test") as caught:
            use()
        assert "\n" not in str(caught.value)


def test_a_server_that_is_overloaded_for_a_while_is_waited_for(proxy, monkeypatch):
    monkeypatch.setattr(bucket_errors, "RETRY_SECONDS", 60.0)
    path = proxy.root / "a"
    path.write_text("before")
    proxy.fault = lambda method, uri: 503
    threading.Timer(1.0, lambda: setattr(proxy, "fault", lambda method, uri: 0)).start()
    began = time.monotonic()
    path.write_text("after")
    assert time.monotonic() - began > 0.9 and path.read_text() == "after"


@pytest.mark.slow
def test_a_server_that_stays_overloaded_ends_in_one_line(proxy, monkeypatch):
    quick = types.SimpleNamespace(sleep=lambda seconds: asyncio.sleep(seconds / 50))
    monkeypatch.setattr("gcsfs.retry.asyncio", quick)  # the client repeats a request six times by itself, in 35 s
    proxy.fault = lambda method, uri: 503
    with pytest.raises(
        Unavailable, match=r"the server answers 503, for 1 s. Start the same command again later"
    ) as caught:
        (proxy.root / "a").read_bytes()
    assert "\n" not in str(caught.value)


def test_errors_are_sent_between_processes():
    for error in (NotFound("a"), Unavailable("b"), Forbidden("c")):
        copy = pickle.loads(pickle.dumps(error))
        assert (type(copy), str(copy), copy.errno) == (type(error), str(error), error.errno)


@pytest.mark.parametrize("scheme, client, extra", [("gs", "gcsfs", "gcs"), ("s3", "s3fs", "s3")])
def test_a_missing_extra_is_named(scheme, client, extra):
    program = f"""
import sys
sys.modules["{client}"] = None  # as if it were not installed
from softvq_jax.storage.paths import as_path
as_path("{scheme}://bucket/a").exists()
"""
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    *_, line = result.stderr.splitlines()
    assert line == f"ImportError: {scheme}:// paths need the {extra} extra: pip install 'softvq-jax[{extra}]'"
