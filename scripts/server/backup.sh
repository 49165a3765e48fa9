#!/usr/bin/env bash
# A backup of the team's server.
set -euo pipefail

usage() {
    cat <<'TEXT'
Usage: ./scripts/server/backup.sh --to DIR [OPTIONS]

Copies the database, the accounts and the artifacts of the server into a new folder in DIR, and prints its name. The
server may run meanwhile. The folder is complete once manifest.json is in it, with the size and the SHA-256 of each file.

  --to DIR         an existing folder, on another disk than the server's
  --folder DIR     folder of what the server keeps itself [default: <project>/mlflow-server]
  --database URI   as for server.sh [default: MLFLOW_BACKEND_STORE_URI, else sqlite:///<folder>/mlflow.db]
  --artifacts URI  as for server.sh [default: MLFLOW_ARTIFACTS_DESTINATION, else <folder>/artifacts]
  --no-artifacts   leave the artifacts out, for a bucket that keeps versions itself
  --help           show this text

  ./scripts/server/backup.sh --to /backup
  MLFLOW_BACKEND_STORE_URI=postgresql://mlflow:PASSWORD@host/runs ./scripts/server/backup.sh --to /backup

Exit code: 0 complete, 2 refused, 1 failed, 4 complete, but some runs keep their artifacts elsewhere. Only 0 and 4 leave
a folder. A password belongs into the variables, not into the options.
TEXT
}

# shellcheck source=places.sh
source "$(dirname "${BASH_SOURCE[0]}")/places.sh"

take_places "--to" "--no-artifacts" "$@"
[[ -n ${given[--to]:-} ]] || refuse "give the folder of the backups with --to (see --help)"
become backup "${given[--to]}" "${given[--folder]}" ${given[--no-artifacts]:+--no-artifacts}
