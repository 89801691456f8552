#!/usr/bin/env bash
# Submits a SLURM job on GPU nodes, one process for each GPU.
#
#   launch/slurm.sh --nodes 4 --gpus-per-node 8 --time 24:00:00 -- --config=configs/l64.py --workdir=/shared/runs/l64
#
#   --nodes N           number of nodes
#   --gpus-per-node N   GPUs, and processes, on each node
#   --time D-HH:MM:SS   time limit of the job
#   --grace SECONDS     time before the limit at which to save (default 300)
#   --sbatch OPTION     another option of sbatch, such as --sbatch --partition=gpu; can be repeated
#   --dry-run           print the command, and check the paths in buckets
#
# JAX finds the other processes through SLURM. Before the time limit, and on preemption, SLURM signals the program,
# which saves and exits with 75. The job then requeues itself and resumes.
set -euo pipefail
# shellcheck source=launch/common.sh
source "$(dirname "$0")/common.sh"

nodes="" gpus="" time="" grace=300 sbatch_options=()
while (($#)); do
  case $1 in
    --nodes) need_number "$1" "${2-}" && nodes=$2 && shift 2 ;;
    --gpus-per-node) need_number "$1" "${2-}" && gpus=$2 && shift 2 ;;
    --time) need "$1" "${2-}" && time=$2 && shift 2 ;;
    --grace) need_number "$1" "${2-}" && grace=$2 && shift 2 ;;
    --sbatch) [[ ${2-} == --* ]] || die "--sbatch must be followed by an option of sbatch" && sbatch_options+=("$2") && shift 2 ;;
    --dry-run) dry_run=true && shift ;;
    --help | -h) usage ;;
    --) shift && training_flags=("$@") && break ;;
    *) die "unknown option '$1'" ;;
  esac
done
[[ -n $nodes ]] || die "--nodes is required"
[[ -n $gpus ]] || die "--gpus-per-node is required"
[[ $time =~ ^([0-9]+-)?[0-9]+(:[0-9]{2}){0,2}$ ]] || die "--time must be a limit such as 24:00:00; got '$time'"
check_training_flags
check_shared_workdir
require_command sbatch

# When one task exits, the others are not killed, because they may be saving; they exit by themselves, or are stopped two
# minutes after the first. The exit code of a job step is the highest of its tasks. 75 becomes 255, so that it is still the
# highest if a task is killed while it exits. SLURM signals this shell too, which ignores the signal and waits.
saved=255
task="trap : TERM; \"\$@\"; code=\$?; if [ \$code -eq $PREEMPTED ]; then code=$saved; fi; exit \$code"
step=(srun --kill-on-bad-exit=0 --wait=120 bash -c "$task" task "${PYTHON:-python}" -m softvq_jax.main
  "${training_flags[@]}")
job="code=0; $(quoted "${step[@]}") || code=\$?; "
job+="if [ \$code -eq $saved ]; then code=$PREEMPTED; scontrol requeue \"\$SLURM_JOB_ID\"; fi; exit \$code"
run sbatch --job-name=softvq --nodes="$nodes" --ntasks-per-node="$gpus" --gpus-per-node="$gpus" --time="$time" \
  --signal="TERM@$grace" --requeue --open-mode=append --chdir="$root" "${sbatch_options[@]}" --wrap="$job"
