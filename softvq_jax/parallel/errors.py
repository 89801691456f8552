"""Ends all processes with the same message if an error occurs in one of them.

If a process just exits, the others wait in their next collective until JAX's timeouts end them, minutes later and without
a reason. So a failing process first writes its message to the coordination service. In every other process, a thread
polls for the message, prints it and exits.
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
from jax._src.distributed import global_state  # private: JAX has no public key-value store; a test covers it

CODE = 1
_KEY = "softvq_jax/failure"
_exiting = threading.Lock()


def watch_other_processes() -> None:
    """Starts ending this process on errors of other processes, and the others on an uncaught error in this one."""
    stop = threading.Event()
    thread = threading.Thread(target=_listen, args=(stop,), daemon=True, name="failure")
    thread.start()
    # The thread must stop before the interpreter and JAX's client shut down, because its calls would then crash.
    atexit.register(lambda: (stop.set(), thread.join()))
    sys.excepthook = _uncaught


def report_error(message: str) -> int:
    """Prints `message` to standard error. Ends all processes if there are several, else returns the exit code."""
    print(message, file=sys.stderr, flush=True)
    if global_state.client is not None:
        _end_all(message)
    return CODE


def _uncaught(kind, error, trace) -> NoReturn:
    traceback.print_exception(kind, error, trace)
    _end_all(f"{kind.__name__}: {error}")


def _end_all(message: str) -> NoReturn:
    _exiting.acquire(timeout=_poll_seconds())  # from here on, ignore messages of other processes
    try:
        sender = f"process {global_state.process_id} on {socket.gethostname()}"
        _store().key_value_set(_KEY, f"{sender}: {message}", allow_overwrite=True)
    except jax.errors.JaxRuntimeError:
        pass  # the service has ended, and so have the other processes
    _exit()


def _listen(stop: threading.Event) -> None:
    while not stop.wait(_poll_seconds()):
        try:
            message = _store().key_value_try_get(_KEY)
        except jax.errors.JaxRuntimeError:
            continue  # there is no message yet, or the service has ended, which JAX handles
        if _exiting.acquire(blocking=False):
            print(f"ended by {message}", file=sys.stderr, flush=True)
            _exit()
        return


def _store():
    """Returns JAX's client; there is one if there are several processes."""
    client = global_state.client
    assert client is not None
    return client


def _poll_seconds() -> float:
    return 1.0 + global_state.num_processes / 512  # many processes poll less often, to limit the load on the service


def _exit() -> NoReturn:
    if global_state.process_id == 0:
        time.sleep(2 * _poll_seconds())  # keeps the service running until all processes have read the message
    # A normal exit would wait for the other processes at JAX's shutdown.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(CODE)
