"""An error in one process ends all of them, with its message.

A process that leaves alone lets the others wait in their next collective until JAX's own timeouts end them, minutes
later and without a reason. So it first tells the coordination service why; every other process, which listens there in
a thread, prints that and leaves too.
"""

import atexit
import os
import socket
import sys
import threading
import time
import traceback
from typing import NoReturn

import jax
from jax._src.distributed import global_state  # JAX has no public way to its key-value store; a test watches this one

CODE = 1
_KEY = "softvq_jax/failure"
_leaving = threading.Lock()


def listen() -> None:
    """From now on an error of another process ends this one, and one that nobody catches here ends the others."""
    over = threading.Event()
    thread = threading.Thread(target=_listen, args=(over,), daemon=True, name="failure")
    thread.start()
    # Before the interpreter and JAX's client go, in whose calls the thread would otherwise die.
    atexit.register(lambda: (over.set(), thread.join()))
    sys.excepthook = _uncaught


def report(message: str) -> int:
    """Says `message` on standard error. Ends all processes if there are several, else returns the exit code."""
    print(message, file=sys.stderr, flush=True)
    if global_state.client is not None:
        _end_all(message)
    return CODE


def _uncaught(kind, error, trace) -> NoReturn:
    traceback.print_exception(kind, error, trace)
    _end_all(f"{kind.__name__}: {error}")


def _end_all(message: str) -> NoReturn:
    _leaving.acquire(timeout=_poll_seconds())  # what the others say does not matter here any more
    try:
        who = f"process {global_state.process_id} on {socket.gethostname()}"
        global_state.client.key_value_set(_KEY, f"{who}: {message}", allow_overwrite=True)
    except jax.errors.JaxRuntimeError:
        pass  # the service is gone, and the others with it
    _exit()


def _listen(over: threading.Event) -> None:
    while not over.wait(_poll_seconds()):
        try:
            message = global_state.client.key_value_try_get(_KEY)
        except jax.errors.JaxRuntimeError:
            continue  # nothing there; or the service is gone, which JAX notices by itself
        if _leaving.acquire(blocking=False):
            print(f"ended by {message}", file=sys.stderr, flush=True)
            _exit()
        return


def _poll_seconds() -> float:
    return 1.0 + global_state.num_processes / 512  # of thousands, each asks less often


def _exit() -> NoReturn:
    if global_state.process_id == 0:
        time.sleep(2 * _poll_seconds())  # for all to hear it, before the service goes
    # A normal exit would wait for the other processes at JAX's shutdown.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(CODE)
