#!/usr/bin/env bash
# Profiles of whole-model decode, as benchmarks/README.md reports them. Each model runs as a graph, without profiles and
# with all three. Then both TTT nets run eagerly, TTT-Linear also with a batch for which the GPU limits the speed.
#
#   benchmarks/profiles.sh OUTPUT_FOLDER [REGEX]
#
# REGEX selects from the configurations below. Runs in the current Python environment. The records go to
# OUTPUT_FOLDER/runs, the output to OUTPUT_FOLDER/profiles.txt, and MLflow's store to OUTPUT_FOLDER/mlflow.db.
set -uo pipefail
cd "$(dirname "$0")/.."
folder=$(mkdir -p "${1:?name a folder for the output}" && cd "$1" && pwd)
export MLFLOW_TRACKING_URI="sqlite:///$folder/mlflow.db"
configurations=()
for model in "inner_net=mlp_1_dual_triton" "inner_net=mlp_2_dual_triton" "model_name=state-spaces/mamba-1.4b"; do
  configurations+=("$model batch=1024" "$model batch=1024 profile=torch,nsys,memory")
done
for eager in "mlp_1_dual_triton batch=1024" "mlp_1_dual_triton batch=4096" "mlp_2_dual_triton batch=1024"; do
  configurations+=("inner_net=$eager use_compile=false cuda_graph=false profile=torch")
done
{
  date -u +'%Y-%m-%d %H:%M UTC'
  uname -srm
  nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader
  git log -1 --format='commit %h %s' 2>/dev/null
  python3 -m ttt_mlflow doctor --measure
  for configuration in "${configurations[@]}"; do
    [[ $configuration =~ ${2:-.} ]] || continue
    arguments=()
    for setting in $configuration genlen=128 max_seconds=16; do arguments+=(-P "$setting"); done
    echo
    echo "\$ mlflow run . --env-manager=local ${arguments[*]}"
    began=$(date +%s)
    mlflow run . --env-manager=local "${arguments[@]}" -P "logdir=$folder/runs" 2>&1 | grep -v ' INFO mlflow'
    echo "exit code ${PIPESTATUS[0]}, $(($(date +%s) - began)) s in all"
    record=$folder/runs/$(ls -t "$folder/runs" | head -1)
    [ -d "$record/artifacts/profiles" ] && find "$record/artifacts/profiles" -type f -printf '%P %s bytes\n' | sort
    [ -f "$record/artifacts/profiles/torch/kernels.md" ] && head -20 "$record/artifacts/profiles/torch/kernels.md"
    [ -f "$record/artifacts/profiles/memory/parts.md" ] && cat "$record/artifacts/profiles/memory/parts.md"
  done
} 2>&1 | tee "$folder/profiles.txt"
