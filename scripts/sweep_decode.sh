#!/usr/bin/env bash
# The decode sweep: Mamba, TTT-Linear and TTT-MLP with all batch sizes. It translates its options into a command
# `ttt-mlflow sweep`, prints that command and runs it. The same command goes on where an earlier one was stopped.
set -euo pipefail

usage() {
    cat <<'TEXT'
Usage: ./scripts/sweep_decode.sh [OPTIONS] [-P name=value ...]

  --models LIST    MODEL or MODEL:INNER_NET, comma-separated
                   [default: state-spaces/mamba-1.4b,ttt-1b:mlp_1_dual_triton,ttt-1b:mlp_2_dual_triton]
  --batches LIST   batch sizes, comma-separated; max: the largest that fits
                   [default: 128,256,512,1024,2048,4096,8192]
  --genlen N       decode steps [default: 2048]
  --logdir D       folder for the records on disk [default: ./exp/sweep]
  --dry-run        print the runs with their predicted memory and time, and measure nothing
  --help           show this text
  -P name=value    any other option of `ttt-mlflow sweep` (dtype, max_seconds, device, gpus, redo, ...)

A configuration that fails or does not fit into memory is recorded, and the sweep continues. Ctrl-C ends the sweep.

Exit code: 0 all were measured or did not fit, 1 some failed, 2 bad input, 4 measured but not all published,
130 and 143 stopped by Ctrl-C and by SIGTERM.

Examples:
  ./scripts/sweep_decode.sh
  ./scripts/sweep_decode.sh --models ttt-1b:mlp_2_dual_triton --batches 128,512 --genlen 256 -P dtype=bfloat16
TEXT
}

# shellcheck source=lib/environment.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib/environment.sh"

models=state-spaces/mamba-1.4b,ttt-1b:mlp_1_dual_triton,ttt-1b:mlp_2_dual_triton
batches=128,256,512,1024,2048,4096,8192
genlen=2048
logdir=
more=()
passed=()
while [[ $# -gt 0 ]]; do
    case $1 in
    --models | --batches | --genlen | --logdir | -P | --param-list)
        [[ $# -ge 2 ]] || fail "$1 needs a value (see --help)"
        ;;&
    --models) models=$2 && shift 2 ;;
    --batches) batches=$2 && shift 2 ;;
    --genlen) genlen=$2 && shift 2 ;;
    --logdir) logdir=$2 && shift 2 ;;
    -P | --param-list) passed+=(-P "$2") && shift 2 ;;
    --models=* | --batches=* | --genlen=* | --logdir=*) set -- "${1%%=*}" "${1#*=}" "${@:2}" ;;
    -P*) passed+=(-P "${1#-P}") && shift ;;
    --dry-run) more+=(--dry-run) && shift ;;
    -h | --help) usage && exit ;;
    *) fail "$1: no such option; see --help" ;;
    esac
done
for parameter in "${passed[@]}"; do
    case $parameter in
    model_name=* | inner_net=*) fail "-P $parameter: not allowed in a sweep; give the models with --models" ;;
    batch=*) fail "-P $parameter: not allowed in a sweep; give the batches with --batches" ;;
    genlen=* | logdir=*) fail "-P $parameter: not allowed in a sweep; give it as --${parameter%%=*}" ;;
    esac
done
[[ -n $models && -n $batches ]] || fail "--models and --batches need at least one entry each"
logdir=$(realpath -m -- "${logdir:-$project/exp/sweep}")

prepare_environment
[[ ${#more[@]} -gt 0 ]] || { prepare_mamba "$models" && prepare_peers "$models"; } # not for a dry run
absolute_paths "${passed[@]}"
command=(ttt-mlflow sweep --model-name "$models" --batch "$batches" --genlen "$genlen" --logdir "$logdir" "${more[@]}")
for parameter in "${arguments[@]}"; do
    [[ $parameter == -P ]] || command+=("--$parameter")
done
cd "$project"
printf '+%s\n' "$(printf ' %q' "${command[@]}")" >&2
exec python -m ttt_mlflow "${command[@]:1}"
