#!/usr/bin/env bash
# MLflow's tracking server for a team.
set -euo pipefail

usage() {
    cat <<'TEXT'
Usage: ./scripts/server.sh [OPTIONS] [OPTIONS OF mlflow server]

  --database URI   store of the runs: any URI that MLflow accepts, such as postgresql://user@host/mlflow
                   [default: MLFLOW_BACKEND_STORE_URI, else sqlite:///<project>/mlflow-server/mlflow.db]
  --artifacts URI  store of the artifacts: a folder, s3://bucket/path, ...; clients send artifacts through
                   the server [default: MLFLOW_ARTIFACTS_DESTINATION, else <project>/mlflow-server/artifacts]
  --folder DIR     folder of what this server keeps itself: the two defaults above, and the accounts
                   [default: <project>/mlflow-server]
  --host HOST      address to listen on; 0.0.0.0 allows other machines to connect [default: 127.0.0.1]
  --port PORT      [default: 5000]
  --public-url URL address under which clients reach this server through a proxy, such as https://mlflow.example.org
  --accounts       ask for a name and a password [default, unless only this machine reaches the server]
  --no-accounts    do not ask: whoever reaches the server can read, change and delete all runs
  --admin-password-file FILE
                   password of the first admin, for the first start with accounts [default: the variable
                   MLFLOW_AUTH_ADMIN_PASSWORD, else the terminal asks]; the admin's name is "admin" or
                   MLFLOW_AUTH_ADMIN_USERNAME
  --help           show this text

Prints the line that a client needs once the server is up. Ctrl-C stops it. A password belongs into a file or the
variables, not into the options: every user of this machine sees the options of a process. docs/server.md tells more.
TEXT
}

# shellcheck source=lib/environment.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib/environment.sh"
# shellcheck source=server/accounts.sh
source "$(dirname "${BASH_SOURCE[0]}")/server/accounts.sh"

given=("$@")
database=${MLFLOW_BACKEND_STORE_URI:-}
artifacts=${MLFLOW_ARTIFACTS_DESTINATION:-}
host=127.0.0.1
port=5000
folder=$project/mlflow-server
public_url=
accounts=
password_file=
app=
others=()
while [[ $# -gt 0 ]]; do
    case $1 in
    --database | --backend-store-uri | --artifacts | --artifacts-destination | --host | --port | --folder | \
        --public-url | --admin-password-file | --app-name)
        [[ $# -ge 2 ]] || fail "$1 needs a value (see --help)"
        ;;&
    --database | --backend-store-uri) database=$2 && shift 2 ;;
    --artifacts | --artifacts-destination) artifacts=$2 && shift 2 ;;
    --host) host=$2 && shift 2 ;;
    --port) port=$2 && shift 2 ;;
    --folder) folder=$(realpath -m -- "$2") && shift 2 ;;
    --public-url) public_url=${2%/} && shift 2 ;;
    --admin-password-file) password_file=$2 && shift 2 ;;
    --app-name) app=$2 && shift 2 ;;
    --accounts)
        [[ $accounts != no ]] || fail "--accounts and --no-accounts: give one of the two"
        accounts=yes && shift
        ;;
    --no-accounts)
        [[ $accounts != yes ]] || fail "--accounts and --no-accounts: give one of the two"
        accounts=no && shift
        ;;
    --admin-password | --admin-password=* | --password | --password=*)
        fail "${1%%=*}: every user of this machine sees the options of a process; give --admin-password-file FILE or" \
            "MLFLOW_AUTH_ADMIN_PASSWORD, or type it on the terminal"
        ;;
    --database=* | --backend-store-uri=* | --artifacts=* | --artifacts-destination=* | --host=* | --port=* | \
        --folder=* | --public-url=* | --admin-password-file=* | --app-name=*)
        set -- "${1%%=*}" "$(at_home "${1#*=}")" "${@:2}"
        ;;
    -h | --help) usage && exit ;;
    *) others+=("$1") && shift ;;
    esac
done
# `ps` shows the options of a process, but not its environment. So this script starts again without the URIs, and
# MLflow's server gets them as variables too.
export MLFLOW_BACKEND_STORE_URI=$database MLFLOW_ARTIFACTS_DESTINATION=$artifacts
[[ -n $database ]] || unset MLFLOW_BACKEND_STORE_URI
[[ -n $artifacts ]] || unset MLFLOW_ARTIFACTS_DESTINATION
if [[ " ${given[*]}" == *" --database"* || " ${given[*]}" == *" --backend-store-uri"* || " ${given[*]}" == *" --artifacts"* ]]; then
    own=(--host "$host" --port "$port" --folder "$folder")
    [[ -z $public_url ]] || own+=(--public-url "$public_url")
    [[ -z $password_file ]] || own+=(--admin-password-file "$password_file")
    [[ -z $app ]] || own+=(--app-name "$app")
    [[ $accounts != yes ]] || own+=(--accounts)
    [[ $accounts != no ]] || own+=(--no-accounts)
    exec "${BASH_SOURCE[0]}" "${own[@]}" "${others[@]}"
fi
[[ $port =~ ^[0-9]+$ && $port -ge 1 && $port -le 65535 ]] || fail "--port $port: a port is a number from 1 to 65535"

public_host=
[[ -z $public_url ]] || public_host=$(host_of "$public_url") ||
    fail "--public-url $(project_python redact.py <<<"$public_url"): give http(s)://host or http(s)://host:port, without" \
        "a user and a path"
