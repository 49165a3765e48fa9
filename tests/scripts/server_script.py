"""Folders of a server with accounts, and scripts/server.sh with stand-ins for what takes long."""

import os
import sqlite3
import sys
from contextlib import closing
from pathlib import Path

from werkzeug.security import generate_password_hash

from tests.project import ROOT, environment

SCRIPT = ROOT / "scripts/server.sh"
ADMINS = "correct-horse-battery"
LEGACY = "password1234"


def folder_with_admin(folder: Path, password: str = ADMINS) -> Path:
    """A server's folder in which the admin was made before, without MLflow, whose way to it takes seconds."""
    folder.mkdir(exist_ok=True)
    with closing(sqlite3.connect(folder / "accounts.db")) as connection, connection:
        connection.execute("CREATE TABLE users (id INTEGER PRIMARY KEY, username TEXT, password_hash TEXT)")
        hashed = generate_password_hash(password, method="pbkdf2:sha256:1000")
        connection.execute("INSERT INTO users (username, password_hash) VALUES ('admin', ?)", (hashed,))
    return folder


def without_mlflow(bin_folder: Path, **settings: str) -> dict[str, str]:
    """An environment whose ``mlflow server`` prints its arguments and its variables, and answers that it is healthy."""
    bin_folder.mkdir()
    program = bin_folder / "mlflow"
    program.write_text(
        f'#!/bin/sh\necho "arguments: $*"\nenv | sed "s/^/variable: /"\nexec {sys.executable} -c \''
        "import sys\nfrom http.server import BaseHTTPRequestHandler, HTTPServer\n"
        "class H(BaseHTTPRequestHandler):\n"
        "    def do_GET(self):\n        self.send_response(200); self.end_headers()\n"
        'HTTPServer(("127.0.0.1", int(sys.argv[sys.argv.index("--port") + 1])), H).serve_forever()\' "$@"\n'
    )
    program.chmod(0o755)
    env = environment()
    return env | {"PATH": f"{bin_folder}{os.pathsep}{env['PATH']}"} | settings
