"""The launch scripts: restarts after preemptions and failures. The programs that they call are replaced."""

import os
import signal
import subprocess
import sys
import time

import pytest

from tests.launch_scripts import LAUNCH, OPTIONS, TRAINING, calls, fake_program, launch, printed_words


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
        fake_program(tmp_path, "python", body)
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
        ports = [word for call in calls(python, "python") for word in call if word.startswith("--coordinator")]
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
    fake_program(tmp_path, "sbatch", "")
    python = {"PYTHON": str(tmp_path / "python")}
    assert launch("slurm.sh", *OPTIONS["slurm.sh"].split(), *TRAINING, path=tmp_path, **python).returncode == 0
    [submitted] = calls(tmp_path, "sbatch")
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
    fake_program(tmp_path, "srun", running)
    waits = f"trap 'sleep 0.1; exit 75' TERM; touch {tmp_path}/waiting; while true; do sleep 0.02; done"
    fake_program(tmp_path, "python", f'[[ $TASK != TERM ]] || {{ {waits}; }}; exit "$TASK"')
    fake_program(tmp_path, "scontrol", "")
    environment = os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}", "SLURM_JOB_ID": "17"}
    assert subprocess.run(["bash", "-c", job], env=environment).returncode == code
    [srun] = calls(tmp_path, "srun")
    assert srun[:2] == ["--kill-on-bad-exit=0", "--wait=120"]  # tasks that are still saving are not killed
    assert calls(tmp_path, "python") == [["-m", "softvq_jax.main", *TRAINING[1:]]] * 2
    assert (tmp_path / "scontrol.log").exists() == requeued
    if requeued:
        assert calls(tmp_path, "scontrol") == [["requeue", "17"]]


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
    fake_program(tmp_path, "gcloud", body)
    fake_program(tmp_path, "sleep", "")
    result = launch("tpu_vm.sh", *OPTIONS["tpu_vm.sh"].split(), *CREATING, *TRAINING, path=tmp_path)
    assert result.returncode == 0, result.stderr
    verbs = [call[3] for call in calls(tmp_path, "gcloud") if call[3] != "describe"]
    assert verbs == ["ssh", "delete", "create", "create", "create", "ssh", "ssh"]
    assert calls(tmp_path, "sleep") == [["10"], ["10"], ["30"], ["60"]]
    assert "the slice is PREEMPTED, restarting (1 of 100)" in result.stderr
    create = next(call for call in calls(tmp_path, "gcloud") if call[3] == "create")
    assert {"--zone=z", "--project=p", "--accelerator-type=v4-8", "--version=v", "--spot"} <= set(create)


def test_tpu_slice_without_capacity(tmp_path):
    fake_program(tmp_path, "gcloud", "exit 1")
    fake_program(tmp_path, "sleep", "")
    options = [*OPTIONS["tpu_vm.sh"].split(), *CREATING, "--max-restarts", "2"]
    result = launch("tpu_vm.sh", *options, *TRAINING, path=tmp_path)
    assert result.returncode == 75 and "could not be created" in result.stderr and "--max-restarts" in result.stderr
    assert [call[3] for call in calls(tmp_path, "gcloud")].count("create") == 3


def test_tpu_program_that_fails_by_itself_is_not_restarted(tmp_path):
    fake_program(tmp_path, "gcloud", "[[ $4 == describe ]] && echo READY || exit 3")
    fake_program(tmp_path, "sleep", "")
    result = launch("tpu_vm.sh", *OPTIONS["tpu_vm.sh"].split(), *TRAINING, path=tmp_path)
    assert result.returncode == 3
    assert [call[3] for call in calls(tmp_path, "gcloud")].count("ssh") == 1


@pytest.mark.parametrize(("most", "code", "starts"), [("100", 4, 3), ("1", 75, 2)])
def test_tpu_hosts_restart_a_preempted_program(tmp_path, most, code, starts):
    """The command of the hosts repeats the program while it exits with 75."""
    options = [*OPTIONS["tpu_vm.sh"].split(), "--directory", str(tmp_path), "--max-restarts", most]
    dry = launch("tpu_vm.sh", *options, "--dry-run", *TRAINING)
    [command] = [word.removeprefix("--command=") for word in printed_words(dry.stdout) if word.startswith("--command=")]
    fake_program(tmp_path, "python3", f"(( $(wc -l < {tmp_path}/python3.log) < 3 )) && exit 75; exit 4")
    environment = os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    assert subprocess.run(["bash", "-c", command], env=environment).returncode == code
    assert calls(tmp_path, "python3") == [["-m", "softvq_jax.main", *TRAINING[1:]]] * starts
    lost = command.replace(str(tmp_path), str(tmp_path / "none"))
    assert subprocess.run(["bash", "-c", lost], env=environment, capture_output=True).returncode == 1


def test_xpk_restarts_on_the_exit_code_of_a_preemption(tmp_path):
    fake_program(tmp_path, "xpk", "")
    assert launch("gke_xpk.sh", *OPTIONS["gke_xpk.sh"].split(), *TRAINING, path=tmp_path).returncode == 0
    [call] = calls(tmp_path, "xpk")
    assert call[:2] == ["workload", "create"]
    assert {"--num-slices=2", "--restart-on-exit-codes=75", "--tpu-type=v5litepod-256"} <= set(call)


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
    fake_program(tmp_path, "gcloud", body)
    fake_program(tmp_path, "sleep", "")
    options = [*OPTIONS["tpu_vm.sh"].split(), "--accelerator-type", "v5litepod-64", "--version", "v", "--queued"]
    (tmp_path / "slices").write_text("ABSENT\nPREEMPTED\nPREEMPTED\nPREEMPTED\n")
    result = launch("tpu_vm.sh", *options, *TRAINING, path=tmp_path)
    assert result.returncode == 0, result.stderr
    verbs = [(call[2], call[3]) for call in calls(tmp_path, "gcloud") if call[3] != "describe"]
    create, delete, ssh = ("queued-resources", "create"), ("queued-resources", "delete"), ("tpu-vm", "ssh")
    assert verbs == [create, ssh, delete, create, delete, create, ssh]
    assert "in the queue: WAITING_FOR_RESOURCES" in result.stderr
    assert ["60"] in calls(tmp_path, "sleep") and ["30"] in calls(tmp_path, "sleep")
