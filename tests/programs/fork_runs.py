"""Starts runs without importing JAX again for each: `python -m tests.programs.fork_runs`.

Reads commands, one a line:

- `start CONFIG.json WORKDIR LOG [COORDINATOR COUNT PROCESS]` forks, and prints the number of the process that runs it.
- `wait PID` prints the exit code of that process when it has ended.

JAX must not have used a device before it forks.
"""

import json
import os
import pathlib
import sys

from absl import logging
from ml_collections import ConfigDict

from softvq_jax.parallel import distributed
from softvq_jax.storage.paths import as_path
from softvq_jax.train import generator_task, loop, tasks, tokenizer_task  # noqa: F401


def run(config_file, workdir, log, *cluster):
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(file, 1)
    os.dup2(file, 2)
    logging.set_verbosity(logging.INFO)
    print("begins", flush=True)
    try:
        content = json.loads(pathlib.Path(config_file).read_text())
        if cluster:
            coordinator, count, process = cluster
            distributed.initialize(coordinator, int(count), int(process), config=content, timeout=120.0)
        config = ConfigDict(content)
        loop.Run(config, as_path(workdir), tasks.TASKS[config.task]).train()
    except BaseException as error:
        logging.exception("ended")
        return error.code if isinstance(error, SystemExit) else 1
    return 0


for line in sys.stdin:
    command, *arguments = line.split()
    if command == "wait":
        print(os.waitstatus_to_exitcode(os.waitpid(int(arguments[0]), 0)[1]), flush=True)
        continue
    pid = os.fork()
    if pid == 0:
        os._exit(run(*arguments))
    print(pid, flush=True)
