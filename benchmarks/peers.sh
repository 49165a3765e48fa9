#!/usr/bin/env bash
# TTT beside its peers on one GPU: decode steps, prompts, decode over contexts. Each stage is a sweep.
#
#   benchmarks/peers.sh OUTPUT_FOLDER [SECONDS [STAGE ...]]
#
# The stages are the grids in benchmarks/peers: decode prefill crossing context long prefill-fla, in this order if none is
# named. Runs in the current Python environment. The records go to OUTPUT_FOLDER/runs, the output of a stage to
# OUTPUT_FOLDER/STAGE.txt, one table of all to OUTPUT_FOLDER/table.txt. It stops by itself within SECONDS (default:
# an hour). The same command with the same folder goes on.
#
# All cells of a stage are measured in one process, which saves the imports and the compiled kernels of each.
set -uo pipefail
usage="usage: benchmarks/peers.sh OUTPUT_FOLDER [SECONDS [STAGE ...]]"
here=$(dirname "$0")
[ -n "${1:-}" ] || { echo "$usage" >&2; exit 2; }
folder=$(mkdir -p "$1" && cd "$1" && pwd) || exit 2
cd "$here/.." || exit 2
budget=${2:-3600}
[[ $budget =~ ^[1-9][0-9]*$ ]] || { echo "SECONDS: $budget is no number of seconds; $usage" >&2; exit 2; }
stages=("${@:3}")
((${#stages[@]})) || stages=(decode prefill crossing context long prefill-fla)
for stage in "${stages[@]}"; do
  [ -f "benchmarks/peers/$stage.yaml" ] || { echo "no stage $stage: benchmarks/peers has no $stage.yaml; $usage" >&2; exit 2; }
done
export MLFLOW_TRACKING_URI="sqlite:///$folder/mlflow.db" PYTHONUNBUFFERED=1
ENDING=${ENDING:-10} # seconds that a stopped sweep has for its record, and the table after it
LEAST=${LEAST:-25}   # a stage that begins with fewer has no result
deadline=$((SECONDS + budget - ENDING))
failed=0

for stage in "${stages[@]}"; do
  left=$((deadline - SECONDS - ENDING))
  if ((left < LEAST)); then
    echo "$stage: not begun, $((left > 0 ? left : 0)) s left; the same command goes on"
    failed=1
    break
  fi
  echo "\$ ttt-mlflow sweep --grid benchmarks/peers/$stage.yaml --executor inline"
  timeout --foreground -s TERM -k "$ENDING" "$left" python3 -m ttt_mlflow sweep --grid "benchmarks/peers/$stage.yaml" \
    --executor inline --logdir "$folder/runs" --experiment-name peers > >(tee -ai "$folder/$stage.txt") 2>&1
  code=$? # no pipe, which would wait for a compiler's process that outlives the sweep
  echo "$stage: exit code $code after $SECONDS s in all"
  ((code)) && failed=1
  case $code in 124 | 130 | 137 | 143) break ;; esac # out of time, or stopped
done
timeout "$ENDING" python3 -m ttt_mlflow table "$folder/runs" --sort model,batch --columns \
  name,attn_impl,decode_step_ms_mean,prefill_tokens_per_s,throughput,half_width,verdict,compile_s,status \
  2>&1 | tee "$folder/table.txt"
exit "$failed"
