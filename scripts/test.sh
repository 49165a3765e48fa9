#!/usr/bin/env bash
# Lint, types and tests, in their own environment. Arguments are passed on to pytest:
#
#   ./scripts/test.sh                 everything that needs no GPU and does not take long
#   ./scripts/test.sh --long          the same, then the tests that take longer and further cases of quick ones; they may
#                                     install packages; then 2,000 examples of each property, of which the other tests
#                                     try a hundred
#   ./scripts/test.sh -m gpu          tests that need a GPU
#   ./scripts/test.sh tests/test_cli.py
set -euo pipefail
# shellcheck source=lib/environment.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib/environment.sh"
# shellcheck source=lib/programs.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib/programs.sh"

long=false
given=()
for argument in "$@"; do
  case $argument in
  --long) long=true ;;
  *) given+=("$argument") ;;
  esac
done
if "$long"; then
  for argument in "${given[@]}"; do
    [[ $argument != -m* ]] || fail "--long chooses tests by their marker, and so does $argument: give one of the two"
  done
fi

# With --long all rounds get the arguments, and a file may have tests for one of them alone: pytest's exit code 5, no
# tests, is a failure only where all rounds end with it.
no_tests=5
outcome=$no_tests
run_pytest() {
  local status=0
  python -m pytest "$@" || status=$?
  [[ $status -eq 0 || $status -eq $no_tests ]] || exit "$status"
  [[ $status -eq $no_tests ]] || outcome=0
}

prepare_environment dev
cd "$project"
ruff check .
mypy
if [[ ${#given[@]} -eq 0 ]]; then
  prepare_programs
  # once for the hundreds of processes that the tests start, also where PYTHONDONTWRITEBYTECODE keeps them from it
  python -m compileall -q ttt_mlflow scripts
  # All tests run in three processes, also on two cores, since many wait for servers and for other processes. Each
  # has one thread, so that they do not compete for cores. The files keep their own order, because the files with the
  # fewest tests, which would be last, are among the longest.
  OMP_NUM_THREADS=1 run_pytest -m "not gpu and not long" -n 3 --dist loadfile --no-loadscope-reorder
else
  run_pytest -m "not gpu and not long" "${given[@]}"
fi
if "$long"; then
  run_pytest -m "long and not gpu" "${given[@]}"
  run_pytest -m "properties and not gpu" --hypothesis-profile=thorough "${given[@]}"
fi
exit "$outcome"
