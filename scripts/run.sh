#!/usr/bin/env bash
# The main job: one decode benchmark as one MLflow run, in its own environment.
#
#   ./scripts/run.sh                            ttt-1b with a Triton inner net; without a GPU, a small model
#   ./scripts/run.sh -P batch=32 -P genlen=128  arguments are passed on to `mlflow run`
#
# The experiment is ttt-mlflow, unless --experiment-name, MLFLOW_EXPERIMENT_NAME or MLFLOW_EXPERIMENT_ID names another.
set -euo pipefail
# shellcheck source=lib/environment.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib/environment.sh"

prepare_environment
prepare_mamba "$@"
prepare_peers "$@"
absolute_paths "$@"
set -- "${arguments[@]}"
cd "$project"

# whether `-P name=…` is among the arguments
given() {
    local name=$1 argument
    shift
    for argument in "$@"; do
        [[ ${argument#-P} == "$name="* || $argument == --param-list="$name="* ]] && return 0
    done
    return 1
}

small=()
if ! python -c 'import sys, torch; sys.exit(not torch.cuda.is_available())'; then
    # about a minute on two cores
    for default in model_name=ttt-125m batch=2 genlen=32 max_seconds=30; do
        given "${default%%=*}" "$@" || small+=(-P "$default")
    done
    [[ ${#small[@]} -eq 0 ]] || echo "No GPU was found: measuring with ${small[*]}" >&2 || true # nobody may take it
fi
choose_command "${small[@]}" "$@"
exec "${command[@]}"
