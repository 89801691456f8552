"""Being told to stop: SIGTERM (TPU maintenance, SLURM, Kubernetes), and the first Ctrl-C.

The loop asks between steps and between the batches of an evaluation, saves, and leaves with `EXIT_CODE`, at which the
launch scripts start the command again. Nothing here imports jax before a run begins: `leave_when_told` comes first.
"""

import contextlib
import os
import signal
import threading
from collections.abc import Iterator

from absl import logging

EXIT_CODE = 75  # EX_TEMPFAIL of sysexits.h: try again later


class Preempted(SystemExit):
    """The run was told to stop and has saved; as an exit code, `EXIT_CODE`."""

    def __init__(self):
        super().__init__(EXIT_CODE)


class Preemption:
    """Watches for the signal; use it in a `with` statement.

    While nothing can be saved (loading, compiling: outside `saving`), the process leaves at once, whatever native code
    it is in: what is on disk is all there is.

    Of several processes, JAX's own service listens for SIGTERM in each and has all of them stop at the same question,
    also when only one is told; a handler of ours would take the signal away from it. They then stop after their first
    step at the earliest, and Ctrl-C interrupts them as it does any program.

    Args:
      signals: what is listened for. After the first SIGINT the next interrupts.
    """

    def __init__(self, signals: tuple[int, ...] = (signal.SIGTERM, signal.SIGINT)):
        self._signals = signals
        self._told = threading.Event()
        self._nothing_to_save = True
        self._asked = 0
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
        """Takes over the signals."""
        # Python runs its handlers between bytecodes only, and a compilation is one long call. The wake-up descriptor
        # is written by the C handler itself, and read by a thread.
        self._read, self._write = os.pipe()
        os.set_blocking(self._write, False)
        self._before = {number: signal.signal(number, _once) for number in self._signals}
        self._wakeup = signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)
        self._active = True
        threading.Thread(target=self._watch, args=(self._read,), daemon=True).start()

    def _watch(self, descriptor):
        while number := os.read(descriptor, 1):
            if number[0] in self._signals:
                self._told.set()
                if self._nothing_to_save:
                    name = signal.Signals(number[0]).name
                    logging.warning("%s while there is nothing to save: leaving", name)
                    logging.flush()
                    os._exit(EXIT_CODE)
        os.close(descriptor)

    @contextlib.contextmanager
    def saving(self) -> Iterator[None]:
        """Inside this context there is something to save: the process goes on, and is to ask `requested`."""
        self._nothing_to_save = False
        try:
            yield
        finally:
            self._nothing_to_save = True

    def requested(self) -> bool:
        """Whether to save and leave now: the same answer in every process, if all ask equally often."""
        import jax

        if jax.process_count() > 1:
            from jax.experimental import multihost_utils

            self._asked += 1
            if multihost_utils.reached_preemption_sync_point(self._asked):  # true once
                self._told.set()
        return self._told.is_set()

    def check(self) -> None:
        """Raises `Preempted` where it is `requested`."""
        if self.requested():
            raise Preempted


def leave_when_told() -> None:
    """From here on SIGTERM ends the process at once with `EXIT_CODE`, until a run, or JAX's service, listens."""
    Preemption((signal.SIGTERM,)).listen()


def _once(number, frame):
    """The thread does the work; a second Ctrl-C is for those who cannot wait."""
    if number == signal.SIGINT:
        signal.signal(signal.SIGINT, signal.default_int_handler)
