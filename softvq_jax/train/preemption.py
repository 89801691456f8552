"""Being told to stop: SIGTERM (TPU maintenance, SLURM, Kubernetes) and Ctrl-C.

The loop asks between steps, saves, and leaves with `EXIT_CODE`, at which the launch scripts start the command again.
"""

import os
import signal
import threading

import jax
from absl import logging
from jax.experimental import multihost_utils

EXIT_CODE = 75  # EX_TEMPFAIL of sysexits.h: try again later


class Preempted(SystemExit):
    """The run was told to stop and has saved; as an exit code, `EXIT_CODE`."""

    def __init__(self):
        super().__init__(EXIT_CODE)


class Preemption:
    """Watches for the signal; use it in a `with` statement.

    While nothing can be saved (`idle()`: loading, compiling), the process leaves at once, whatever native code it is
    in: what is on disk is all there is.

    Of several processes, JAX's own service listens in each and has all of them stop after the same step, also when only
    one is told; a handler of ours would take the signal away from it. They then stop after their first step at the
    earliest.
    """

    def __init__(self):
        self._told = threading.Event()
        self._nothing_to_save = False

    def __enter__(self) -> "Preemption":
        if jax.process_count() > 1:
            return self
        # Python runs its handlers between bytecodes only, and a compilation is one long call. The wake-up descriptor
        # is written by the C handler itself, and read by a thread.
        self._read, self._write = os.pipe()
        os.set_blocking(self._write, False)
        self._before = signal.signal(signal.SIGTERM, lambda *_: None)
        self._wakeup = signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)
        threading.Thread(target=self._watch, args=(self._read,), daemon=True).start()
        return self

    def __exit__(self, *_) -> None:
        if jax.process_count() > 1:
            return
        signal.set_wakeup_fd(self._wakeup)
        signal.signal(signal.SIGTERM, self._before)
        os.close(self._write)

    def _watch(self, descriptor):
        while number := os.read(descriptor, 1):
            if number[0] == signal.SIGTERM:
                self._told.set()
                if self._nothing_to_save:
                    logging.warning("SIGTERM while there is nothing to save: leaving")
                    logging.flush()
                    os._exit(EXIT_CODE)
        os.close(descriptor)

    def idle(self) -> "_Idle":
        """Inside this context there is nothing to save."""
        return _Idle(self)

    def requested(self, step: int) -> bool:
        """Whether to save and leave after `step`: the same answer in every process."""
        if jax.process_count() > 1:
            return multihost_utils.reached_preemption_sync_point(step)
        return self._told.is_set()


class _Idle:
    def __init__(self, preemption):
        self._preemption = preemption

    def __enter__(self):
        self._preemption._nothing_to_save = True
        if self._preemption._told.is_set():
            raise Preempted

    def __exit__(self, *_):
        self._preemption._nothing_to_save = False
