"""Trains what a config describes: `python -m softvq_jax.main --config=configs/tiny.py --workdir=runs/tiny`.

Starting the same command again goes on where it stopped. Any field can be set: `--config.model.num_latent_tokens=32`.
Exit codes: 0 done, 75 preempted and saved (start the command again), 1 an error, whose message says what to do.
"""

import json
import logging as stdlib_logging
import pathlib
import sys

from absl import app, flags, logging
from ml_collections import config_flags

from softvq_jax.config.tokenizer import explain_config_flags
from softvq_jax.train.preemption import exit_on_sigterm

_CONFIG = config_flags.DEFINE_config_file("config", None, "Path to a config file, see configs/.", lock_config=True)
_WORKDIR = flags.DEFINE_string("workdir", None, "Folder for checkpoints, metrics and pictures.")
_COORDINATOR = flags.DEFINE_string(
    "coordinator", None, "host:port of process 0; TPU pods and SLURM need none of these."
)
_NUM_PROCESSES = flags.DEFINE_integer("num_processes", None, "Number of processes, with --coordinator.")
_PROCESS_ID = flags.DEFINE_integer("process_id", None, "Which of them this is, from 0, with --coordinator.")
_TIMEOUT = flags.DEFINE_float("start_timeout", 300.0, "Seconds to wait for the other processes.")
_CACHE = flags.DEFINE_string("compilation_cache", None, "Folder that keeps compiled programs between runs.")


def main(argv):
    if len(argv) > 1:
        raise app.UsageError(f"what is {argv[1]!r}? Flags begin with --")
    # jax is imported after the flags are parsed, and used after the processes have met.
    from softvq_jax.parallel import distributed, errors
    from softvq_jax.parallel.shared_folder import check_shared

    config = _CONFIG.value
    if "://" in _WORKDIR.value:
        sys.exit(
            f"error: --workdir={_WORKDIR.value} is no folder: mount the bucket (gcsfuse, s3fs) and name its folder"
        )
    try:
        distributed.initialize(
            _COORDINATOR.value,
            _NUM_PROCESSES.value,
            _PROCESS_ID.value,
            config=json.loads(config.to_json_best_effort()),
            timeout=_TIMEOUT.value,
        )
        check_shared(pathlib.Path(_WORKDIR.value), "--workdir")
        if _CACHE.value:
            distributed.set_compilation_cache(_CACHE.value)
        logging.info("config:\n%s", config)
        if config.task == "study":
            from softvq_jax.studies.study import Study

            return print(Study(config, pathlib.Path(_WORKDIR.value)).run())
        from softvq_jax.train.loop import Run
        from softvq_jax.train.tasks import TASKS

        if config.task not in TASKS:
            raise ValueError(f"task is {config.task!r}; expected one of {', '.join(TASKS)}")
        results = Run(config, pathlib.Path(_WORKDIR.value), TASKS[config.task]).train()
    except (ValueError, OSError, ImportError, ArithmeticError, TimeoutError, RuntimeError) as error:
        logging.debug("where it happened:", exc_info=True)
        sys.exit(errors.report(f"error: {error}\n(for the place in the code: --verbosity=1)"))
    print("held out: " + ", ".join(f"{name.removeprefix('eval_')} {value:.4g}" for name, value in results.items()))


def run() -> None:
    """The command line."""
    exit_on_sigterm()
    flags.mark_flags_as_required(["config", "workdir"])
    app.run(main, argv=sys.argv, flags_parser=_parse_flags)


def _parse_flags(argv):
    try:
        rest = app.parse_flags_with_usage(argv)
    except (AttributeError, KeyError, OSError):
        explain_config_flags(argv)
        raise
    # Our own messages, and others' warnings, with the time in front.
    handler = logging.get_absl_handler()
    handler.setFormatter(stdlib_logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
    handler.addFilter(lambda record: record.levelno >= stdlib_logging.WARNING or "softvq_jax" in record.pathname)
    logging.set_verbosity(max(logging.get_verbosity(), logging.INFO))
    return rest


if __name__ == "__main__":
    run()
