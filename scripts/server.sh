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
  --host HOST      address to listen on; 0.0.0.0 allows other machines to connect [default: 127.0.0.1]
  --port PORT      [default: 5000]
  --help           show this text

Prints the line that a client needs once the server is up. Ctrl-C stops it. A password belongs into the variables, not
into the options: every user of this machine sees the options of a process.
TEXT
}

# shellcheck source=lib/environment.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib/environment.sh"

given=("$@")
database=${MLFLOW_BACKEND_STORE_URI:-}
artifacts=${MLFLOW_ARTIFACTS_DESTINATION:-}
host=127.0.0.1
port=5000
others=()
while [[ $# -gt 0 ]]; do
    case $1 in
    --database | --backend-store-uri | --artifacts | --artifacts-destination | --host | --port)
        [[ $# -ge 2 ]] || fail "$1 needs a value (see --help)"
        ;;&
    --database | --backend-store-uri) database=$2 && shift 2 ;;
    --artifacts | --artifacts-destination) artifacts=$2 && shift 2 ;;
    --host) host=$2 && shift 2 ;;
    --port) port=$2 && shift 2 ;;
    --database=* | --backend-store-uri=* | --artifacts=* | --artifacts-destination=* | --host=* | --port=*)
        set -- "${1%%=*}" "${1#*=}" "${@:2}"
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
    exec "${BASH_SOURCE[0]}" --host "$host" --port "$port" "${others[@]}"
fi
[[ $port =~ ^[0-9]+$ && $port -ge 1 && $port -le 65535 ]] || fail "--port $port: a port is a number from 1 to 65535"

case $database in
postgres*) prepare_environment postgresql ;; # with the driver
*) prepare_environment ;;
esac
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

[[ -n $database && -n $artifacts ]] || mkdir -p "$project/mlflow-server"
database=${database:-sqlite:///$project/mlflow-server/mlflow.db}
artifacts=${artifacts:-$project/mlflow-server/artifacts}
export MLFLOW_BACKEND_STORE_URI=$database MLFLOW_ARTIFACTS_DESTINATION=$artifacts

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
trap 'kill -TERM -- "-$server" 2>/dev/null || true' EXIT # whatever ends this script

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
    echo "The tracking server is up: runs in $database, artifacts in $artifacts" | project_python redact.py
    if [[ $host == 127.0.0.1 || $host == localhost || $host == ::1 ]]; then
        echo "Only this machine can reach it; --host 0.0.0.0 allows other machines. A client needs:"
    else
        echo "A client needs:"
    fi
    echo "export MLFLOW_TRACKING_URI=http://$known_as:$port"
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
