"""Starts processes; process `<who>` fails while the others wait for it in a collective.

    python -m tests.programs.failing <what> <who> <folder of process 0> <folder of the others>

`<what>` is "reported", an error that the command line catches; "uncaught", one that it does not catch; "killed", a host
that is lost; or "folder": only the two folders differ.
"""

import functools
import os
import pathlib
import signal
import sys

import jax

from tests.programs import join

jax.distributed.initialize = functools.partial(jax.distributed.initialize, heartbeat_timeout_seconds=10)  # not 100
join()

from jax.experimental import multihost_utils

from softvq_jax.parallel import errors
from softvq_jax.parallel.shared_folder import check_shared

what, who, *folders = sys.argv[1:]
try:
    check_shared(pathlib.Path(folders[min(jax.process_index(), 1)]), "--workdir", timeout=2.0)
    if what == "killed" and jax.process_index() == int(who):
        os.kill(os.getpid(), signal.SIGKILL)
    if jax.process_index() == int(who):
        raise ArithmeticError("boom") if what == "uncaught" else ValueError("shard 7 is unreadable")
    multihost_utils.sync_global_devices("never reached")
except (ValueError, RuntimeError) as error:  # as main does; a lost connection is a RuntimeError
    sys.exit(errors.report_error(f"error: {error}"))
