# Sourced by backup.sh, restore.sh and upgrade.sh: where the server keeps what it has, as server.sh finds it.
# shellcheck shell=bash

# shellcheck source=../lib/environment.sh
source "$(dirname "${BASH_SOURCE[0]}")/../lib/environment.sh"

# Asked for wrongly: exit code 2, as for all that is refused.
refuse() {
    echo "Error: $*" >&2
    exit 2
}

# take_places "NAMES OF FURTHER OPTIONS WITH A VALUE" "NAMES OF FURTHER SWITCHES" ARGUMENT ...
# Fills the map `given` with the further options, and tells the programs where the stores are. `ps` shows the options of
# a process, but not its environment, so a script that was given URIs starts again without them.
take_places() {
    local -r valued=" --folder --database --artifacts $1 " switches=" $2 "
    local name again=false own=()
    shift 2
    declare -gA given=([--folder]=$project/mlflow-server)
    while [[ $# -gt 0 ]]; do
        name=${1%%=*}
        if [[ $1 == -h || $1 == --help ]]; then
            usage && exit
        elif [[ $valued == *" $name "* ]]; then
            if [[ $1 == *=* ]]; then
                given[$name]=$(at_home "${1#*=}") && shift
            else
                [[ $# -ge 2 ]] || refuse "$name needs a value (see --help)"
                given[$name]=$2 && shift 2
            fi
        elif [[ $switches == *" $1 "* ]]; then
            given[$1]=yes && shift
        else
            refuse "$name is no option of this script (see --help)"
        fi
    done
    given[--folder]=$(realpath -m -- "${given[--folder]}")
    for name in database artifacts; do
        [[ -n ${given[--$name]:-} ]] || continue
        again=true
        if [[ $name == database ]]; then
            export MLFLOW_BACKEND_STORE_URI=${given[--database]}
        else
            export MLFLOW_ARTIFACTS_DESTINATION=${given[--artifacts]}
        fi
    done
    if "$again"; then
        for name in "${!given[@]}"; do
            case $name in
            --database | --artifacts) ;;
            *) if [[ $switches == *" $name "* ]]; then own+=("$name"); else own+=("$name=${given[$name]}"); fi ;;
            esac
        done
        exec "$0" "${own[@]}"
    fi
    export MLFLOW_BACKEND_STORE_URI=${MLFLOW_BACKEND_STORE_URI:-sqlite:///${given[--folder]}/mlflow.db}
    export MLFLOW_ARTIFACTS_DESTINATION=${MLFLOW_ARTIFACTS_DESTINATION:-${given[--folder]}/artifacts}
    local extras=()
    [[ $MLFLOW_BACKEND_STORE_URI != postgres* ]] || extras+=(postgresql) # with the driver
    [[ $MLFLOW_ARTIFACTS_DESTINATION != s3:* ]] || extras+=(s3)
    prepare_environment "$(IFS=, && echo "${extras[*]}")"
}

# Become a program of this folder with this project's package; it gets the signals then.
become() {
    export PYTHONPATH=$project${PYTHONPATH:+:$PYTHONPATH}
    exec python -P -m "scripts.server.$1" "${@:2}"
}
