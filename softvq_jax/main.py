"""Runs the training of a config: `python -m softvq_jax.main --config=configs/tiny.py --workdir=runs/tiny`.

The same command resumes an interrupted run. Any field can be set, for example `--config.model.num_latent_tokens=32`;
`--help_config` lists all fields. Exit codes: 0 finished; 75 preempted, with a checkpoint saved (run the command again);
1 error, with a message that states what to do.
"""

import json
import sys

from absl import app, flags, logging

from softvq_jax.config import check_values
from softvq_jax.config.flags import define_config, parse_flags
from softvq_jax.progress import set_up_log
from softvq_jax.storage.paths import as_path
from softvq_jax.train.preemption import exit_on_sigterm

_CONFIG = define_config()
_WORKDIR = flags.DEFINE_string("workdir", None, "Folder for checkpoints, metrics and images, also gs://... or s3://...")
_CHANGES = flags.DEFINE_bool(
    "resume_with_changes",
    False,
    "Go on in the workdir with other values of config.train, optim, seed or gan.start_step; recorded in the checkpoints.",
)
_CHECK = flags.DEFINE_bool("check_buckets", False, "Check all paths in buckets, print what they hold, and exit.")
_PROFILE = flags.DEFINE_string("profile_steps", "", "FIRST:LAST, steps to trace for xprof, such as 100:110.")
_COORDINATOR = flags.DEFINE_string("coordinator", None, "host:port of process 0; not needed on TPU pods and SLURM.")
_NUM_PROCESSES = flags.DEFINE_integer("num_processes", None, "Number of processes, with --coordinator.")
_PROCESS_ID = flags.DEFINE_integer("process_id", None, "Index of this process, from 0, with --coordinator.")
_TIMEOUT = flags.DEFINE_float("start_timeout", 300.0, "Seconds to wait for the other processes.")
_CACHE = flags.DEFINE_string(
    "compilation_cache",
    None,
    "Folder in which compiled programs are kept between runs. Default: the user's cache, in runs of one process.",
)


def main(_):
    """Runs the config's task. An error prints one line and ends the program with its exit code."""
    config, workdir = _CONFIG.value, _WORKDIR.value
    assert workdir is not None  # required
    try:
        if not workdir:
            raise ValueError("--workdir is empty; expected a folder for this run")
        folder = as_path(workdir)
        check_values(config)
    except ValueError as error:
        sys.exit(f"error: {error}")
    if _CHECK.value:
        from softvq_jax.train.bucket_checks import check_buckets

        sys.exit(check_buckets(config, folder))
    # jax is imported after the flags are parsed, and used after the processes are connected.
    from softvq_jax.parallel import errors
    from softvq_jax.parallel.shared_folder import check_shared
    from softvq_jax.parallel.start import start

    try:
        start(
            _COORDINATOR.value,
            _NUM_PROCESSES.value,
            _PROCESS_ID.value,
            config=json.loads(config.to_json_best_effort()),
            timeout=_TIMEOUT.value,
            compilation_cache_folder=_CACHE.value,
        )
        check_shared(folder, "--workdir")
        logging.info("config:\n%s", config)
        if config.task == "study":
            from softvq_jax.studies.study import Study

            return print(Study(config, folder).run())
        from softvq_jax.train.loop import Run
        from softvq_jax.train.profile import ProfileSteps
        from softvq_jax.train.tasks import TASKS

        if config.task not in TASKS:
            raise ValueError(f"task is {config.task!r}; expected one of {', '.join(TASKS)}")
        steps = ProfileSteps.parse(_PROFILE.value)
        run = Run(config, folder, TASKS[config.task], allow_changes=_CHANGES.value, profile_steps=steps)
        results = run.train()
    except (ValueError, OSError, ImportError, ArithmeticError, TimeoutError, RuntimeError) as error:
        logging.debug("traceback:", exc_info=True)
        sys.exit(errors.report_error(f"error: {error}\n(for the traceback: --verbosity=1)"))
    print("held out: " + ", ".join(f"{name.removeprefix('eval_')} {value:.4g}" for name, value in results.items()))


def run() -> None:
    """Runs the command line."""
    exit_on_sigterm()
    app.run(main, argv=sys.argv, flags_parser=_parse_flags)


def _parse_flags(argv):
    rest = parse_flags(argv, required=["workdir"])
    set_up_log()
    logging.set_verbosity(max(logging.get_verbosity(), logging.INFO))
    return rest


if __name__ == "__main__":
    run()
