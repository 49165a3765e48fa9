# Sourced by the scripts in this folder: sets up the project's Python environment.
# shellcheck shell=bash

# nothing is sent to or downloaded from another host at run time
export MLFLOW_DISABLE_TELEMETRY=${MLFLOW_DISABLE_TELEMETRY:-true}

# MLflow ends with a traceback for a user without a home folder or a name, as some containers have
[[ -v HOME ]] || export HOME=~
id -un >/dev/null 2>&1 || export LOGNAME=${LOGNAME:-${USER:-$UID}}

project=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
started_in=$PWD

# white space around an address, such as the line feed at the end of a file, is no part of it
if [[ ${MLFLOW_TRACKING_URI:-} =~ ^[[:space:]]*[hH][tT][tT][pP][sS]?: ]]; then
    read -rd '' MLFLOW_TRACKING_URI <<<"$MLFLOW_TRACKING_URI" || true
    export MLFLOW_TRACKING_URI
fi

fail() {
    echo "Error: $*" >&2
    exit 1
}

# at_home PATH: the path, in which a leading ~ is the home folder. The shell leaves the one in --folder=~/server as it is.
at_home() {
    [[ $1 != "~" && $1 != "~/"* ]] || set -- "$HOME${1#"~"}"
    printf '%s\n' "$1"
}

# Find a Python that the project supports and that can create environments.
find_python() {
    local candidate
    for candidate in python3.11 python3.12 python3 python; do
        if "$candidate" -c 'import sys, ensurepip, venv; sys.exit(sys.version_info[:2] not in [(3, 11), (3, 12)])' \
            >/dev/null 2>&1; then
            command -v "$candidate"
            return
        fi
    done
    fail "no Python 3.11 or 3.12 with the venv module was found on PATH; install one" \
        "(for example: apt install python3.11 python3.11-venv)"
}

