# Sourced by the launch scripts. All of them are called as
#
#   launch/<where>.sh [options] -- --config=configs/l64.py --workdir=DIR [any flag of softvq_jax.main]
#
# --dry-run prints the commands instead of running them, then checks the paths in buckets. --help prints the comment at the
# head of the script. The exit code is 2 for a wrong command line, 1 if a path in a bucket cannot be used, else the program's.
# After a preemption, the program saves, exits with 75 and is restarted.
# shellcheck shell=bash

readonly PREEMPTED=75
export PREEMPTED
config=""
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
dry_run=false
training_flags=()

die() {
  echo "${0##*/}: $1. See --help" >&2
  exit 2
}

# Prints the comment at the head of the script.
usage() {
  awk 'NR > 1 && !/^#/ { exit } NR > 1 { sub(/^# ?/, ""); print }' "$0"
  exit 0
}

# need OPTION VALUE: exits if an option has no value.
need() {
  [[ -n "${2-}" && "$2" != --* ]] || die "$1 needs a value"
}

# need_number OPTION VALUE: exits if the value is not a positive integer.
need_number() {
  [[ "${2-}" =~ ^[1-9][0-9]*$ ]] || die "$1 must be a positive integer; got '${2-}'"
}

# Checks the flags of softvq_jax.main: a config that exists, by path or by name, and a workdir.
check_training_flags() {
  local flag workdir="" name
  for flag in "${training_flags[@]}"; do
    case $flag in
      --config=*) config=${flag#*=} ;;
      --workdir=*) workdir=${flag#*=} ;;
      --*) ;;
      *) die "unexpected argument '$flag' after --; flags of softvq_jax.main are written --name=value" ;;
    esac
  done
  [[ -n $config ]] || die "no --config=... after --"
  name=${config%%:*} name=${name#configs/} name=${name%.py}
  [[ -f ${config%%:*} || -f $root/${config%%:*} || -f $root/configs/$name.py || -f $root/configs/${name%%_*}.py ]] ||
    die "no config $config; configs are named after the files in configs/"
  [[ -n $workdir ]] || die "no --workdir=... after --"
  if $dry_run; then trap check_buckets EXIT; fi
}

# At the end of a dry run: checks that the paths in buckets exist, hold the expected kind of data and may be used.
# shellcheck disable=SC2317,SC2329  # The trap calls it.
check_buckets() {
  local code=$? python=${PYTHON:-python} needed="('absl', 'ml_collections', 'fsspec')"
  ((code == 0)) || exit "$code"
  if ! [[ ${training_flags[*]} =~ (gs|s3):// ]] && ! grep -qsE '(gs|s3)://' "${config%%:*}"; then return; fi
  if ! "$python" -c "import importlib.util as u, sys; sys.exit(not all(map(u.find_spec, $needed)))" 2> /dev/null; then
    echo "${0##*/}: the paths in buckets are not checked: softvq-jax is not installed for $python" >&2
    return
  fi
  PYTHONPATH=$root${PYTHONPATH:+:$PYTHONPATH} "$python" -m softvq_jax.main "${training_flags[@]}" --check_buckets >&2 || exit 1
}

# Checks that the workdir can be the same folder on several machines.
check_shared_workdir() {
  [[ " ${training_flags[*]}" =~ \ --workdir=(/|gs://|s3://) ]] ||
    die "--workdir must be in a bucket (gs://... or s3://...), or the absolute path of a folder that all machines share"
}

require_command() {
  $dry_run || command -v "$1" > /dev/null || die "command $1 not found"
}

# quoted WORD...: prints the words as one line of shell code. Quotes are added only where needed; in --option=VALUE, only
# around VALUE.
quoted() {
  local word option line=""
  for word in "$@"; do
    option=""
    if [[ $word =~ ^(--[a-z_.-]+=)(.*[^A-Za-z0-9_./:=@%+,-].*)$ ]]; then
      option=${BASH_REMATCH[1]} word=${BASH_REMATCH[2]}
    fi
    [[ $word =~ ^[A-Za-z0-9_./:=@%+,-]+$ ]] || word="'${word//\'/\'\\\'\'}'"
    line+="$option$word "
  done
  echo "${line% }"
}

# Runs a command; in a dry run prints it instead, one option per line, so that it can be read and pasted.
run() {
  local word line=""
  if $dry_run; then
    for word in "$@"; do
      if [[ $word == --* ]]; then line+="\\"$'\n'"  "; fi
      line+="$(quoted "$word") "
    done
    echo "${line% }"
  else
    "$@"
  fi
}
