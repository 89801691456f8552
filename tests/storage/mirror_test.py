"""The cache of local copies, without a bucket."""

import os

import pytest

from softvq_jax.storage import mirror


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SOFTVQ_CACHE_DIR", str(tmp_path))
    monkeypatch.setenv("SOFTVQ_CACHE_GB", "1e-6")  # 1,000 bytes
    return tmp_path


def write(path, size, used):
    path.parent.mkdir(parents=True)
    path.write_bytes(bytes(size))
    os.utime(path, (used, used))
    return path


def test_the_least_recently_used_copies_make_room_and_work_files_stay(cache):
    old, new = write(cache / "a" / "0.tar", 400, 1000), write(cache / "b" / "1.tar", 400, 2000)
    work = write(mirror.work_folder("gs://bucket/out") / "rows", 900, 500)
    mirror.make_room(600)
    assert not old.exists() and new.exists() and work.exists()
    with pytest.raises(OSError, match=r"0\.00 GB do not fit into .* SOFTVQ_CACHE_GB"):
        mirror.make_room(1001)
    assert work.exists()
