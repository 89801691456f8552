#!/usr/bin/env bash
# Runs several processes on this machine: one for each GPU, or a rehearsal of a pod on the CPU.
#
#   launch/local_processes.sh --processes 2 --cpu-devices 4 -- --config=configs/tiny.py --workdir=runs/tiny
#   launch/local_processes.sh --processes 8 --gpus -- --config=configs/l64.py --workdir=runs/l64
#
#   --processes N     number of processes
#   --cpu-devices N   run on the CPU, each process with N simulated devices
#   --gpus            run on GPUs, process i on GPU i
#   --max-restarts N  restarts after preemptions (default 100)
#   --grace SECONDS   time for the other processes to exit after one failed (default 20)
#   --dry-run         print the commands, and check the paths in buckets
#
# The processes connect through a free port. SIGTERM and Ctrl-C are forwarded to them, and the script waits until all have
# saved. If one process fails, the others are stopped, and the script exits with the code of the failed process.
set -euo pipefail
# shellcheck source=launch/common.sh
source "$(dirname "$0")/common.sh"

processes="" cpu_devices="" gpus=false max_restarts=100 grace=20
while (($#)); do
  case $1 in
    --processes) need_number "$1" "${2-}" && processes=$2 && shift 2 ;;
    --cpu-devices) need_number "$1" "${2-}" && cpu_devices=$2 && shift 2 ;;
    --gpus) gpus=true && shift ;;
    --max-restarts) need_number "$1" "${2-}" && max_restarts=$2 && shift 2 ;;
    --grace) need_number "$1" "${2-}" && grace=$2 && shift 2 ;;
    --dry-run) dry_run=true && shift ;;
    --help | -h) usage ;;
    --) shift && training_flags=("$@") && break ;;
    *) die "unknown option '$1'" ;;
  esac
done
[[ -n $processes ]] || die "--processes is required"
if $gpus; then
  [[ -z $cpu_devices ]] || die "--gpus and --cpu-devices exclude each other"
else
  [[ -n $cpu_devices ]] || die "--gpus or --cpu-devices N is required"
fi
check_training_flags

python=${PYTHON:-python}
require_command "$python"

free_port() {
  "$python" -c 'import socket; s = socket.socket(); s.bind(("", 0)); print(s.getsockname()[1])'
}

pids=() signaled=false
# shellcheck disable=SC2317,SC2329  # The trap calls it.
forward_signal() {
  signaled=true
  kill -TERM "${pids[@]}" 2> /dev/null || true
}

# Starts process $1, on port $2.
start() {
  local place=(CUDA_VISIBLE_DEVICES="$1")
  # NPROC is the number of threads. A collective blocks one thread for each simulated device, more than the default number.
  $gpus || place=(JAX_PLATFORMS=cpu JAX_NUM_CPU_DEVICES="$cpu_devices" NPROC=$((8 * cpu_devices)))
  local command=(env "${place[@]}" "$python" -m softvq_jax.main "${training_flags[@]}"
    --coordinator="127.0.0.1:$2" --num_processes="$processes" --process_id="$1")
  if $dry_run; then
    quoted "${command[@]}"
  else
    "${command[@]}" &
    pids+=($!)
  fi
}

# Waits for all processes; returns the exit code of the first failure, else 75 if any was preempted, else 0. After a
# failure the others are stopped, and killed after the grace time, because a process that waits for a dead one may hang.
wait_for_all() {
  local result=0 code left deadline=""
  while ((${#pids[@]})); do
    left=()
    for pid in "${pids[@]}"; do
      if kill -0 "$pid" 2> /dev/null; then
        left+=("$pid")
        continue
      fi
      code=0
      wait "$pid" || code=$?
      if ((code == PREEMPTED && result == 0)); then
        result=$code
      elif ((code != 0 && code != PREEMPTED && (result == 0 || result == PREEMPTED))); then
        result=$code deadline=$((SECONDS + grace))
        kill -TERM "${pids[@]}" 2> /dev/null || true
      fi
    done
    pids=("${left[@]}")
    if [[ -n $deadline ]] && ((SECONDS > deadline)); then kill -KILL "${pids[@]}" 2> /dev/null || true; fi
    sleep 0.1
  done
  return "$result"
}

trap forward_signal TERM INT
cd "$root"
for ((restart = 0; restart <= max_restarts; restart++)); do
  port=PORT
  $dry_run || port=$(free_port)
  pids=()
  for ((i = 0; i < processes; i++)); do start "$i" "$port"; done
  if $dry_run; then exit 0; fi
  code=0
  wait_for_all || code=$?
  if ((code != PREEMPTED)) || $signaled; then exit "$code"; fi
  echo "${0##*/}: preempted, restarting ($((restart + 1)) of $max_restarts)" >&2
done
exit "$PREEMPTED"
