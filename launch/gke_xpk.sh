#!/usr/bin/env bash
# Creates a workload on GKE through XPK (https://github.com/AI-Hypercomputer/xpk): one or several TPU slices.
#
#   launch/gke_xpk.sh --workload softvq-l64 --cluster my-cluster --tpu-type v5litepod-256 --docker-image IMAGE \
#     -- --config=configs/l64.py --workdir=/mnt/shared/runs/l64
#
#   --workload NAME         name of the workload: lower-case letters, digits and hyphens
#   --cluster NAME          cluster, created by xpk cluster create
#   --tpu-type TYPE         slice, such as v5litepod-256
#   --docker-image IMAGE    image with the package installed
#   --slices N              number of slices (default 1), connected by the data-center network
#   --zone, --project       zone and project, if not gcloud's defaults
#   --max-restarts N        restarts after preemptions (default 100)
#   --grace SECONDS         time for the program to save (default 300)
#   --dry-run               print the command, and check the paths in buckets
#
# JAX finds the other hosts through the environment variables that GKE sets.
set -euo pipefail
# shellcheck source=launch/common.sh
source "$(dirname "$0")/common.sh"

workload="" cluster="" tpu_type="" image="" slices=1 place=() max_restarts=100 grace=300
while (($#)); do
  case $1 in
    --workload) need "$1" "${2-}" && workload=$2 && shift 2 ;;
    --cluster) need "$1" "${2-}" && cluster=$2 && shift 2 ;;
    --tpu-type) need "$1" "${2-}" && tpu_type=$2 && shift 2 ;;
    --docker-image) need "$1" "${2-}" && image=$2 && shift 2 ;;
    --slices) need_number "$1" "${2-}" && slices=$2 && shift 2 ;;
    --zone | --project) need "$1" "${2-}" && place+=("$1=$2") && shift 2 ;;
    --max-restarts) need_number "$1" "${2-}" && max_restarts=$2 && shift 2 ;;
    --grace) need_number "$1" "${2-}" && grace=$2 && shift 2 ;;
    --dry-run) dry_run=true && shift ;;
    --help | -h) usage ;;
    --) shift && training_flags=("$@") && break ;;
    *) die "unknown option '$1'" ;;
  esac
done
[[ $workload =~ ^[a-z]([a-z0-9-]{0,38}[a-z0-9])?$ ]] ||
  die "--workload must be a name of lower-case letters, digits and hyphens, at most 40; got '$workload'"
[[ -n $cluster ]] || die "--cluster is required"
[[ $tpu_type =~ ^v[0-9a-z]+-[0-9]+$ ]] || die "--tpu-type must be a slice such as v5litepod-256; got '$tpu_type'"
[[ -n $image ]] || die "--docker-image is required"
check_training_flags
check_shared_workdir
require_command xpk

run xpk workload create --workload="$workload" --cluster="$cluster" --tpu-type="$tpu_type" --num-slices="$slices" \
  --docker-image="$image" "${place[@]}" --max-restarts="$max_restarts" --restart-on-exit-codes="$PREEMPTED" \
  --termination-grace-period-seconds="$grace" --command="$(quoted python3 -m softvq_jax.main "${training_flags[@]}")"
