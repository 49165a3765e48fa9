#!/usr/bin/env bash
# The decode and prefill kernels alone, as benchmarks/README.md reports them, and the other kernels of a decode step: each
# set of kernels and batches twice in a row.
#
#   benchmarks/micro.sh OUTPUT_FOLDER [times]
#
# Runs in the current Python environment. The records go to OUTPUT_FOLDER/runs, the output to OUTPUT_FOLDER/micro.txt,
# and MLflow's store to OUTPUT_FOLDER/mlflow.db.
set -uo pipefail
cd "$(dirname "$0")/.."
folder=$(mkdir -p "${1:?name a folder for the output}" && cd "$1" && pwd)
times=${2:-2}
export MLFLOW_TRACKING_URI="sqlite:///$folder/mlflow.db"
sets=(
  "kernels=mlp_1_dual_triton,mlp_1_accumulate_triton batches=128,1024,4096"
  "kernels=mlp_2_dual_triton,mlp_2_accumulate_triton batches=128,512,1024"
  "kernels=mlp_1_prefill_triton,mlp_2_prefill_triton prompt_batches=4,16,64"
  "kernels=layer batches=1,16,128"
)
{
  date -u +'%Y-%m-%d %H:%M UTC'
  uname -srm
  nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader
  git log -1 --format='commit %h %s' 2>/dev/null
  for ((turn = 1; turn <= times; turn++)); do
    for set in "${sets[@]}"; do
      arguments=()
      for setting in $set; do arguments+=(-P "$setting"); done
      echo
      echo "\$ mlflow run . -e micro --env-manager=local ${arguments[*]}"
      began=$(date +%s)
      mlflow run . -e micro --env-manager=local "${arguments[@]}" -P "logdir=$folder/runs" 2>&1 | grep -v ' INFO mlflow'
      echo "exit code ${PIPESTATUS[0]}, $(($(date +%s) - began)) s in all"
    done
  done
} 2>&1 | tee "$folder/micro.txt"
