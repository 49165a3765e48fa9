#!/usr/bin/env bash
# Decode at small batches, both ways to launch a step: the grid benchmarks/small_batches.yaml, in one process.
#
#   benchmarks/small_batches.sh OUTPUT_FOLDER
#
# Runs in the current Python environment. The records go to OUTPUT_FOLDER/runs, the output and a table of all runs to
# OUTPUT_FOLDER/small_batches.txt. The same command with the same folder goes on.
set -uo pipefail
here=$(dirname "$0")
[ -n "${1:-}" ] || { echo "usage: benchmarks/small_batches.sh OUTPUT_FOLDER" >&2; exit 2; }
folder=$(mkdir -p "$1" && cd "$1" && pwd) || exit 2
cd "$here/.." || exit 2
output=$folder/small_batches.txt
export MLFLOW_TRACKING_URI="sqlite:///$folder/mlflow.db" PYTHONUNBUFFERED=1
{
  date -u +'%Y-%m-%d %H:%M UTC'
  nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader
  python3 -c 'import torch, triton; print("torch", torch.__version__, "triton", triton.__version__)'
  git log -1 --format='commit %h %s'
  echo "\$ ttt-mlflow sweep --grid benchmarks/small_batches.yaml --executor inline"
} 2>&1 | tee -a "$output"
python3 -m ttt_mlflow sweep --grid benchmarks/small_batches.yaml --executor inline --logdir "$folder/runs" \
  > >(tee -ai "$output") 2>&1
code=$? # no pipe, which would wait for a compiler's process that outlives the sweep
{
  echo "exit code $code"
  python3 -m ttt_mlflow table "$folder/runs" --columns name,decode_step_ms_mean,half_width,verdict,throughput
} 2>&1 | tee -a "$output"
exit "$code"
