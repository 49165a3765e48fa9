"""Makes what MLflow's accounts need in the server's folder: accounts.ini, secret-key, and accounts.db with an admin.

    python accounts.py FOLDER [FILE OF THE ADMIN'S PASSWORD]

The admin is made here and not by the server, whose environment would hold the password for as long as it runs.
"""

import configparser
import importlib.util
import io
import os
import secrets
import sqlite3
import sys
from contextlib import closing
from pathlib import Path

from passwords import LEAST, MLFLOWS_OWN, Refused, asked, checked, given, on_a_terminal

ADMIN = "MLFLOW_AUTH_ADMIN_USERNAME"
PASSWORD = "MLFLOW_AUTH_ADMIN_PASSWORD"
DEFAULTS = {
    "default_permission": "READ",  # of whoever has an account, for what nothing else was granted
    "authorization_function": "mlflow.server.auth:authenticate_request_basic_auth",
    "grant_default_workspace_access": "false",
    "admin_username": "admin",
    # A password is hashed for 0.2 s or more. Without the cache, that is for each request.
    "auth_cache_ttl_seconds": "60",
}


def prepare(folder: Path, password_file: str | None) -> None:
    """Look at everything that may be refused, and ask, before anything is written: a refusal leaves nothing behind."""
    if importlib.util.find_spec("flask_wtf") is None:
        raise Refused("--accounts: Flask-WTF is not installed; install it with `pip install 'ttt-mlflow[server]'`")
    config, database, key = folder / "accounts.ini", folder / "accounts.db", folder / "secret-key"
    try:
        before = config.read_text() if config.exists() else ""
    except UnicodeDecodeError:
        raise Refused(f"{config}: not the settings of accounts (it is not text)") from None
    settings = settings_in(before, config, database)
    own_key = not os.environ.get("MLFLOW_FLASK_SERVER_SECRET_KEY")
    if own_key and key.exists() and not key.read_text().strip():
        raise Refused(f"{key}: the file is empty; remove it, and the next start makes a new key")
    admin = settings["mlflow"]["admin_username"]
    kept = stored_hash(database, admin)
    password = new_password(admin, kept, given(password_file, PASSWORD))
    write_config(config, before, settings)
    if own_key:
        write_secret_key(key)
    if password is not None:
        make_admin(config, database, admin, password)
        say(f"The admin {admin} {'was made' if kept is None else 'has the new password'}.")


def settings_in(text: str, path: Path, database: Path) -> configparser.ConfigParser:
    """The settings in ``text``, that of ``path``, with what is missing in them, and where the accounts are."""
    settings = configparser.ConfigParser(interpolation=None)
    try:
        settings.read_string(text)
    except configparser.Error as error:
        raise Refused(f"{path}: not the settings of accounts ({str(error).splitlines()[0]})") from None
    if not settings.has_section("mlflow"):
        settings.add_section("mlflow")
    section = settings["mlflow"]
    for name, value in DEFAULTS.items():
        section.setdefault(name, value)
    section["database_uri"] = f"sqlite:///{database}"  # the folder may have been moved, or be a restored one
    if admin := os.environ.get(ADMIN):
        section["admin_username"] = admin
    return settings


def write_config(path: Path, before: str, settings: configparser.ConfigParser) -> None:
    """Write ``settings`` where they differ from ``before``, without a password."""
    if settings["mlflow"].pop("admin_password", None) is not None:
        say(f"{path}: the admin's password does not belong into this file and is removed from it; see --help")
    text = io.StringIO()
    settings.write(text)
    if text.getvalue().strip() != before.strip():
        write_private(path, text.getvalue())
    path.chmod(0o600)


def write_secret_key(path: Path) -> None:
    """MLflow signs with it what a form of the UI sends. It stays the same, so that a restart ends no session."""
    if not path.exists():
        write_private(path, secrets.token_hex(32) + "\n")
    path.chmod(0o600)


def write_private(path: Path, text: str) -> None:
    """Write ``text`` so that no other user can read it at any moment, and no crash leaves half of it."""
    new = path.with_name(f"{path.name}.{os.getpid()}")
    try:
        with open(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        new.replace(path)
    finally:
        new.unlink(missing_ok=True)


def new_password(admin: str, kept: str | None, password: str | None) -> str | None:
    """The password that the admin gets, ``password`` or one from the terminal; None if the one that is kept stays.

    kept: its hash, or None if there is no such admin yet. Older versions of MLflow came with a password, which goes.
    """
    if kept is not None and not is_password(kept, MLFLOWS_OWN):
        if password is not None and not is_password(kept, password):
            say(
                f"The admin {admin} has another password than the one that was given. It stays as it is: "
                "that of the first start counts (docs/server.md says how to change it)"
            )
        return None
    reason = "has no password yet" if kept is None else "has the password with which older versions of MLflow came"
    if password is None and on_a_terminal():
        say(f"The admin {admin} {reason}. Choose one of {LEAST} characters or more.")
        password = checked(asked(f"the admin {admin}"), "--accounts")
    if password is None:
        raise Refused(
            f"--accounts: the admin {admin} {reason}, and there is no terminal to ask on; give --admin-password-file "
            f"FILE or set {PASSWORD}, or start without accounts (--no-accounts): whoever reaches the server can then "
            "read, change and delete all runs"
        )
    return password


def make_admin(config: Path, database: Path, admin: str, password: str) -> None:
    """Make the admin, or replace the password. Raises Refused if MLflow does not do it."""
    by_mlflow(config, admin, password)
    database.chmod(0o600)
    if not is_password(stored_hash(database, admin) or "", password):
        raise Refused(f"{database}: MLflow did not store the password of {admin}")


def by_mlflow(config: Path, admin: str, password: str) -> None:
    """MLflow's own way from the settings to a database with an admin."""
    os.environ |= {"MLFLOW_AUTH_CONFIG_PATH": str(config), ADMIN: admin, PASSWORD: password}
    from ttt_mlflow.tracking.store import explain, known_errors, quiet_loggers

    os.umask(0o077)  # the hashes are for nobody's eyes
    try:
        with quiet_loggers():
            from mlflow.server.auth import bootstrap_admin_user

            bootstrap_admin_user()
    except known_errors() as error:
        raise Refused(f"{config}: the accounts cannot be made ({explain(error)})") from None


def stored_hash(database: Path, name: str) -> str | None:
    """The hash of somebody's password, without MLflow, whose import takes seconds at every start."""
    if not database.exists():
        return None
    try:
        with closing(sqlite3.connect(f"{database.absolute().as_uri()}?mode=ro", uri=True)) as connection:
            tables = connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'users'").fetchone()
            if tables is None:
                return None
            row = connection.execute("SELECT password_hash FROM users WHERE username = ?", (name,)).fetchone()
    except sqlite3.Error as error:
        raise Refused(f"{database}: the accounts cannot be read ({error}); restore them from a backup") from None
    return None if row is None else str(row[0])


def is_password(kept: str, password: str) -> bool:
    from werkzeug.security import check_password_hash

    return check_password_hash(kept, password)


def say(text: str) -> None:
    print(text, file=sys.stderr)


if __name__ == "__main__":
    import warnings

    warnings.simplefilter("ignore")  # those of MLflow's packages say nothing that an admin could do
    try:
        prepare(Path(sys.argv[1]).absolute(), sys.argv[2] if sys.argv[2:] and sys.argv[2] else None)
    except Refused as refused:
        sys.exit(f"Error: {refused}")
    except OSError as failed:
        sys.exit(f"Error: {failed.filename or sys.argv[1]}: {failed.strerror or failed}; --folder names another folder")
