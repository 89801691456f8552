"""Worker processes that read images for the threads of the parent process.

They are our own, because Grain's workers import JAX, through Grain and through the main module, and could then hold
memory of the accelerator. Ours import only modules for reading, and exit when the pipe to the parent closes, even if
the parent was killed.
"""

import itertools
import mmap
import multiprocessing
import multiprocessing.connection
import os
import pickle
import queue
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterable, Iterator

import numpy as np
from absl import logging

from softvq_jax.data.buffers import Buffers

ENVIRONMENT = {
    # Dozens of workers would otherwise start thousands of BLAS threads at import.
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    # glibc keeps freed memory for the next image; returning it to the system and mapping it again takes 3 % longer.
    "MALLOC_MMAP_THRESHOLD_": str(2**30),
    "MALLOC_TRIM_THRESHOLD_": str(2**28),
}
END_SECONDS = 5  # seconds to wait for a process to end


class WorkerDied(RuntimeError):
    """A worker process ended unexpectedly."""


class WorkerPool:
    """Calls a function in worker processes: `pool(*arguments)` returns `function(*arguments)`.

    Up to `count` threads can call the pool at once. The function, its arguments and results are pickled. An exception of
    the function is raised in the calling thread, with the worker's traceback in its notes. A generator function returns
    the list of its items; a worker holds only one item at a time.
    """

    def __init__(self, function: Callable, count: int):
        self._idle: queue.SimpleQueue[_Worker | None] = queue.SimpleQueue()
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
        """Ends the processes after their current calls."""
        deadline = time.monotonic() + END_SECONDS
        for _ in self._workers:
            try:
                self._idle.get(timeout=max(0, deadline - time.monotonic()))
            except queue.Empty:
                break  # a worker hangs, perhaps because of a lost file system; it is killed below
        self._idle.put(None)
        for worker in self._workers:
            worker.let_end()
        for worker in self._workers:
            worker.wait()
        self._workers = []


class _Worker:
    def __init__(self, function):
        self._connection, theirs = multiprocessing.Pipe()
        self._file = _memory_file()
        self._memory = SharedMemory(self._file.fileno())
        files = [theirs.fileno(), self._file.fileno()]
        with theirs:
            start = f"from softvq_jax.data import workers; workers.serve(*{files})"
            self._process = subprocess.Popen(
                [sys.executable, "-c", f"import sys; sys.path[:] = {sys.path!r}; {start}"],
                pass_fds=files,
                stdin=subprocess.DEVNULL,
                env={**os.environ, **ENVIRONMENT},
            )
        self._connection.send(function)

    def call(self, arguments):
        try:
            self._connection.send(arguments)
            kind, parts = self._connection.recv()
            results = self._memory.loads(parts)
        except (EOFError, OSError):
            raise WorkerDied(
                f"a worker process ended with exit code {self._process.wait(END_SECONDS)} at {arguments}; see its output. "
                "-9 usually means out of memory: reduce data.num_workers"
            ) from None
        if kind == "yielded":
            return results
        (result,) = results
        if kind == "raised":
            raise result
        return result

    def let_end(self):
        self._connection.close()
        self._file.close()

    def wait(self):
        try:
            self._process.wait(timeout=END_SECONDS)
        except subprocess.TimeoutExpired:
            logging.warning("worker process %d did not end in %d s and is killed", self._process.pid, END_SECONDS)
            self._process.kill()
            self._process.wait()


class SharedMemory:
    """Pickles values with their arrays in memory that two processes share; a pipe would copy the arrays five times.

    Args:
      file: descriptor of a file that both processes have open. Each `dumps` overwrites the previous one.
    """

    def __init__(self, file: int):
        self._file, self._map, self._buffers = file, None, Buffers()

    def dumps(self, values: Iterable) -> list[tuple[bytes, list[int]]]:
        """Writes the arrays of each value; returns its pickle without them, and their sizes in bytes."""
        parts, end = [], 0
        for value in values:
            arrays = []
            pickled = pickle.dumps(value, protocol=5, buffer_callback=lambda buffer, to=arrays: to.append(buffer.raw()))
            for array in arrays:
                start, end = end, end + array.nbytes
                self._mapped(end)[start:end] = array
            parts.append((pickled, [array.nbytes for array in arrays]))
        return parts

    def loads(self, parts: list[tuple[bytes, list[int]]]) -> list:
        """Returns the values, with their arrays as read-only views of one copy."""
        ends = [0, *itertools.accumulate(size for _, sizes in parts for size in sizes)]
        copy = self._buffers.take(ends[-1])
        if ends[-1]:
            copy[:] = np.frombuffer(self._mapped(ends[-1]), np.uint8, ends[-1])
        whole = copy.data.toreadonly()
        arrays = (whole[start:end] for start, end in itertools.pairwise(ends))
        return [pickle.loads(pickled, buffers=itertools.islice(arrays, len(sizes))) for pickled, sizes in parts]

    def _mapped(self, size):
        if self._map is None or len(self._map) < size:
            length = os.fstat(self._file).st_size
            if length < size:
                length = 2 * size  # so that growing values do not remap the file each time
                os.ftruncate(self._file, length)
            self._map = mmap.mmap(self._file, length)
        return self._map


def _memory_file():
    return os.fdopen(os.memfd_create("images"), "r+b") if hasattr(os, "memfd_create") else tempfile.TemporaryFile()


def serve(pipe: int, memory_file: int) -> None:
    """Runs a worker: receives a function, then calls it for every message until the pipe closes.

    Args:
      pipe, memory_file: descriptors inherited from the parent.
    """
    # The system sends signals to all processes of a job. The parent handles them, and may still need images to save.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    connection, memory = multiprocessing.connection.Connection(pipe), SharedMemory(memory_file)
    try:
        function = connection.recv()
        while True:
            arguments = connection.recv()
            try:
                result = function(*arguments)
                yields = isinstance(result, Iterator)
                reply = ("yielded" if yields else "returned", memory.dumps(result if yields else [result]))
            except Exception as error:
                error.add_note(traceback.format_exc())
                reply = "raised", memory.dumps([error])
            connection.send(reply)
    except (EOFError, OSError):  # the parent closed the pipe or ended
        os._exit(0)  # no cleanup needed
