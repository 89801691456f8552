"""The lock of a folder in a bucket: one program at a time, and what a killed one leaves is taken over."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest

from softvq_jax.storage import lock
from softvq_jax.storage.bucket_lock import BucketLock
from softvq_jax.storage.lock import Locked

HOLD = """
import sys, time
from softvq_jax.storage.bucket_lock import BucketLock
from softvq_jax.storage.paths import as_path
held = BucketLock(as_path(sys.argv[1]), beat=0.2)
print("held", flush=True)
time.sleep(60)
"""


@pytest.fixture
def other(bucket):
    """Another program that holds the lock of the bucket's folder `run`."""
    root = str(pathlib.Path(__file__).parents[2])
    command = [sys.executable, "-c", HOLD, str(bucket / "run")]
    program = subprocess.Popen(command, env=os.environ | {"PYTHONPATH": root}, stdout=subprocess.PIPE, text=True)
    assert program.stdout is not None and program.stdout.readline() == "held\n"
    yield program
    program.kill()
    program.wait()


def test_one_program_at_a_time(bucket, other):
    with pytest.raises(Locked, match=f"run is in use by process {other.pid} on .* since .*Use another workdir"):
        BucketLock(bucket / "run")
    BucketLock(bucket / "run2").release()
    other.send_signal(signal.SIGKILL)
    other.wait()
    BucketLock(bucket / "run", beat=0.2).release()  # at once, as it is of this host
    assert not (bucket / "run" / lock.NAME).exists()


def test_a_lock_that_is_released_meanwhile_is_taken_at_once(bucket, monkeypatch, caplog):
    path = bucket / "run" / lock.NAME
    path.write_text(json.dumps({"host": "elsewhere", "pid": 1, "id": "x", "beat": 1}))
    read = BucketLock._read

    def released(self):
        path.unlink(missing_ok=True)  # after our attempt to create it
        monkeypatch.setattr(BucketLock, "_read", read)
        return read(self)

    monkeypatch.setattr(BucketLock, "_read", released)
    began = time.monotonic()
    BucketLock(bucket / "run").release()
    assert time.monotonic() - began < 5 and not caplog.messages


def test_the_one_who_loses_a_race_names_the_winner(bucket, monkeypatch):
    """Two programs see the lock of a killed one, and the other is faster."""
    path = bucket / "run" / lock.NAME
    killed = lock.holder() | {"pid": 2**22 + 1, "id": "x"}
    path.write_text(json.dumps(killed))
    winner = json.dumps(lock.holder() | {"id": "y"})

    def wins(self, found):
        path.write_text(winner)
        return False

    monkeypatch.setattr(BucketLock, "_take_over", wins)
    with pytest.raises(Locked, match=f"in use by process {os.getpid()} on "):
        BucketLock(bucket / "run", beat=0.1)


def test_a_program_may_lock_again(bucket):
    first, second = BucketLock(bucket, beat=0.1), BucketLock(bucket)
    second.release()
    assert (bucket / lock.NAME).exists()
    first.release()
    assert not (bucket / lock.NAME).exists()


def test_another_host_is_waited_for(bucket):
    path = bucket / lock.NAME
    path.write_text(json.dumps({"host": "elsewhere", "pid": 1, "id": "x", "beat": 1}))
    began = time.monotonic()
    held = BucketLock(bucket, beat=0.1, stale=0.5)
    assert 0.5 < time.monotonic() - began < 10
    time.sleep(0.3)
    held.check()
    with pytest.raises(Locked, match="in use by process 1 on elsewhere"):
        for _ in range(10):  # a heartbeat in progress may write over it
            path.write_text(json.dumps({"host": "elsewhere", "pid": 1, "id": "y", "beat": 1}))
            time.sleep(0.6)
            held.check()
    held.release()
    assert json.loads(path.read_text())["id"] == "y"
