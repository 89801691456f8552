#!/usr/bin/env bash
# A SLURM job on GPU nodes, one process for each GPU.
#
#   launch/slurm.sh --nodes 4 --gpus-per-node 8 --time 24:00:00 -- --config=configs/l64.py --workdir=/shared/runs/l64
#
#   --nodes N           how many nodes
#   --gpus-per-node N   GPUs, and so processes, on each
#   --time D-HH:MM:SS   the job's time limit
#   --grace SECONDS     how long before the limit to save (default 300)
#   --sbatch OPTION     any further option of sbatch, for instance --sbatch --partition=gpu; repeatable
#   --dry-run           print the command
#
# JAX finds the other processes through SLURM. Before the time limit, and on preemption, the program is told to stop,
# saves and ends with 75; the job then puts itself back into the queue and goes on where it stopped.
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
    --sbatch) [[ ${2-} == --* ]] || die "--sbatch needs an option of sbatch" && sbatch_options+=("$2") && shift 2 ;;
    --dry-run) dry_run=true && shift ;;
    --help | -h) usage ;;
    --) shift && training_flags=("$@") && break ;;
    *) die "unknown option '$1'" ;;
  esac
done
[[ -n $nodes ]] || die "no --nodes"
[[ -n $gpus ]] || die "no --gpus-per-node"
[[ $time =~ ^([0-9]+-)?[0-9]+(:[0-9]{2}){0,2}$ ]] || die "--time needs a limit such as 24:00:00, not '$time'"
check_training_flags
check_shared_workdir
require_command sbatch

# Nothing kills the others when one task ends: they may be saving. Those that lost it end by themselves, or are ended
# two minutes after the first. The code of a step is the highest of its tasks': 255 for 75, so that no task that was
# killed while it ended hides that others had saved, which they do together. SLURM signals this shell too: it waits.
saved=255
task="trap : TERM; \"\$@\"; code=\$?; if [ \$code -eq $PREEMPTED ]; then code=$saved; fi; exit \$code"
step=(srun --kill-on-bad-exit=0 --wait=120 bash -c "$task" task "${PYTHON:-python}" -m softvq_jax.main
  "${training_flags[@]}")
job="code=0; $(quoted "${step[@]}") || code=\$?; "
job+="if [ \$code -eq $saved ]; then code=$PREEMPTED; scontrol requeue \"\$SLURM_JOB_ID\"; fi; exit \$code"
run sbatch --job-name=softvq --nodes="$nodes" --ntasks-per-node="$gpus" --gpus-per-node="$gpus" --time="$time" \
  --signal="TERM@$grace" --requeue --open-mode=append --chdir="$root" "${sbatch_options[@]}" --wrap="$job"
