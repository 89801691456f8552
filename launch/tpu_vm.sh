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
#   --dry-run                print the commands
#
# JAX finds the other hosts through the TPU's own metadata. A maintenance event ends the program with 75, and it is
# started again on its host; a preemption takes the hosts away, and the slice is created anew.
set -euo pipefail
# shellcheck source=launch/common.sh
source "$(dirname "$0")/common.sh"

name="" zone="" project=() directory=softvq-jax accelerator="" version="" spot=() setup=""
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

create() {
  [[ -n $accelerator ]] || die "TPU VM $name is $1: give --accelerator-type and --version to create it again"
  if [[ $1 != ABSENT ]]; then run tpu_vm delete --quiet; fi
  run gcloud compute tpus tpu-vm create "$name" --zone="$zone" "${project[@]}" \
    --accelerator-type="$accelerator" --version="$version" "${spot[@]}"
  if [[ -n $setup ]]; then on_all_hosts "$setup"; fi
}

program=$(quoted python3 -m softvq_jax.main "${training_flags[@]}")
train="cd $(quoted "$directory") && code=$PREEMPTED; "
train+="while [ \$code -eq $PREEMPTED ]; do code=0; $program || code=\$?; done; exit \$code"

if $dry_run; then
  [[ -z $accelerator ]] || create ABSENT
  on_all_hosts "$train"
  exit 0
fi
while true; do
  now=$(state)
  [[ $now == READY ]] || create "$now"
  code=0
  on_all_hosts "$train" || code=$?
  now=$(state)
  # The slice still stands: the program ended of itself.
  [[ $now != READY ]] || exit "$code"
  echo "${0##*/}: the slice is $now, starting again" >&2
done
