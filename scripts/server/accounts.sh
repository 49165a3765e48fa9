# Sourced by server.sh: whether the server asks for a name and a password, and what it needs for that.
# shellcheck shell=bash

is_this_machine() {
    [[ $1 == localhost || $1 == 127.* || $1 == ::1 || $1 == "[::1]" ]]
}

# host_of URL: the host in a URL without a path, such as https://mlflow.example.org:8443; fails for anything else.
host_of() {
    [[ $1 =~ ^https?://([A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(:[0-9]+)?/?$ ]] || return 1
    echo "${BASH_REMATCH[1]}"
}

# choose_accounts CHOICE HOST PUBLIC_HOST APP: print yes or no. CHOICE: what was asked for, yes, no or nothing.
# Whoever can reach a server without accounts may do everything with all runs, so only this machine's is without.
choose_accounts() {
    local choice=$1 host=$2 public_host=$3 app=$4
    if [[ -n $choice ]]; then
        echo "$choice"
    elif [[ -n $app ]] || { is_this_machine "$host" && is_this_machine "${public_host:-localhost}"; }; then
        echo no
    else
        echo yes
    fi
}

# What this start has made: files, and folders, the deepest first.
made_files=()
made_folders=()

# make_folder FOLDER: with its parents.
make_folder() {
    local missing=$1
    while [[ ! -e $missing ]]; do
        made_folders+=("$missing")
        missing=$(dirname -- "$missing")
    done
    mkdir -p -- "$1"
}

# Remove what a start has made that was refused, or failed before the server answered: its key and its admin would be
# taken for those of a server. A folder in which there is something else stays, and so does the store of the runs.
take_back() {
    [[ ${#made_files[@]} -eq 0 ]] || rm -f -- "${made_files[@]}"
    [[ ${#made_folders[@]} -eq 0 ]] || rmdir -- "${made_folders[@]}" 2>/dev/null || true
}

# prepare_accounts FOLDER [PASSWORD_FILE]: make the files of the accounts, the first admin too, and tell MLflow's server
# where they are. It needs the password of the admin for nothing more, so its environment has none.
prepare_accounts() {
    local folder=$1 password_file=${2:-}
    if [[ -n ${MLFLOW_AUTH_CONFIG_PATH:-} && $MLFLOW_AUTH_CONFIG_PATH != "$folder/accounts.ini" ]]; then
        fail "MLFLOW_AUTH_CONFIG_PATH=$MLFLOW_AUTH_CONFIG_PATH: this script keeps the settings of the accounts in" \
            "$folder/accounts.ini; unset the variable, or name that folder with --folder"
    fi
    local name
    for name in accounts.ini secret-key accounts.db; do
        [[ -e $folder/$name ]] || made_files+=("$folder/$name")
    done
    [[ -e $folder/accounts.db ]] || made_files+=("$folder/accounts.db"-{journal,wal,shm})
    server_python accounts.py "$folder" "$password_file" || exit 1
    if [[ -z ${MLFLOW_FLASK_SERVER_SECRET_KEY:-} ]]; then
        MLFLOW_FLASK_SERVER_SECRET_KEY=$(<"$folder/secret-key")
    fi
    export MLFLOW_FLASK_SERVER_SECRET_KEY MLFLOW_AUTH_CONFIG_PATH=$folder/accounts.ini
    unset MLFLOW_AUTH_ADMIN_USERNAME MLFLOW_AUTH_ADMIN_PASSWORD
}

# Run a program of this folder with this project's package.
server_python() {
    PYTHONPATH=$project${PYTHONPATH:+:$PYTHONPATH} python "$project/scripts/server/$1" "${@:2}"
}
