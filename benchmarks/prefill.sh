#!/usr/bin/env bash
# The prefill benchmarks that benchmarks/README.md reports: the matrix products alone, then one run for each shape.
#
#   benchmarks/prefill.sh OUTPUT_FOLDER [FOLDER_OF_AN_OLDER_VERSION]
#
# Runs in the current Python environment. The records go to OUTPUT_FOLDER/runs, the output to OUTPUT_FOLDER/prefill.txt.
# With an older version, its profile of 16 prompts of 2,048 tokens comes first.
set -uo pipefail
cd "$(dirname "$0")/.."
folder=$(mkdir -p "${1:?name a folder for the output}" && cd "$1" && pwd)
older=${2:-}
export MLFLOW_TRACKING_URI="sqlite:///$folder/mlflow.db"

run() {
  echo
  echo "\$ ttt-mlflow run --mode prefill $*"
  python3 -m ttt_mlflow run --mode prefill --model-name ttt-1b --dtype float16 --logdir "$folder/runs" "$@" 2>&1
  echo "exit code $?"
}

kernels() { # the longest kernels of the newest profile
  head -n 18 "$(ls -t "$folder"/runs/*/artifacts/profiles/torch/kernels.csv | head -n 1)" | cut -c1-160
}

{
  date -u +'%Y-%m-%d %H:%M UTC'
  nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader
  git log -1 --format='commit %h %s' 2>/dev/null
  if [ -n "$older" ]; then
    for net in mlp_1_dual_triton mlp_2_dual_triton; do
      (cd "$older" && run --batch 16 --promptlen 2048 --inner-net "$net" --max-seconds 8 --profile torch)
      kernels
    done
  fi
  python3 -m benchmarks.matrix_products "$folder"
  for net in mlp_1_dual_triton mlp_2_dual_triton; do
    run --batch 16 --promptlen 2048 --inner-net "$net" --max-seconds 12 --profile torch
    kernels
    run --batch 64 --promptlen 2048 --inner-net "$net" --max-seconds 12
    run --batch 4 --promptlen 8192 --inner-net "$net" --max-seconds 12
  done
  python3 -m benchmarks.matrix_products "$folder"
} 2>&1 | tee "$folder/prefill.txt"
