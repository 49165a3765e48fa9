#!/usr/bin/env bash
# Adds a person to the accounts of a team's server.
set -euo pipefail

# shellcheck source=../lib/environment.sh
source "$(dirname "${BASH_SOURCE[0]}")/../lib/environment.sh"
# shellcheck source=accounts.sh
source "$(dirname "${BASH_SOURCE[0]}")/accounts.sh"

prepare_environment
# the terminal stays the input and the error output of the program, which asks there for passwords
server_python add_person.py "$@"
