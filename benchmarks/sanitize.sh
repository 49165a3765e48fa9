#!/usr/bin/env bash
# The decode kernels under NVIDIA's compute-sanitizer: memory accesses, races in shared memory, uninitialized reads.
#
#   benchmarks/sanitize.sh OUTPUT_FOLDER [tool ...]      tools: memcheck racecheck initcheck [default: these three]
#
# Runs in the current Python environment. The output of each tool goes to OUTPUT_FOLDER/<tool>.txt.
# Exit code: 0 no tool reported anything, 1 a tool reported something, 2 a tool could not run.
set -uo pipefail
cd "$(dirname "$0")/.." || exit 2
if [[ $# -eq 0 ]]; then
  echo "usage: benchmarks/sanitize.sh OUTPUT_FOLDER [tool ...]" >&2
  exit 2
fi
mkdir -p "$1" && folder=$(cd "$1" && pwd) || exit 2
shift
tools=("$@")
[[ ${#tools[@]} -gt 0 ]] || tools=(memcheck racecheck initcheck)

# On the PATH, or where the CUDA toolkit and Nsight Compute are installed.
find_sanitizer() {
  command -v compute-sanitizer && return
  local found
  for found in "${CUDA_HOME:-/usr/local/cuda}"/bin/compute-sanitizer /usr/local/cuda*/bin/compute-sanitizer \
    /usr/local/cuda*/compute-sanitizer/compute-sanitizer /opt/cuda/bin/compute-sanitizer \
    /opt/nvidia/nsight-compute/*/host/*/compute-sanitizer /opt/nvidia/nsight-compute/*/compute-sanitizer; do
    [[ -x $found ]] && echo "$found" && return
  done
  return 1
}

if ! sanitizer=$(find_sanitizer); then
  echo "compute-sanitizer was not found on the PATH, in \$CUDA_HOME, /usr/local/cuda* or Nsight Compute's folders." \
    "It comes with the CUDA toolkit: put its bin folder on the PATH." >&2
  exit 2
fi
"$sanitizer" --version

# First without the sanitizer: this fills Triton's cache, and a failure here is not the sanitizer's.
export PYTORCH_NO_CUDA_MEMORY_CACHING=1
if ! python -m benchmarks.sanitize >"$folder/plain.txt" 2>&1; then
  echo "the kernels already fail without compute-sanitizer:" >&2
  tail -n 20 "$folder/plain.txt" >&2
  exit 2
fi

status=0
for tool in "${tools[@]}"; do
  began=$(date +%s)
  # 9: the tool reported something; any other code is the program's, or means that the tool cannot run here
  "$sanitizer" --tool "$tool" --error-exitcode 9 python -m benchmarks.sanitize >"$folder/$tool.txt" 2>&1
  code=$?
  echo "$tool: exit code $code, $(grep -c '^OK' "$folder/$tool.txt") kernels OK, $(($(date +%s) - began)) s:" \
    "$(grep -E '(ERROR|RACECHECK) SUMMARY' "$folder/$tool.txt" | tail -n 1)"
  case $code in
    0) ;;
    9) [[ $status -eq 2 ]] || status=1 ;;
    *)
      status=2
      tail -n 5 "$folder/$tool.txt" >&2
      ;;
  esac
done
exit "$status"
