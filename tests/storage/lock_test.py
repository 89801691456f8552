"""The lock of a folder: one program at a time; left by a killed one, it is taken over; other hosts are waited for."""

import errno
import fcntl
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time

import pytest

from softvq_jax.storage import lock
from softvq_jax.storage.lock import FolderLock, Locked

HOLD = """
import pathlib, sys, time
from softvq_jax.storage.lock import FolderLock
held = FolderLock(pathlib.Path(sys.argv[1]))
print("held", flush=True)
time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path):
    """Another process that holds the lock of `tmp_path`."""
    process = subprocess.Popen([sys.executable, "-c", HOLD, tmp_path], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()


@pytest.fixture
def no_flock(monkeypatch):
    """As on a mounted bucket."""

    def fail(*_):
        raise OSError(errno.ENOTSUP, "not supported")

    monkeypatch.setattr(fcntl, "flock", fail)


def test_a_second_program_is_refused_until_the_first_is_killed(tmp_path, holder):
    with pytest.raises(Locked, match=rf"{tmp_path} is in use by process {holder.pid} on {socket.gethostname()} since"):
        FolderLock(tmp_path)
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    assert json.loads((tmp_path / lock.NAME).read_text())["pid"] == holder.pid  # left behind
    FolderLock(tmp_path).release()
    assert not list(tmp_path.iterdir())


def test_without_locks_of_the_system_the_process_is_looked_up(tmp_path, holder, no_flock):
    with pytest.raises(Locked, match=f"process {holder.pid}"):
        FolderLock(tmp_path)
    content = json.loads((tmp_path / lock.NAME).read_text())
    (tmp_path / lock.NAME).write_text(json.dumps(content | {"process_started": "1"}))  # its number was given again
    FolderLock(tmp_path).release()


def test_a_program_may_lock_twice(tmp_path):
    first, second = FolderLock(tmp_path), FolderLock(tmp_path)
    second.release()
    assert (tmp_path / lock.NAME).exists()
    first.release()
    FolderLock(tmp_path).release()


@pytest.mark.parametrize("system", ["flock", "no flock"])
def test_a_lock_of_another_host_is_refused_while_it_beats_and_taken_over_when_it_stops(system, tmp_path, request):
    if system == "no flock":
        request.getfixturevalue("no_flock")
    path, stop = tmp_path / lock.NAME, threading.Event()
    other = {"host": "elsewhere", "pid": 1, "since": "noon", "id": "x"}

    def beat(number=0):
        while not stop.wait(0.05):
            path.write_text(json.dumps(other | {"beat": (number := number + 1)}))

    path.write_text(json.dumps(other | {"beat": 0}))
    thread = threading.Thread(target=beat)
    thread.start()
    try:
        with pytest.raises(Locked, match="in use by process 1 on elsewhere since noon"):
            FolderLock(tmp_path, beat=0.2, stale=5.0)
    finally:
        stop.set()
        thread.join()
    began = time.monotonic()
    held = FolderLock(tmp_path, beat=0.05, stale=0.5)
    assert time.monotonic() - began > 0.4
    assert json.loads(path.read_text())["pid"] == os.getpid()
    path.write_text(json.dumps(other))  # taken over in turn, while this one was suspended
    time.sleep(0.3)
    with pytest.raises(Locked, match="elsewhere"):
        held.check()
    held.release()
    assert json.loads(path.read_text()) == other


@pytest.mark.parametrize("content", [b"", b"\0\0\0", b"5", b'{"host"', b'{"pid": "x"}', b'{"pid": 0}', b'{"pid": -1}'])
def test_a_damaged_lock_holds_nobody_back(content, tmp_path, no_flock):
    (tmp_path / lock.NAME).write_bytes(content)
    FolderLock(tmp_path).release()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("kind", ["link", "pipe", "folder"])
def test_only_a_regular_file_is_a_lock(kind, tmp_path):
    """Through a link, another file would be overwritten; a pipe would be waited for."""
    (tmp_path / "notes.txt").write_text("mine")
    make = {"link": lambda path: path.symlink_to("notes.txt"), "pipe": os.mkfifo, "folder": os.mkdir}[kind]
    make(tmp_path / lock.NAME)
    with pytest.raises(OSError, match=re.escape(str(tmp_path / lock.NAME))):
        FolderLock(tmp_path)
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_of_many_programs_at_once_one_gets_it(tmp_path):
    """Four processes start together; the lock is left behind by a killed one."""
    (tmp_path / lock.NAME).write_text(json.dumps({"host": socket.gethostname(), "pid": 999_999_999}))
    code = HOLD.replace("time.sleep(60)", "time.sleep(2)")
    running = [
        subprocess.Popen([sys.executable, "-c", code, tmp_path], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        for _ in range(4)
    ]
    outputs = [process.communicate()[0] for process in running]
    assert sorted(outputs) == [b"", b"", b"", b"held\n"]
