#!/usr/bin/env bash
# The whole-model decode benchmarks that benchmarks/README.md reports, one `mlflow run` each.
#
#   benchmarks/decode.sh OUTPUT_FOLDER [genlen]
#
# Runs in the current Python environment. The records go to OUTPUT_FOLDER/runs, the output to OUTPUT_FOLDER/decode.txt,
# and MLflow's store to OUTPUT_FOLDER/mlflow.db.
set -uo pipefail
cd "$(dirname "$0")/.."
folder=$(mkdir -p "${1:?name a folder for the output}" && cd "$1" && pwd)
genlen=${2:-128}
export MLFLOW_TRACKING_URI="sqlite:///$folder/mlflow.db"
configurations=(
  "model_name=ttt-1b inner_net=mlp_1_dual_triton batch=128"
  "model_name=ttt-1b inner_net=mlp_1_dual_triton batch=1024"
  "model_name=ttt-1b inner_net=mlp_2_dual_triton batch=128"
  "model_name=ttt-1b inner_net=mlp_2_dual_triton batch=1024"
  "model_name=state-spaces/mamba-1.4b batch=1024"
  "model_name=ttt-1b inner_net=mlp_2_dual_triton batch=2048"
  "model_name=ttt-1b inner_net=mlp_1_dual_triton batch=8192"
)
{
  date -u +'%Y-%m-%d %H:%M UTC'
  uname -srm
  nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader
  git log -1 --format='commit %h %s' 2>/dev/null
  python3 -m ttt_mlflow doctor --measure # the card's limits, for the roofline
  for configuration in "${configurations[@]}"; do
    arguments=()
    for setting in $configuration promptlen=1 "genlen=$genlen" dtype=float16 cuda_graph=true max_seconds=25; do
      arguments+=(-P "$setting")
    done
    echo
    echo "\$ mlflow run . --env-manager=local ${arguments[*]}"
    began=$(date +%s)
    mlflow run . --env-manager=local "${arguments[@]}" -P "logdir=$folder/runs" 2>&1 | grep -v ' INFO mlflow'
    echo "exit code ${PIPESTATUS[0]}, $(($(date +%s) - began)) s in all"
  done
} 2>&1 | tee "$folder/decode.txt"
