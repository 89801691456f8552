"""Locks a folder, so that only one program at a time writes to it, even if several hosts share the folder.

The lock is a file `.lock` in the folder, which names the program that holds it. On one host, and on shared folders that
support it (NFS), the operating system's lock on this file ends with the program, however it ends. For mounted buckets, and
for buckets (see `bucket_lock`), a running program also rewrites the file every `BEAT_SECONDS` (a heartbeat). So the lock of
a killed program never has to be removed by hand. Another program takes it over: on the same host at once, on another host
after `STALE_SECONDS` without a heartbeat.
"""

import contextlib
import errno
import fcntl
import json
import os
import pathlib
import secrets
import socket
import stat
import threading
import time

from absl import logging

from softvq_jax.storage.paths import as_path

NAME = ".lock"
BEAT_SECONDS = 10.0
STALE_SECONDS = 60.0
_HELD = (errno.EWOULDBLOCK, errno.EACCES)
_held: dict[pathlib.Path, "FolderLock"] = {}  # by this program


class Locked(RuntimeError):
    """Another program uses the folder; the message names its process and host."""


class FolderLock:
    """Holds the lock of a folder from construction until `release`, or the end of the program.

    A program that holds the lock may take it again.

    Args:
      folder: an existing folder.
      beat: seconds between two rewrites of the file.
      stale: seconds without a rewrite after which the lock of another host is taken over.

    Raises:
      Locked: another program holds it.
      OSError: the file cannot be written.
    """

    def __init__(self, folder: pathlib.Path, *, beat: float = BEAT_SECONDS, stale: float = STALE_SECONDS):
        self._path = folder.resolve() / NAME
        self._stop, self._beat, self._lost = threading.Event(), beat, None
        if self._path in _held:
            return
        self._file = _acquire(self._path, beat, stale)
        self._holder = holder()
        try:
            self._write(0)
        except OSError:
            os.close(self._file)
            raise
        _held[self._path] = self
        threading.Thread(target=self._keep_beating, daemon=True, name="folder lock").start()

    def check(self) -> None:
        """Raises `Locked` if another program took the lock over while this one was suspended."""
        if self._lost is not None:
            raise Locked(message(self._path, self._lost))

    def release(self) -> None:
        """Releases the lock; does nothing if another program took it over, or if this program already held it before."""
        if _held.get(self._path) is not self:
            return
        self._stop.set()
        del _held[self._path]
        with contextlib.suppress(OSError, ValueError):
            if json.loads(self._path.read_bytes())["id"] == self._holder["id"]:
                self._path.unlink()
        os.close(self._file)

    def _write(self, beat):
        content = json.dumps(self._holder | {"beat": beat}).encode() + b"\n"
        os.pwrite(self._file, content, 0)  # before it is cut to its length: a full disk leaves the old content
        os.ftruncate(self._file, len(content))
        os.fsync(self._file)

    def _keep_beating(self):
        beats = 0
        while not self._stop.wait(self._beat):
            beats += 1
            with contextlib.suppress(OSError):  # the main program notices a full or lost disk by itself
                found = _read(self._path)
                if found.get("id") not in (None, self._holder["id"]):
                    self._lost = found
                    return
                self._write(beats)


def _acquire(path, beat, stale):
    """Returns a descriptor of the lock file, which is locked if the file system supports it."""
    before, deadline = None, 0.0
    while True:
        file, lock = _open(path)
        found = _read(path)
        if found.get("host", socket.gethostname()) == socket.gethostname():
            # The operating system's lock ends with the program. Without such a lock, check whether the program runs.
            if lock == "taken" or (lock == "unsupported" and runs(found)):
                os.close(file)
                raise Locked(message(path, found))
            return file
        if before is None:
            before, deadline = found, time.monotonic() + stale
            logging.warning("%s; waiting up to %.0f s for its heartbeat", message(path, found, advice=False), stale)
        elif found != before:
            os.close(file)
            raise Locked(message(path, found))
        elif time.monotonic() > deadline:
            if lock == "taken":
                os.close(file)
                raise Locked(message(path, found))
            logging.warning("no heartbeat: taking over the lock")
            return file
        os.close(file)
        time.sleep(min(beat, stale) / 4)


def _open(path):
    """Opens the file and tries to lock it; returns the descriptor and "ours", "taken" or "unsupported"."""
    for _ in range(100):
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK, 0o666)
        if not stat.S_ISREG(os.fstat(file).st_mode):  # nor a link: another file would be overwritten
            os.close(file)
            raise OSError(errno.EINVAL, "is not a regular file, as a lock is; remove it", str(path))
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            return file, "taken" if error.errno in _HELD else "unsupported"
        with contextlib.suppress(FileNotFoundError):
            if os.stat(path).st_ino == os.fstat(file).st_ino:
                return file, "ours"
        os.close(file)  # it was released, and removed, between the two calls
    raise OSError(errno.EAGAIN, "the lock file is replaced all the time", str(path))


def holder() -> dict:
    """Returns the content of a lock that this program holds."""
    return {
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "process_started": _process_start(os.getpid()),
        "since": time.strftime("%Y-%m-%d %H:%M:%S"),
        "id": secrets.token_hex(8),
    }


def _read(path):
    """The content of a lock file; empty if it does not exist or is being written."""
    for _ in range(5):
        with contextlib.suppress(OSError, ValueError):
            content = json.loads(path.read_bytes())
            return content if isinstance(content, dict) else {}
        time.sleep(0.02)
    return {}


def runs(found: dict) -> bool:
    """Whether the process that holds a lock of this host still runs; a new process may have got its number."""
    pid = found.get("pid")
    if not isinstance(pid, int) or pid <= 0:  # these numbers name groups of processes
        return False
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:
        pass  # a process of another user
    return _process_start(pid) == found.get("process_started")


def _process_start(pid):
    """Start time of a process in clock ticks since boot; None where the system does not provide it."""
    with contextlib.suppress(OSError, IndexError):
        return pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    return None


def message(path: os.PathLike, found: dict, *, advice: bool = True) -> str:
    """Returns the message about a lock that another program holds; with `advice`, it says what to do."""
    who = f"process {found.get('pid', '?')} on {found.get('host', 'an unknown host')}"
    since = f" since {found['since']}" if "since" in found else ""
    end = ". Use another workdir, or end that process first" if advice else ""
    return f"{as_path(path).parent} is in use by {who}{since}{end}"
