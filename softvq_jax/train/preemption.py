"""Preemption by SIGTERM (TPU maintenance, SLURM, Kubernetes) or the first Ctrl-C.

After a signal, the loop finishes its step or the current batch of an evaluation, saves, and exits with `EXIT_CODE`, on
which the launch scripts restart the command. This is our own because the handlers of libraries run only between Python
bytecodes, and because one process and several processes need different handling. JAX is imported only when a run begins,
since `exit_on_sigterm` must take effect first.
"""

import contextlib
import os
import signal
import threading
from collections.abc import Iterator

from absl import logging

EXIT_CODE = 75  # EX_TEMPFAIL of sysexits.h: try again later


class Preempted(SystemExit):
    """The run was preempted and has saved; exits with `EXIT_CODE`."""

    def __init__(self):
        super().__init__(EXIT_CODE)


class Preemption:
    """Handles preemption signals inside a `with` statement.

    Outside of `deferred`, there is nothing to save (for example while loading or compiling): the process exits at once,
    even from native code, and the newest checkpoint on disk is the state of the run.

    With several processes, JAX's preemption service handles SIGTERM, because a handler of ours would replace its own. It
    makes all processes stop at the same call of `requested`, even if only one gets the signal. They then stop after
    their first step at the earliest, and Ctrl-C interrupts them like any program.

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
        # Python runs its handlers only between bytecodes, and a compilation is one long call. The C handler, however,
        # writes to the wake-up descriptor immediately, and a thread reads it.
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
        """Context in which a signal does not end the process; the caller polls `requested` and saves instead."""
        self._deferred = True
        try:
            yield
        finally:
            self._deferred = False

    def requested(self) -> bool:
        """Returns whether to save and exit now; the same in all processes, which must call it equally often."""
        from jax.experimental import multihost_utils

        self._calls += 1
        if multihost_utils.reached_preemption_sync_point(self._calls):  # True once; always False in a single process
            self._received.set()
        return self._received.is_set()

    def check(self) -> None:
        """Raises `Preempted` if `requested` returns True."""
        if self.requested():
            raise Preempted


def exit_on_sigterm() -> None:
    """Makes SIGTERM exit at once with `EXIT_CODE`, until a `Preemption` or JAX's service handles the signal."""
    Preemption((signal.SIGTERM,)).listen()


def _restore_ctrl_c(number, frame):
    """Handles the first Ctrl-C by doing nothing (the thread does the work); the second one interrupts as usual."""
    if number == signal.SIGINT:
        signal.signal(signal.SIGINT, signal.default_int_handler)