[[ $accounts != yes || -z $app ]] || fail "--accounts is MLflow's app basic-auth; it and --app-name $app: give one of the two"
asked_for=$accounts
accounts=$(choose_accounts "$accounts" "$host" "$public_host" "$app")
[[ $accounts == yes || -z $password_file ]] || fail "--admin-password-file needs --accounts"

extras=()
[[ $database != postgres* ]] || extras+=(postgresql) # with the driver
[[ $accounts != yes ]] || extras+=(server)
[[ $artifacts != s3:* ]] || extras+=(s3)
prepare_environment "$(IFS=, && echo "${extras[*]}")"
python - "$host" "$port" <<'PYTHON' || exit 1
import socket, sys
host, port = sys.argv[1], int(sys.argv[2])
try:
    family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    with socket.socket(family, kind) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind(address)
except OSError as error:
    sys.exit(f"Error: cannot listen on {host} port {port}: {error.strerror}; choose another with --host or --port")
PYTHON

[[ -n $database && -n $artifacts && $accounts == no ]] || own_folder=$folder
database=${database:-sqlite:///$folder/mlflow.db}
artifacts=${artifacts:-$folder/artifacts}
export MLFLOW_BACKEND_STORE_URI=$database MLFLOW_ARTIFACTS_DESTINATION=$artifacts
PYTHONPATH=$project${PYTHONPATH:+:$PYTHONPATH} python -P -m scripts.server.check || exit 1
up=false
trap '"$up" || take_back' EXIT
[[ -z ${own_folder:-} ]] || make_folder "$own_folder"

if [[ $accounts == yes ]]; then
    prepare_accounts "$folder" "$password_file"
    app=basic-auth
elif [[ $asked_for == no ]]; then
    echo "No accounts: whoever reaches ${public_url:-$host port $port} can read, change and delete all runs and artifacts." >&2
fi
[[ -z $app ]] || others+=(--app-name "$app")

# The names under which clients know this server. MLflow refuses requests for unknown host names, and requests that the
# UI sends from a page of an unknown name. It allows loopback and private addresses by default.
case $host in
0.0.0.0 | ::)
    known_as=$(hostname -f 2>/dev/null || hostname)
    names=("$known_as" "$(hostname)")
    read -ra addresses <<<"$(hostname -I 2>/dev/null || true)"
    names+=("${addresses[@]}")
    probe=127.0.0.1
    ;;
*)
    known_as=$host
    [[ $host != *:* ]] || known_as="[$host]" # IPv6
    names=("$known_as")
    probe=$known_as
    ;;
esac
if [[ " ${others[*]}" != *" --allowed-hosts"* && " ${others[*]}" != *" --cors-allowed-origins"* ]]; then
    allowed=$(python -c 'from mlflow.server.security_utils import get_default_allowed_hosts as hosts
print(",".join(hosts()))')
    origins=
    for name in "${names[@]}"; do
        allowed+=",$name,$name:$port"
        origins+="${origins:+,}http://$name:$port"
    done
    if [[ -n $public_url ]]; then
        allowed+=",$public_host,${public_url#*://}"
        origins+=",$public_url"
    fi
    others+=(--allowed-hosts "$allowed" --cors-allowed-origins "$origins")
fi

# The server only keeps runs, so MLflow's job runner for evaluations is not needed.
export MLFLOW_SERVER_ENABLE_JOB_EXECUTION=${MLFLOW_SERVER_ENABLE_JOB_EXECUTION:-false}

# a job with its own process group, so that a signal reaches only this script, which stops the whole group once
set -m
mlflow server --host "$host" --port "$port" --serve-artifacts "${others[@]}" > >(project_python redact.py) 2>&1 &
server=$!
stopping=false
stop() {
    stopping=true
    kill -TERM -- "-$server" 2>/dev/null || true
}
trap stop INT TERM HUP
# whatever ends this script; after a stop by hand the accounts stay, with the password that was typed for them
trap 'kill -TERM -- "-$server" 2>/dev/null || true; "$up" || "$stopping" || take_back' EXIT

if python - "http://$probe:$port/health" "$server" <<'PYTHON'; then
import os, sys, time, urllib.error, urllib.request
url, server = sys.argv[1], int(sys.argv[2])
direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
while True:
    try:
        os.kill(server, 0)
    except ProcessLookupError:
        sys.exit(1)  # its output says why
    try:
        direct.open(url, timeout=5)
        break
    except (urllib.error.URLError, OSError):
        time.sleep(0.2)
PYTHON
    up=true
    echo "The tracking server is up: runs in $database, artifacts in $artifacts" | project_python redact.py
    if [[ $accounts == yes && -z $public_url ]] && ! is_this_machine "$host"; then
        echo "Names, passwords and runs cross the network unencrypted; docs/server.md shows a proxy with TLS." >&2
    fi
    if [[ -z $public_url ]] && is_this_machine "$host"; then
        echo "Only this machine can reach it; --host 0.0.0.0 allows other machines. A client needs:"
    else
        echo "A client needs:"
    fi
    echo "export MLFLOW_TRACKING_URI=${public_url:-http://$known_as:$port}"
    if [[ $accounts == yes ]]; then
        echo "and MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD. ./scripts/server/add_person.sh NAME adds a person."
    fi
fi

status=0
wait "$server" || status=$?
while kill -0 "$server" 2>/dev/null; do # a signal ends the wait, but not the server
    wait "$server" || status=$?
done
if "$stopping"; then
    echo "The tracking server has stopped."
    exit 0
fi
fail "the tracking server ended by itself with exit code $status"
