"""Processes that read images for the threads of this one.

Grain has worker processes of its own, but they import Grain, which imports JAX, and the program's main module, which
does too: a worker could then hold memory of the accelerator. Ours start bare, import nothing but what they read with,
and end when the pipe to their parent closes, however the parent ends.
"""

import multiprocessing
import multiprocessing.connection
import os
import queue
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable

from absl import logging

# With dozens of workers, the threads that BLAS starts at import would be thousands.
ENVIRONMENT = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
PATIENCE_S = 5  # with a process that should end


class WorkerDied(RuntimeError):
    """A reading process ended by itself."""


class WorkerPool:
    """`pool(*arguments)` is `function(*arguments)`, computed in one of `count` processes.

    Meant to be called by `count` threads at once. The function, the arguments and the results are pickled; an exception
    of the function is raised here, the worker's traceback in its notes.
    """

    def __init__(self, function: Callable, count: int):
        self._idle: queue.SimpleQueue[_Worker] = queue.SimpleQueue()
        self._workers = [_Worker(function) for _ in range(count)]
        for worker in self._workers:
            self._idle.put(worker)

    def __call__(self, *arguments):
        worker = self._idle.get()
        try:
            if worker is None:
                raise RuntimeError("this worker pool is closed")
            return worker.call(arguments)
        finally:
            self._idle.put(worker)

    def close(self) -> None:
        """Ends the processes, once they have finished what they are at."""
        deadline = time.monotonic() + PATIENCE_S
        for _ in self._workers:
            try:
                self._idle.get(timeout=max(0, deadline - time.monotonic()))
            except queue.Empty:
                break  # hung, perhaps on a lost file system: killed below
        self._idle.put(None)
        for worker in self._workers:
            worker.close()
        self._workers = []


class _Worker:
    def __init__(self, function):
        self._connection, theirs = multiprocessing.Pipe()
        with theirs:
            start = f"from softvq_jax.data import workers; workers.serve({theirs.fileno()})"
            self._process = subprocess.Popen(
                [sys.executable, "-c", f"import sys; sys.path[:] = {sys.path!r}; {start}"],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                env={**os.environ, **ENVIRONMENT},
            )
        self._connection.send(function)

    def call(self, arguments):
        try:
            self._connection.send(arguments)
            succeeded, result = self._connection.recv()
        except (EOFError, OSError):
            raise WorkerDied(
                f"a reading process ended with exit code {self._process.wait(PATIENCE_S)} at {arguments}; "
                "see what it printed above; -9 usually means that memory ran out (fewer data.num_workers need less)"
            ) from None
        if not succeeded:
            raise result
        return result

    def close(self):
        self._connection.close()
        try:
            self._process.wait(timeout=PATIENCE_S)
        except subprocess.TimeoutExpired:
            logging.warning("A reading process (pid %d) did not end in %d s: killed.", self._process.pid, PATIENCE_S)
            self._process.kill()
            self._process.wait()


def serve(file_descriptor: int) -> None:
    """What a worker does: takes a function, then calls it for every message until the pipe closes."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(
            number, signal.SIG_IGN
        )  # sent to the whole job: the parent decides, and still reads while it saves
    connection = multiprocessing.connection.Connection(file_descriptor)
    try:
        function = connection.recv()
        while True:
            arguments = connection.recv()
            try:
                reply = True, function(*arguments)
            except Exception as error:
                error.add_note(traceback.format_exc())
                reply = False, error
            connection.send(reply)
    except (EOFError, OSError):  # the parent has closed the pipe, or ended
        return
