"""Preemption: SIGTERM (TPU maintenance, SLURM, Kubernetes), and the first Ctrl-C.

The loop asks between steps and between the batches of an evaluation, saves, and exits with `EXIT_CODE`, at which the
launch scripts start the command again. Our own, because a library's handler runs between Python bytecodes only, and
because one process and several need different ones. Nothing here imports jax before a run begins: `exit_on_sigterm`
comes first.
"""

import contextlib
import os
import signal
import threading
from collections.abc import Iterator

from absl import logging

EXIT_CODE = 75  # EX_TEMPFAIL of sysexits.h: try again later


class Preempted(SystemExit):
    """The run was preempted and has saved; as an exit code, `EXIT_CODE`."""

    def __init__(self):
        super().__init__(EXIT_CODE)


class Preemption:
    """Watches for a signal to stop, in a `with` statement.

    While nothing can be saved (loading, compiling: outside `deferred`), the process exits at once, also from within
    native code: the newest checkpoint on disk is the state of the run.

    With several processes, JAX's service listens for SIGTERM in each and makes all of them stop at the same call of
    `requested`, also when only one gets the signal; a handler of ours would take the signal away from it. They then
    stop after their first step at the earliest, and Ctrl-C interrupts them as it does any program.

    Args:
      signals: the signals to listen for. The second SIGINT interrupts.
    """

    def __init__(self, signals: tuple[int, ...] = (signal.SIGTERM, signal.SIGINT)):
        self._signals = signals
        self._received = threading.Event()
        self._deferred = False
        self._calls = 0
        self._active = False

    def __enter__(self) -> "Preemption":
        import jax

        if not jax.distributed.is_initialized():
            self.listen()
        return self

    def __exit__(self, *_) -> None:
        if self._active:
            signal.set_wakeup_fd(self._wakeup)
            for number, handler in self._before.items():
                signal.signal(number, handler)
            os.close(self._write)

    def listen(self) -> None:
        """Installs the handlers."""
        # Python runs its handlers between bytecodes only, and a compilation is one long call. The wake-up descriptor
        # is written by the C handler itself, and read by a thread.
        self._read, self._write = os.pipe()
        os.set_blocking(self._write, False)
        self._before = {number: signal.signal(number, _restore_ctrl_c) for number in self._signals}
        self._wakeup = signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)
        self._active = True
        threading.Thread(target=self._watch, args=(self._read,), daemon=True).start()

    def _watch(self, descriptor):
        while number := os.read(descriptor, 1):
            if number[0] in self._signals:
                self._received.set()
                if not self._deferred:
                    logging.warning("preempted: %s with nothing to save, exiting", signal.Signals(number[0]).name)
                    logging.flush()
                    os._exit(EXIT_CODE)
        os.close(descriptor)

    @contextlib.contextmanager
    def deferred(self) -> Iterator[None]:
        """Inside this context a signal does not end the process, which calls `requested` and saves instead."""
        self._deferred = True
        try:
            yield
        finally:
            self._deferred = False

    def requested(self) -> bool:
        """Returns whether to save and exit now: the same in every process, if all call it equally often."""
        from jax.experimental import multihost_utils

        self._calls += 1
        if multihost_utils.reached_preemption_sync_point(self._calls):  # True once; always False in a single process
            self._received.set()
        return self._received.is_set()

    def check(self) -> None:
        """Raises `Preempted` where `requested` returns True."""
        if self.requested():
            raise Preempted


def exit_on_sigterm() -> None:
    """From here on SIGTERM ends the process at once with `EXIT_CODE`, until a `Preemption` or JAX's service listens."""
    Preemption((signal.SIGTERM,)).listen()


def _restore_ctrl_c(number, frame):
    """Leaves the work to the thread; a second Ctrl-C interrupts as usual."""
    if number == signal.SIGINT:
        signal.signal(signal.SIGINT, signal.default_int_handler)
