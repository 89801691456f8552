# Shared by the launch scripts, which source it. What they have in common:
#
#   launch/<where>.sh [options] -- --config=configs/l64.py --workdir=DIR [any flag of softvq_jax.main]
#
# --dry-run prints the commands instead of running them, --help the script's own head. Exit codes: 2 for a wrong command
# line, else the program's. The program ends with 75 when it was told to stop and has saved: it is then started again.
# shellcheck shell=bash

readonly PREEMPTED=75
export PREEMPTED
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

# need OPTION VALUE: dies where an option has no value.
need() {
  [[ -n "${2-}" && "$2" != --* ]] || die "$1 needs a value"
}

# need_number OPTION VALUE: dies where the value is not a positive whole number.
need_number() {
  [[ "${2-}" =~ ^[1-9][0-9]*$ ]] || die "$1 needs a positive number, not '${2-}'"
}

# The flags of softvq_jax.main: a config that exists, and a workdir.
check_training_flags() {
  local flag config="" workdir=""
  for flag in "${training_flags[@]}"; do
    case $flag in
      --config=*) config=${flag#*=} ;;
      --workdir=*) workdir=${flag#*=} ;;
      --*) ;;
      *) die "'$flag' is not a flag of softvq_jax.main: write --name=value" ;;
    esac
  done
  [[ -n $config ]] || die "no --config=... after --"
  [[ -f $config || -f $root/$config ]] || die "there is no config $config"
  [[ -n $workdir ]] || die "no --workdir=... after --"
}

# Several machines must find the same workdir.
check_shared_workdir() {
  [[ " ${training_flags[*]}" =~ \ --workdir=/ ]] ||
    die "the workdir must be the absolute path of a folder that all machines share (mount a bucket)"
}

require_command() {
  $dry_run || command -v "$1" > /dev/null || die "there is no command $1 on this machine"
}

# quoted WORD...: the words as one line that a shell reads back.
quoted() {
  local line
  printf -v line '%q ' "$@"
  echo "${line% }"
}

# Runs a command, or prints it.
run() {
  if $dry_run; then
    quoted "$@"
  else
    "$@"
  fi
}
