"""Starts runs without importing JAX again for each: `python -m tests.programs.fork_runs`.

Reads a line `CONFIG.json WORKDIR` for each run, forks, and prints the number of the process that runs it, then its exit
code. Output goes to `WORKDIR.log`. JAX must not have used a device before it forks.
"""

import json
import os
import pathlib
import sys

import jax
from ml_collections import ConfigDict

from softvq_jax.train import generator_task, loop, tasks, tokenizer_task  # noqa: F401

for line in sys.stdin:
    config_file, workdir = line.split()
    pid = os.fork()
    if pid == 0:
        log = os.open(f"{workdir}.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(log, 1)
        os.dup2(log, 2)
        from absl import logging

        logging.set_verbosity(logging.INFO)
        print("begins", flush=True)
        jax.config.update("jax_compilation_cache_dir", str(pathlib.Path(config_file).parent / "cache"))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
        config = ConfigDict(json.loads(pathlib.Path(config_file).read_text()))
        code = 0
        try:
            loop.Run(config, pathlib.Path(workdir), tasks.TASKS[config.task]).train()
        except BaseException as error:
            logging.exception("ended")
            code = error.code if isinstance(error, SystemExit) else 1
        os._exit(code)
    print(pid, flush=True)
    status = os.waitpid(pid, 0)[1]
    print(os.waitstatus_to_exitcode(status), flush=True)