# prepare_environment [EXTRA]: create .venv with the pinned dependencies, once, and put it first on PATH.
# A second call installs nothing: a stamp has the hash of pyproject.toml and constraints.txt.
# TTT_MLFLOW_ENV=current uses the python and the mlflow on PATH, and installs nothing. It is for a host with an existing
# environment, such as a GPU host without a network.
prepare_environment() {
    local extra=${1:-}
    if [[ ${TTT_MLFLOW_ENV:-} == current ]]; then
        command -v python >/dev/null && command -v mlflow >/dev/null ||
            fail "TTT_MLFLOW_ENV=current, but there is no python or no mlflow on PATH; activate one"
        return
    fi
    local venv=$project/.venv
    if ! "$venv/bin/python" -m pip --version >/dev/null 2>&1; then
        local python
        python=$(find_python) || exit 1
        echo "Creating $venv with $("$python" --version)" >&2
        "$python" -m venv --clear "$venv"
    fi
    export VIRTUAL_ENV=$venv PATH=$venv/bin:$PATH
    unset PYTHONHOME

    local hash stamp
    hash=$(python -c 'import hashlib, sys
print(hashlib.sha256(b"".join(open(name, "rb").read() for name in sys.argv[1:])).hexdigest())' \
        "$project/pyproject.toml" "$project/constraints.txt")
    stamp=$venv/installed${extra:+-$extra}
    if [[ -f $stamp && $(<"$stamp") == "$hash" ]]; then
        return
    fi
    echo "Installing the pinned dependencies into $venv (once; the log is $venv/install.log)" >&2
    if ! python -m pip install --disable-pip-version-check --no-compile --constraint "$project/constraints.txt" \
        --editable "$project${extra:+[$extra]}" >"$venv/install.log" 2>&1; then
        tail -n 20 "$venv/install.log" >&2
        fail "the installation failed; see the whole log in $venv/install.log"
    fi
    # pip would compile on one core, as long as all the rest of an installation takes; files for another Python fail
    python -m compileall -qq -j 0 "$venv/lib" >>"$venv/install.log" 2>&1 || true
    echo "$hash" >"$venv/installed" # the requirements of an extra include those of the project
    echo "$hash" >"$stamp"
}

# prepare_peers [ARGUMENT ...]: if an argument names a model of flash-linear-attention, install the extra peers, once.
prepare_peers() {
    [[ "$*" != *gated-deltanet* && "$*" != *rwkv7* ]] || prepare_environment peers
}

# prepare_mamba [ARGUMENT ...]: if an argument names a Mamba model, install mamba-ssm and causal-conv1d, once, where a CUDA
# compiler can build them. Where there is none, or the build fails, the command itself says what is missing.
prepare_mamba() {
    local nvcc
    [[ ${TTT_MLFLOW_ENV:-} != current && "$*" == *mamba* ]] || return 0
    ! python -c 'import importlib.util as modules, sys
sys.exit(not all(map(modules.find_spec, ("mamba_ssm", "causal_conv1d"))))' || return 0
    nvcc=$(command -v "${CUDA_HOME:-/usr/local/cuda}/bin/nvcc" || command -v nvcc) || return 0
    echo "Building mamba-ssm and causal-conv1d with $nvcc (once, minutes; the log is $VIRTUAL_ENV/mamba.log)" >&2
    while sleep 15 >/dev/null 2>&1 && kill -0 $$ 2>/dev/null; do
        echo "  still building after $SECONDS s: $(tail -n 1 "$VIRTUAL_ENV/mamba.log" | cut -c -100)" >&2
    done &
    local progress=$! pip=(python -m pip install --disable-pip-version-check --constraint "$project/constraints.txt")
    if ! "${pip[@]}" setuptools wheel packaging ninja >"$VIRTUAL_ENV/mamba.log" 2>&1 ||
        ! "${pip[@]}" --no-build-isolation --editable "$project[mamba]" >>"$VIRTUAL_ENV/mamba.log" 2>&1; then
        tail -n 5 "$VIRTUAL_ENV/mamba.log" >&2
        echo "Warning: mamba-ssm could not be built; see the whole log in $VIRTUAL_ENV/mamba.log" >&2
    fi
    kill "$progress" 2>/dev/null || true
}

# Run a program of scripts/lib with this project's package.
project_python() {
    PYTHONPATH=$project${PYTHONPATH:+:$PYTHONPATH} python "$project/scripts/lib/$1"
}

# Whether MLflow's client can work with the store of MLFLOW_TRACKING_URI: the same certificates, credentials and proxies,
# within ten seconds.
tracking_store_answers() {
    project_python check_store.py 2>/dev/null
}

# choose_experiment [ARGUMENT ...]: put the option for the experiment ttt-mlflow into the array `experiment`, or nothing if
# the arguments or MLflow's variables name one. Without it, `mlflow run` uses MLflow's own experiment "Default".
choose_experiment() {
    local argument
    experiment=()
    for argument in "$@"; do
        [[ $argument != --experiment-name* && $argument != --experiment-id* ]] || return 0
    done
    [[ -n ${MLFLOW_EXPERIMENT_NAME:-}${MLFLOW_EXPERIMENT_ID:-} ]] || experiment=(--experiment-name ttt-mlflow)
}

# absolute_paths [ARGUMENT ...]: put the arguments of `mlflow run` into the array `arguments`. Relative paths in them, and
# that of an SQLite store, are those of the folder in which the script was started. Call it before another is entered.
absolute_paths() {
    local argument
    arguments=()
    for argument in "$@"; do
        if [[ $argument =~ ^(-P|--param-list=)?(logdir|checkpoint)=([^/~].*)$ && ${BASH_REMATCH[3]} != auto ]]; then
            argument=${BASH_REMATCH[1]}${BASH_REMATCH[2]}=$started_in/${BASH_REMATCH[3]}
        fi
        arguments+=("$argument")
    done
    if [[ ${MLFLOW_TRACKING_URI:-} =~ ^([sS][qQ][lL][iI][tT][eE]:///)([^/:].*)$ ]]; then
        export MLFLOW_TRACKING_URI=${BASH_REMATCH[1]}$started_in/${BASH_REMATCH[2]}
    fi
}

# choose_command [-P name=value ...]: put the command that measures one configuration into the array `command`. This is
# `mlflow run`. It cannot start without its tracking store, so if the store does not answer, the command is this
# package itself, which measures and keeps the record on disk.
choose_command() {
    local experiment
    choose_experiment "$@"
    command=(mlflow run . --env-manager=local "${experiment[@]}" "$@")
    ! tracking_store_answers || return 0
    command=(python -m ttt_mlflow run)
    while [[ $# -gt 0 ]]; do
        case $1 in
        -P | --param-list) command+=("--$2") && shift 2 ;;
        -P*) command+=("--${1#-P}") && shift ;;
        --param-list=*) command+=("--${1#--param-list=}") && shift ;;
        --experiment-name) command+=("$1=$2") && shift 2 ;;
        --experiment-name=*) command+=("$1") && shift ;;
        *) fail "the store of MLFLOW_TRACKING_URI does not answer; without it, only -P name=value and --experiment-name are supported, not $1" ;;
        esac
    done
}
