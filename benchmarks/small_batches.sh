#!/usr/bin/env bash
# Decode at small batches, each decode path in turn, and where a step as one kernel spends its time.
#
#   benchmarks/small_batches.sh OUTPUT_FOLDER [batches]
#
# Runs in the current Python environment. The records go to OUTPUT_FOLDER/runs, the output to
# OUTPUT_FOLDER/small_batches.txt.
set -uo pipefail
cd "$(dirname "$0")/.."
folder=$(mkdir -p "${1:?name a folder for the output}" && cd "$1" && pwd)
batches=${2:-1 2 8 16}
export MLFLOW_TRACKING_URI="sqlite:///$folder/mlflow.db"
{
  date -u +'%Y-%m-%d %H:%M UTC'
  nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader
  python3 -c 'import torch, triton; print("torch", torch.__version__, "triton", triton.__version__)'
  git log -1 --format='commit %h %s' 2>/dev/null
  for net in mlp_1_dual_triton mlp_2_dual_triton; do
    for batch in $batches; do
      for path in launches overlapped persistent; do
        echo
        echo "\$ ttt-mlflow run --inner-net $net --batch $batch --decode-path $path"
        python3 -m ttt_mlflow run --model-name ttt-1b --dtype float16 --promptlen 1 --genlen 256 --inner-net "$net" \
          --batch "$batch" --decode-path "$path" --max-seconds 6 --logdir "$folder/runs" 2>&1
        echo "exit code $?"
      done
    done
  done
  python3 -m benchmarks.step_timeline "$folder" --batches "${batches// /,}"
} 2>&1 | tee "$folder/small_batches.txt"
