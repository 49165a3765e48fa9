#!/usr/bin/env bash
# The decode sweep: Mamba, TTT-Linear and TTT-MLP with all batch sizes. Each configuration is one `mlflow run`, one
# after another. At the end, the script prints the table of all runs.
set -euo pipefail

usage() {
    cat <<'TEXT'
Usage: ./scripts/sweep_decode.sh [OPTIONS] [-P name=value ...]

  --models LIST    MODEL or MODEL:INNER_NET, comma-separated
                   [default: state-spaces/mamba-1.4b,ttt-1b:mlp_1_dual_triton,ttt-1b:mlp_2_dual_triton]
  --batches LIST   batch sizes, comma-separated [default: 128,256,512,1024,2048,4096,8192]
  --genlen N       decode steps [default: 2048]
  --logdir D       folder for the records on disk [default: ./exp/sweep-<date>-<time>]
  --dry-run        print the commands and run nothing
  --help           show this text
  -P name=value    passed on to every `mlflow run` (dtype, max_seconds, device, ...)

A configuration that fails or does not fit into memory is recorded, and the sweep continues. Ctrl-C ends the sweep.

Exit code: 0 all were measured or did not fit, 1 some failed for another reason, 129, 130 and 143 stopped by
a terminal that went away, by Ctrl-C and by SIGTERM.

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
dry_run=false
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
    --dry-run) dry_run=true && shift ;;
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
IFS=, read -ra models <<<"$models"
IFS=, read -ra batches <<<"$batches"
[[ ${#models[@]} -gt 0 && ${#batches[@]} -gt 0 ]] || fail "--models and --batches need at least one entry each"
logdir=$(realpath -m -- "${logdir:-$project/exp/sweep-$(date +%Y%m%d-%H%M%S)}")

"$dry_run" || prepare_environment
absolute_paths "${passed[@]}"
passed=("${arguments[@]}")
cd "$project"

# The newest record in the log folder, as "<journal id> <status>"; empty if there is none.
newest_record() {
    python - "$logdir" <<'PYTHON'
import json, pathlib, sys
records = sorted(pathlib.Path(sys.argv[1]).glob("*/status.json"))
if records:
    print(records[-1].parent.name, json.loads(records[-1].read_text())["status"])
PYTHON
}

# Each run is a job with its own process group, so that a signal reaches only this script, which forwards it once.
set -m
ended_by=
child=
end() {
    if [[ -z $ended_by && -n $child ]]; then
        kill -INT -- "-$child" 2>/dev/null || true
    fi
    ended_by=${ended_by:-$1}
}
trap 'end INT' INT
trap 'end TERM' TERM
trap 'end HUP' HUP

failed=()
before=
"$dry_run" || before=$(newest_record)
for model in "${models[@]}"; do
    for batch in "${batches[@]}"; do
        parameters=(-P "model_name=${model%%:*}" -P mode=decode -P "batch=$batch" -P "genlen=$genlen")
        [[ $model != *:* ]] || parameters+=(-P "inner_net=${model#*:}")
        [[ " ${passed[*]}" == *" promptlen="* ]] || parameters+=(-P promptlen=1)
        parameters+=(-P "logdir=$logdir" "${passed[@]}")
        if "$dry_run"; then
            choose_experiment
            command=(mlflow run . --env-manager=local "${experiment[@]}" "${parameters[@]}")
        else
            choose_command "${parameters[@]}"
        fi
        printf "+%s\n" "$(printf " %q" "${command[@]}")" || if "$dry_run"; then exit 1; fi # a sweep goes on
        "$dry_run" && continue

        "${command[@]}" &
        child=$!
        status=0
        wait "$child" || status=$?
        while kill -0 "$child" 2>/dev/null; do # a signal ends the wait, but not the run, which still records
            wait "$child" || status=$?
        done
        child=
        [[ -z $ended_by ]] || break 2

        record=$(newest_record)
        outcome=${record#* }
        [[ $record != "$before" ]] || outcome="refused before anything was measured"
        before=$record
        if [[ $status -ne 0 && $outcome != oom ]]; then
            [[ $outcome != ok ]] || outcome="measured but not published"
            failed+=("$model batch $batch: $outcome")
        fi
    done
done
set +m
"$dry_run" && exit

if [[ -d $logdir ]]; then
    python -m ttt_mlflow table "$logdir" --sort date --limit 0 || failed+=("the table of all runs is not complete")
fi
if [[ -n $ended_by ]]; then
    echo "Stopped by SIG$ended_by before all configurations were measured." >&2
    exit $((128 + $(kill -l "$ended_by")))
fi
if [[ ${#failed[@]} -gt 0 ]]; then
    printf 'Failed: %s\n' "${failed[@]}" >&2
    exit 1
fi
