#!/usr/bin/env bash
# The tables of the team's server for a newer MLflow.
set -euo pipefail

usage() {
    cat <<'TEXT'
Usage: ./scripts/server/upgrade.sh --backup-to DIR [OPTIONS]

Brings the tables of the server's database to the MLflow of this project, as `mlflow db upgrade` does, after a backup of
the database and the accounts. The server must be stopped. There is no way back but the backup.

  --backup-to DIR  an existing folder; the backup is a new folder in it
  --no-backup      make none: if the upgrade fails, the runs may be lost
  --folder DIR     folder of what the server keeps itself [default: <project>/mlflow-server]
  --database URI   as for server.sh [default: MLFLOW_BACKEND_STORE_URI, else sqlite:///<folder>/mlflow.db]
  --help           show this text

  ./scripts/server/upgrade.sh --backup-to /backup
  ./scripts/server/upgrade.sh --backup-to /backup --database postgresql://mlflow@host/runs

Exit code: 0 upgraded, or there was nothing to do; 2 refused, nothing was changed; 1 failed.
TEXT
}

# shellcheck source=places.sh
source "$(dirname "${BASH_SOURCE[0]}")/places.sh"

take_places "--backup-to" "--no-backup" "$@"
if [[ -n ${given[--backup-to]:-} ]]; then
    [[ -z ${given[--no-backup]:-} ]] || refuse "--backup-to and --no-backup: give one of the two"
elif [[ -z ${given[--no-backup]:-} ]]; then
    refuse "an upgrade cannot be taken back; give a folder for a backup with --backup-to, or --no-backup"
fi
become upgrade "${given[--folder]}" "${given[--backup-to]:-}"
