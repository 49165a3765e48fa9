#!/usr/bin/env bash
# Lint, types and tests, in their own environment. Arguments are passed on to pytest:
#
#   ./scripts/test.sh                 everything that needs no GPU
#   ./scripts/test.sh -m gpu          tests that need a GPU
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
  # all tests run in several processes. Each has one thread, so that they do not compete for cores. The files keep their
  # own order, because the files with the fewest tests, which would be last, are among the longest
  export OMP_NUM_THREADS=1
  set -- -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder
fi
python -m pytest -m "not gpu" "$@"
