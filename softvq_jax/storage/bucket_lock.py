"""Locks a folder in a bucket, as `storage.lock` locks a folder on disk.

The lock is an object `.lock`, which only one program can create. The program that holds it rewrites it every
`BEAT_SECONDS` (a heartbeat). If that program was killed, another one takes the lock over: on the same host at once, on
another host after `STALE_SECONDS` without a heartbeat.
"""

import contextlib
import json
import socket
import threading
import time
from typing import Any

from absl import logging

from softvq_jax.storage import lock
from softvq_jax.storage.bucket_errors import Exists
from softvq_jax.storage.buckets import BucketPath

_held: set[str] = set()  # folders whose lock this program holds


class BucketLock:
    """Holds the lock of a folder in a bucket from construction until `release`, or the end of the program.

    Args:
      folder: the folder.
      beat, stale: see `lock.FolderLock`.

    Raises:
      Locked: another program holds the lock.
      BucketError: the object cannot be written.
    """

    def __init__(self, folder: BucketPath, *, beat: float = lock.BEAT_SECONDS, stale: float = lock.STALE_SECONDS):
        self._path, self._beat, self._holder = folder / lock.NAME, beat, lock.holder()
        self._stop, self._lost, self._nested = threading.Event(), None, str(folder) in _held
        if self._nested:
            return
        self._acquire(stale)
        _held.add(str(folder))
        self._thread = threading.Thread(target=self._keep_beating, daemon=True, name="bucket lock")
        self._thread.start()

    def check(self) -> None:
        """Raises `Locked` if another program took the lock over while this one was suspended."""
        if self._lost is not None:
            raise lock.Locked(lock.message(self._path, self._lost))

    def release(self) -> None:
        """Releases the lock; does nothing if another program took it over, or if this program already held it before."""
        if self._nested or str(self._path.parent) not in _held:
            return
        self._stop.set()
        self._thread.join(self._beat)  # a heartbeat in progress would write the object again
        _held.discard(str(self._path.parent))
        with contextlib.suppress(OSError, ValueError):
            if self._held_by_us():
                self._path.unlink()

    def _content(self, beat):
        return json.dumps(self._holder | {"beat": beat}).encode() + b"\n"

    def _read(self) -> dict[str, Any] | None:
        """The content of the lock object; empty if it is damaged, None if it does not exist."""
        try:
            content = json.loads(self._path.read_bytes())
        except FileNotFoundError:
            return None
        except ValueError:
            return {}
        return content if isinstance(content, dict) else {}

    def _held_by_us(self) -> bool:
        return (self._read() or {}).get("id") == self._holder["id"]

    def _acquire(self, stale):
        before, deadline = None, 0.0
        while True:
            with contextlib.suppress(Exists):
                self._path.create(self._content(0))
                return
            found = self._read()
            if found is None:  # released since
                before = None
                continue
            if found.get("id") == self._holder["id"]:  # created by an earlier request; its response was lost
                return
            if found.get("host") == socket.gethostname():
                if lock.runs(found):
                    raise lock.Locked(lock.message(self._path, found))
                if self._take_over(found):
                    return
                before = None
            elif before is None:
                before, deadline = found, time.monotonic() + stale
                waited = lock.message(self._path, found, advice=False)
                logging.warning("%s; waiting up to %.0f s for its heartbeat", waited, stale)
            elif found != before:
                raise lock.Locked(lock.message(self._path, found))
            elif time.monotonic() > deadline:
                logging.warning("no heartbeat: taking over the lock")
                if self._take_over(found):
                    return
                before = None
            time.sleep(min(self._beat, stale) / 4)

    def _take_over(self, found) -> bool:
        """Replaces the lock of a program that has ended; returns whether it did. If two programs try, one succeeds."""
        if self._read() == found:
            self._path.unlink(missing_ok=True)
        try:
            self._path.create(self._content(0))
        except Exists:
            return False
        time.sleep(min(self._beat, 2.0))  # another program, which saw the old lock, may have removed this one
        return self._held_by_us()

    def _keep_beating(self):
        beats = 0
        while not self._stop.wait(self._beat):
            beats += 1
            with contextlib.suppress(OSError):  # the main program notices an unreachable bucket by itself
                found = self._read() or {}
                if found.get("id") not in (None, self._holder["id"]):
                    self._lost = found
                    return
                self._path.write_bytes(self._content(beats))
