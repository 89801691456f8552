#!/usr/bin/env bash
# All checks and measurements that need a GPU:
#
#   benchmarks/gpu.sh TORCH_ENVIRONMENT/bin/python [FOLDER]
#
# Run it from a checkout, in an environment with `pip install -e '.[cuda,test,bench]'`; the other environment needs torch and
# numpy. Each step writes its output to FOLDER (default: gpu_results); the steps after a failed one run all the same, and the
# exit code is 1 if any failed. Allow two hours on one H100. SMALL=1 rehearses all steps with small networks, on any machine.
set -uo pipefail
cd "$(dirname "$0")/.." || exit

python=${1:?usage: benchmarks/gpu.sh TORCH_ENVIRONMENT/bin/python [FOLDER]}
folder=${2:-gpu_results}
mkdir -p "$folder"
export XLA_PYTHON_CLIENT_PREALLOCATE=false # the peer in PyTorch needs memory beside ours
failed=()

# step NAME COMMAND...: runs a command with its output in FOLDER/NAME.log.
step() {
  local name=$1 start=$SECONDS
  shift
  echo "$name: $*"
  "$@" > "$folder/$name.log" 2>&1 || { failed+=("$name") && echo "$name FAILED: $folder/$name.log"; }
  echo "$name: $((SECONDS - start)) s"
}

compare() {
  local name=$1
  shift
  step "$name" python benchmarks/side_by_side.py --python="$python" "$@"
}

step devices python -c '
import jax, os
print(jax.devices())
assert jax.default_backend() == "gpu" or os.environ.get("SMALL"), "no GPU"'
step torch "$python" -c '
import os, torch
print(torch.__version__)
assert torch.cuda.is_available() or os.environ.get("SMALL"), "no GPU"'

# Tests compare float32 with float32 or float64. GPUs would use TF32 for it.
tests=(env JAX_DEFAULT_MATMUL_PRECISION=highest python -m pytest -q -m "slow or not slow")

if [[ -n ${SMALL:-} ]]; then
  one=(--batch=1 --rounds=1 --variants eager) few=(--size=S --steps=2 --network-batch=2 --rounds=1)
  step parity "${tests[@]}" tests/parity_test.py -k gan_losses
  step attention "${tests[@]}" tests/models/attention_test.py -k "reference and 65"
  compare tokenizer --config=tiny --dtype=bfloat16 "${one[@]}"
  compare gan_step --case=gan_step --config=s64 "${one[@]}"
  compare lpips --case=lpips "${one[@]}"
  compare discriminator --case=discriminator "${one[@]}"
  compare sit_1 --case=sit --size=S --dtype=bfloat16 "${one[@]}"
  step latency python benchmarks/generation.py --latency "${few[@]}"
  step generation python benchmarks/generation.py "${few[@]}" --batch=1 --image-sizes 256
  step start_up python benchmarks/start_up.py --python="$python" --rounds=1
else
  step parity "${tests[@]}" tests/parity_test.py
  step attention "${tests[@]}" tests/models/attention_test.py
  compare tokenizer --config=l64 --dtype=bfloat16 --batch=128
  compare gan_step --case=gan_step --config=l64 --dtype=bfloat16 --batch=32
  compare lpips --case=lpips --dtype=bfloat16 --batch=128
  compare discriminator --case=discriminator --dtype=bfloat16 --batch=128
  for batch in 1 16 64 256; do
    compare "sit_$batch" --case=sit --size=XL --dtype=bfloat16 --batch="$batch"
  done
  step latency python benchmarks/generation.py --latency
  step generation python benchmarks/generation.py
  step start_up python benchmarks/start_up.py --python="$python"
fi

grep -h '^|' "$folder"/*.log
if ((${#failed[@]})); then
  printf 'failed: %s\n' "${failed[@]}"
  exit 1
fi
