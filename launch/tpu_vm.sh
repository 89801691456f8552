#!/usr/bin/env bash
# A slice of TPU VMs: the same command on every host of it.
#
#   launch/tpu_vm.sh --name softvq --zone us-central2-b -- --config=configs/l64.py --workdir=/mnt/shared/runs/l64
#
#   --name NAME              the TPU VM
#   --zone ZONE              its zone
#   --project PROJECT        its project, if not gcloud's own
#   --directory DIR          where the repository is on each host (default softvq-jax)
#   --accelerator-type TYPE  with --version, the slice (v5litepod-256, v4-32, ...) to create when there is none, again
#   --version VERSION        after each preemption (tpu-ubuntu2204-base, v2-alpha-tpuv5-lite, ...), and the system on it
#   --spot                   create it as a spot VM
#   --setup COMMAND          run on every host of a slice just created, for instance to clone and install
#   --max-restarts N         how often to start again after a preemption, or a creation that failed (default 100)
#   --dry-run                print the commands
#
# JAX finds the other hosts through the TPU's own metadata. A maintenance event ends the program with 75, and it is
# started again on its host; a preemption takes the hosts away, and the slice is created anew. Where there is none to be
# had, that is tried again after half a minute, a minute, and so on, ten minutes at most.
set -euo pipefail
# shellcheck source=launch/common.sh
source "$(dirname "$0")/common.sh"

name="" zone="" project=() directory=softvq-jax accelerator="" version="" spot=() setup="" max_restarts=100
while (($#)); do
  case $1 in
    --name) need "$1" "${2-}" && name=$2 && shift 2 ;;
    --zone) need "$1" "${2-}" && zone=$2 && shift 2 ;;
    --project) need "$1" "${2-}" && project=(--project="$2") && shift 2 ;;
    --directory) need "$1" "${2-}" && directory=$2 && shift 2 ;;
    --accelerator-type) need "$1" "${2-}" && accelerator=$2 && shift 2 ;;
    --version) need "$1" "${2-}" && version=$2 && shift 2 ;;
    --spot) spot=(--spot) && shift ;;
    --setup) need "$1" "${2-}" && setup=$2 && shift 2 ;;
    --max-restarts) need_number "$1" "${2-}" && max_restarts=$2 && shift 2 ;;
    --dry-run) dry_run=true && shift ;;
    --help | -h) usage ;;
    --) shift && training_flags=("$@") && break ;;
    *) die "unknown option '$1'" ;;
  esac
done
[[ -n $name ]] || die "no --name"
[[ -n $zone ]] || die "no --zone"
[[ -n $accelerator || -z $version$setup ]] || die "--version and --setup are for creating a slice: add --accelerator-type"
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

# Creates the slice, which is in state $1 now; fails where there is none to be had.
create() {
  [[ -n $accelerator ]] || die "TPU VM $name is $1: give --accelerator-type and --version to create it again"
  if [[ $1 != ABSENT ]]; then tpu_vm delete --quiet || true; fi
  run gcloud compute tpus tpu-vm create "$name" --zone="$zone" "${project[@]}" \
    --accelerator-type="$accelerator" --version="$version" "${spot[@]}"
}

# What every host of a slice does; $1 is whether it was just created.
work() {
  if $1 && [[ -n $setup ]]; then on_all_hosts "$setup" || return; fi
  on_all_hosts "$train"
}

# The slice's state after a failure. A preemption first cuts the connections, or has the hosts that are left fail, and
# shows in the state a little later.
state_after_failure() {
  local now
  for _ in {1..6}; do
    now=$(state)
    [[ $now == READY ]] || break
    sleep 10
  done
  echo "$now"
}

# Counts a start that did not last, because of $1, and ends the script after too many.
start_again() {
  ((++restarts <= max_restarts)) || {
    echo "${0##*/}: $1; that was start $restarts, and no more were allowed (--max-restarts)" >&2
    exit "$PREEMPTED"
  }
  echo "${0##*/}: $1, starting again ($restarts of $max_restarts)" >&2
}

program=$(quoted python3 -m softvq_jax.main "${training_flags[@]}")
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
      start_again "the slice could not be created; waiting $pause s"
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
  # The slice still stands: the program ended of itself.
  [[ $now != READY ]] || exit "$code"
  start_again "the slice is $now"
done
