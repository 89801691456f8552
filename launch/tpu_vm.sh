#!/usr/bin/env bash
# Runs the same command on every host of a slice of TPU VMs.
#
#   launch/tpu_vm.sh --name softvq --zone us-central2-b -- --config=configs/l64.py --workdir=/mnt/shared/runs/l64
#
#   --name NAME              name of the TPU VM
#   --zone ZONE              zone of the TPU VM
#   --project PROJECT        project, if not gcloud's default
#   --directory DIR          folder of the repository on each host (default softvq-jax)
#   --python PROGRAM         Python of the hosts, from DIR (default python3), such as .venv/bin/python
#   --accelerator-type TYPE  slice to create if it does not exist, and after each preemption: v5litepod-256, v4-32, ...
#   --version VERSION        software of the new slice: tpu-ubuntu2204-base, v2-alpha-tpuv5-lite, ...
#   --spot                   create the slice as a spot VM
#   --queued                 request the slice as a queued resource, and wait until it is active
#   --setup COMMAND          command to run on every host of a new slice, for example to clone and install
#   --max-restarts N         restarts after preemptions and failed creations (default 100)
#   --dry-run                print the commands, and check the paths in buckets
#
# JAX finds the other hosts through the metadata of the TPU. After a maintenance event the program exits with 75 and is
# restarted on the same hosts. After a preemption, which deletes the hosts, the slice is created again; if there is no
# capacity, the script retries after 30 seconds, a minute, and so on, up to ten minutes.
set -euo pipefail
# shellcheck source=launch/common.sh
source "$(dirname "$0")/common.sh"

name="" zone="" project=() directory=softvq-jax python=python3 accelerator="" version="" spot=() queued=false setup="" max_restarts=100
while (($#)); do
  case $1 in
    --name) need "$1" "${2-}" && name=$2 && shift 2 ;;
    --zone) need "$1" "${2-}" && zone=$2 && shift 2 ;;
    --project) need "$1" "${2-}" && project=(--project="$2") && shift 2 ;;
    --directory) need "$1" "${2-}" && directory=$2 && shift 2 ;;
    --python) need "$1" "${2-}" && python=$2 && shift 2 ;;
    --accelerator-type) need "$1" "${2-}" && accelerator=$2 && shift 2 ;;
    --version) need "$1" "${2-}" && version=$2 && shift 2 ;;
    --spot) spot=(--spot) && shift ;;
    --queued) queued=true && shift ;;
    --setup) need "$1" "${2-}" && setup=$2 && shift 2 ;;
    --max-restarts) need_number "$1" "${2-}" && max_restarts=$2 && shift 2 ;;
    --dry-run) dry_run=true && shift ;;
    --help | -h) usage ;;
    --) shift && training_flags=("$@") && break ;;
    *) die "unknown option '$1'" ;;
  esac
done
[[ -n $name ]] || die "--name is required"
[[ -n $zone ]] || die "--zone is required"
[[ -n $accelerator || -z $version$setup ]] || die "--version and --setup are for creating a slice: --accelerator-type is required"
[[ -n $accelerator ]] || ! $queued || die "--queued is for creating a slice: --accelerator-type is required"
[[ -z $accelerator || -n $version ]] || die "--accelerator-type needs --version"
check_training_flags
check_shared_workdir
require_command gcloud

tpu_vm() {
  local verb=$1
  shift
  gcloud compute tpus tpu-vm "$verb" "$name" --zone="$zone" "${project[@]}" "$@"
}

state() {
  tpu_vm describe --format='value(state)' 2> /dev/null || echo ABSENT
}

on_all_hosts() {
  run gcloud compute tpus tpu-vm ssh "$name" --zone="$zone" "${project[@]}" --worker=all --command="$1"
}

queued_resource() {
  local verb=$1
  shift
  gcloud compute tpus queued-resources "$verb" "$name" --zone="$zone" "${project[@]}" "$@"
}

queue_state() {
  queued_resource describe --format='value(state.state)' 2> /dev/null || echo ABSENT
}

# Requests the slice as a queued resource, and waits until it is active. The queued resource of a preempted slice is
# suspended and cannot be used again, so it is deleted first.
create_queued() {
  local now
  $dry_run || [[ $(queue_state) == ABSENT ]] || queued_resource delete --force --quiet || return
  run gcloud compute tpus queued-resources create "$name" --node-id="$name" --zone="$zone" "${project[@]}" \
    --accelerator-type="$accelerator" --runtime-version="$version" "${spot[@]}" || return
  if $dry_run; then return; fi
  while true; do
    now=$(queue_state)
    case $now in
      ACTIVE) return 0 ;;
      FAILED | SUSPENDING | SUSPENDED | DELETING | ABSENT) return 1 ;;
    esac
    echo "${0##*/}: in the queue: $now" >&2
    sleep 60
  done
}

# Creates the slice, which is now in state $1; fails if there is no capacity.
create() {
  [[ -n $accelerator ]] || die "TPU VM $name is $1: set --accelerator-type and --version to create it again"
  if $queued; then
    create_queued
    return
  fi
  if [[ $1 != ABSENT ]]; then tpu_vm delete --quiet || true; fi
  run gcloud compute tpus tpu-vm create "$name" --zone="$zone" "${project[@]}" \
    --accelerator-type="$accelerator" --version="$version" "${spot[@]}"
}

# Runs the program on all hosts; $1 is whether the slice is new.
work() {
  if $1 && [[ -n $setup ]]; then on_all_hosts "$setup" || return; fi
  on_all_hosts "$train"
}

# Prints the state of the slice after a failure. On a preemption, connections break or other hosts fail first, and the state
# changes a little later.
state_after_failure() {
  local now
  for _ in {1..6}; do
    now=$(state)
    [[ $now == READY ]] || break
    sleep 10
  done
  echo "$now"
}

# Counts a restart for the reason $1; exits after too many.
count_restart() {
  ((++restarts <= max_restarts)) || {
    echo "${0##*/}: $1; stopping after $max_restarts restarts (--max-restarts)" >&2
    exit "$PREEMPTED"
  }
  echo "${0##*/}: $1, restarting ($restarts of $max_restarts)" >&2
}

program=$(quoted "$python" -m softvq_jax.main "${training_flags[@]}")
train="cd $(quoted "$directory") || exit; code=$PREEMPTED; starts=0; "
train+="while [ \$code -eq $PREEMPTED ] && [ \$starts -le $max_restarts ]; do "
train+="starts=\$((starts + 1)); code=0; $program || code=\$?; done; exit \$code"

if $dry_run; then
  new=false
  if [[ -n $accelerator ]]; then create ABSENT && new=true; fi
  work "$new"
  exit 0
fi
restarts=0 pause=30
while true; do
  now=$(state) new=false
  if [[ $now != READY ]]; then
    if ! create "$now"; then
      count_restart "the slice could not be created; waiting $pause s"
      sleep "$pause"
      pause=$((pause < 300 ? 2 * pause : 600))
      continue
    fi
    new=true pause=30
  fi
  code=0
  work "$new" || code=$?
  if ((code == 0)); then exit 0; fi
  now=$(state_after_failure)
  # The slice still exists, so the program failed by itself.
  [[ $now != READY ]] || exit "$code"
  count_restart "the slice is $now"
done
