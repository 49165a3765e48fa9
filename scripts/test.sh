#!/usr/bin/env bash
# Lint, types and tests, in an environment of its own. Arguments go to pytest:
#
#   ./scripts/test.sh                 everything that needs no GPU
#   ./scripts/test.sh -m gpu          what needs one
#   ./scripts/test.sh tests/test_cli.py
set -euo pipefail
# shellcheck source=lib/environment.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib/environment.sh"
# shellcheck source=lib/programs.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib/programs.sh"

prepare_environment dev
cd "$project"
ruff check .
mypy
if [[ $# -eq 0 ]]; then
  prepare_programs
  # all of them: in several processes, each with one thread so that they do not get in each other's way; in their own
  # order, since the files with the fewest tests, which would come last, are among the longest
  export OMP_NUM_THREADS=1
  set -- -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder
fi
python -m pytest -m "not gpu" "$@"
