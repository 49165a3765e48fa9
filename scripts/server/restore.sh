#!/usr/bin/env bash
# The team's server from a backup.
set -euo pipefail

usage() {
    cat <<'TEXT'
Usage: ./scripts/server/restore.sh --from BACKUP [OPTIONS]

Reads all files of a backup and compares them with its manifest, then makes the database, the accounts and the artifacts
from it. Every place must be empty: nothing is replaced. A PostgreSQL database must be there, without tables.

  --from BACKUP    a folder that backup.sh made
  --folder DIR     folder of what the server keeps itself [default: <project>/mlflow-server]
  --database URI   as for server.sh [default: MLFLOW_BACKEND_STORE_URI, else sqlite:///<folder>/mlflow.db]
  --artifacts URI  as for server.sh [default: MLFLOW_ARTIFACTS_DESTINATION, else <folder>/artifacts]
  --help           show this text

  ./scripts/server/restore.sh --from /backup/20261129T020000Z
  ./scripts/server/restore.sh --from /backup/20261129T020000Z --database postgresql://mlflow@host/new --folder /srv/new

Exit code: 0 restored, 2 refused, 1 failed; what was begun is removed then. The places need not be those of the backup.
TEXT
}

# shellcheck source=places.sh
source "$(dirname "${BASH_SOURCE[0]}")/places.sh"

take_places "--from" "" "$@"
[[ -n ${given[--from]:-} ]] || refuse "give the backup with --from (see --help)"
become restore "${given[--from]}" "${given[--folder]}"
