"""scripts/server.sh and accounts: who is asked for a name and a password, and where the passwords are."""

import os
import pty
import re
import stat
import subprocess
import sys
from pathlib import Path

import accounts
import passwords
import pytest
from hypothesis import given as for_all
from hypothesis import strategies as st

from tests.project import ROOT, Started, free_port, run, started
from tests.scripts.server_script import ADMINS, LEGACY, SCRIPT, folder_with_admin, without_mlflow


def chosen(*arguments: str) -> str:
    program = f'source {ROOT}/scripts/server/accounts.sh; choose_accounts "$@"'
    return subprocess.run(["bash", "-c", program, "bash", *arguments], capture_output=True, text=True).stdout.strip()


@pytest.mark.parametrize(
    ("choice", "host", "public_host", "app", "expected"),
    [
        ("", "127.0.0.1", "", "", "no"),
        ("", "localhost", "", "", "no"),
        ("", "127.0.1.1", "", "", "no"),
        ("", "::1", "localhost", "", "no"),
        ("", "0.0.0.0", "", "", "yes"),
        ("", "::", "", "", "yes"),
        ("", "10.0.0.5", "", "", "yes"),
        ("", "127.0.0.1", "mlflow.example.org", "", "yes"),  # a proxy lets other machines in
        ("", "0.0.0.0", "", "oidc-auth", "no"),  # an app with accounts of its own
        ("no", "0.0.0.0", "", "", "no"),
        ("yes", "127.0.0.1", "", "", "yes"),
    ],
)
def test_only_a_server_of_this_machine_is_without_accounts(
    choice: str, host: str, public_host: str, app: str, expected: str
) -> None:
    assert chosen(choice, host, public_host, app) == expected


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--accounts", "--no-accounts"], "--accounts and --no-accounts: give one of the two"),
        (["--no-accounts", "--accounts"], "--accounts and --no-accounts: give one of the two"),
        (["--admin-password=geheim"], "--admin-password: every user of this machine sees the options of a process"),
        (["--admin-password", "geheim"], "--admin-password: every user of this machine sees the options of a process"),
        (["--admin-password-file", "x"], "--admin-password-file needs --accounts"),
        (["--admin-password-file"], "--admin-password-file needs a value"),
        (["--accounts", "--app-name", "mine"], "it and --app-name mine: give one of the two"),
        (["--public-url", "https://me:geheim@host"], "--public-url https://host: give http(s)://host"),
        (["--public-url", "https://host/path"], "--public-url https://host/path: give http(s)://host"),
        (["--public-url", "mlflow.example.org"], "--public-url mlflow.example.org: give http(s)://host"),
    ],
    ids=lambda value: value if isinstance(value, str) else " ".join(value),
)
def test_options_that_contradict_or_tell_a_password(options: list[str], said: str, tmp_path: Path) -> None:
    done = run([str(SCRIPT), *options], without_mlflow(tmp_path / "bin"))
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert said in line
    assert "geheim" not in line


def test_another_machines_server_without_a_password_is_refused_with_the_reason(tmp_path: Path) -> None:
    options = ["--host", "0.0.0.0", "--port", str(free_port()), "--folder", str(tmp_path / "server")]
    done = run([str(SCRIPT), *options], without_mlflow(tmp_path / "bin"))
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert "the admin admin has no password yet, and there is no terminal to ask on" in line
    assert "(--no-accounts): whoever reaches the server can then read, change and delete all runs" in line
    assert not (tmp_path / "server").exists()
    assert not done.stdout


@pytest.mark.parametrize(
    "there",
    [
        pytest.param({}, id="a folder with an admin alone", marks=pytest.mark.long),
        pytest.param({"accounts.ini": "[mlflow]\ndefault_permission = EDIT\n"}, id="settings too"),
    ],
)
def test_a_server_that_never_answered_leaves_what_was_there(there: dict[str, str], tmp_path: Path) -> None:
    """MLflow refuses an option: it ends before it answers."""
    folder = folder_with_admin(tmp_path / "server")
    for name, text in there.items():
        (folder / name).write_text(text)
    env = without_mlflow(tmp_path / "bin")
    (tmp_path / "bin/mlflow").write_text("#!/bin/sh\necho 'Error: No such option: --nonsense' >&2\nexit 2\n")
    done = run([str(SCRIPT), "--accounts", "--port", str(free_port()), "--folder", str(folder), "--nonsense"], env)
    assert done.returncode == 1
    assert "the tracking server ended by itself with exit code 2" in done.stderr
    assert {file.name for file in folder.iterdir()} == {"accounts.db", *there}
    assert not there or "default_permission = EDIT" in (folder / "accounts.ini").read_text()


@pytest.mark.long  # MLflow makes the admin
def test_a_new_admin_goes_with_a_server_that_never_answered(tmp_path: Path) -> None:
    env = without_mlflow(tmp_path / "bin", MLFLOW_AUTH_ADMIN_PASSWORD=ADMINS)
    (tmp_path / "bin/mlflow").write_text("#!/bin/sh\nexit 2\n")
    folder = tmp_path / "deep/server"
    done = run([str(SCRIPT), "--accounts", "--port", str(free_port()), "--folder", str(folder)], env)
    assert done.returncode == 1
    assert "The admin admin was made." in done.stderr
    assert not folder.parent.exists()


def variables(server: Started) -> dict[str, str]:
    lines = [line.removeprefix("variable: ").rstrip("\n") for line in server.lines if line.startswith("variable: ")]
    return dict(line.split("=", 1) for line in lines if "=" in line)


def test_with_accounts_the_server_gets_the_key_but_no_password(tmp_path: Path) -> None:
    folder = folder_with_admin(tmp_path / "server")
    env = without_mlflow(tmp_path / "bin", MLFLOW_AUTH_ADMIN_PASSWORD=ADMINS)
    options = ["--port", str(free_port()), "--folder", str(folder), "--public-url", "https://mlflow.example.org/"]
    options += ["--database", f"sqlite:///{tmp_path}/runs.db"]  # the script starts again without it
    with started([str(SCRIPT), *options], env, tmp_path) as server:
        server.wait_for(lambda: "MLFLOW_TRACKING_PASSWORD." in server.output)
        seen = variables(server)
        server.press_ctrl_c()
        assert server.wait() == 0
    assert seen["MLFLOW_AUTH_CONFIG_PATH"] == f"{folder}/accounts.ini"
    assert "MLFLOW_AUTH_ADMIN_PASSWORD" not in seen
    assert "MLFLOW_FLASK_SERVER_SECRET_KEY" in seen
    (line,) = (line for line in server.lines if line.startswith("arguments: "))
    assert line.rstrip().endswith(",https://mlflow.example.org")
    assert "--app-name basic-auth" in line
    assert ",mlflow.example.org,mlflow.example.org " in line
    assert "export MLFLOW_TRACKING_URI=https://mlflow.example.org\n" in server.lines
    assert ADMINS not in server.output
    key = (folder / "secret-key").read_text().strip()
    assert re.fullmatch("[0-9a-f]{64}", key)
    assert key not in server.output
    for name in ("accounts.ini", "secret-key"):
        assert stat.S_IMODE((folder / name).stat().st_mode) == 0o600


def test_without_accounts_it_says_what_that_means(tmp_path: Path) -> None:
    port = str(free_port())
    options = ["--no-accounts", "--host", "0.0.0.0", "--port", port, "--folder=~/server"]
    with started([str(SCRIPT), *options], without_mlflow(tmp_path / "bin", HOME=str(tmp_path)), tmp_path) as server:
        server.wait_for(lambda: "export MLFLOW_TRACKING_URI=" in server.output)
        server.press_ctrl_c()
        server.wait()
    said = f"No accounts: whoever reaches 0.0.0.0 port {port} can read, change and delete all runs and artifacts."
    assert said in server.output
    assert "basic-auth" not in server.output
    assert (tmp_path / "server").is_dir()
    assert not (tmp_path / "server/accounts.ini").exists()


def prepared(folder: Path, *arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
    env = {name: value for name, value in os.environ.items() if not name.startswith("MLFLOW_")}
    command = [sys.executable, str(ROOT / "scripts/server/accounts.py"), str(folder), *arguments]
    env |= {"PYTHONPATH": str(ROOT), **settings}
    return subprocess.run(command, env=env, capture_output=True, text=True, stdin=subprocess.DEVNULL)


def test_a_folder_that_moved_keeps_its_settings(tmp_path: Path) -> None:
    folder = folder_with_admin(tmp_path / "server")
    assert prepared(folder).returncode == 0
    config = folder / "accounts.ini"
    config.write_text(config.read_text().replace("= READ", "= NO_PERMISSIONS").replace("= 60", "= 5"))
    key = (folder / "secret-key").read_text()
    moved = folder.rename(tmp_path / "moved")
    assert prepared(moved).stderr == ""
    text = (moved / "accounts.ini").read_text()
    assert f"database_uri = sqlite:///{moved}/accounts.db" in text
    assert "default_permission = NO_PERMISSIONS" in text
    assert "auth_cache_ttl_seconds = 5" in text
    assert (moved / "secret-key").read_text() == key


def test_a_password_in_the_settings_does_not_stay_there(tmp_path: Path) -> None:
    folder = folder_with_admin(tmp_path / "server")
    (folder / "accounts.ini").write_text(f"[mlflow]\nadmin_password = {ADMINS}\n")
    assert "does not belong into this file" in prepared(folder).stderr
    assert ADMINS not in (folder / "accounts.ini").read_text()


@pytest.mark.parametrize(
    ("file", "said"),
    [
        (b"not an ini", "not the settings of accounts"),
        (b"\xff\xfe", "not the settings of accounts (it is not text)"),
        (None, "Error: "),
    ],
    ids=["damaged settings", "no text", "a folder in its place"],
)
def test_settings_that_cannot_be_read_are_one_line(file: bytes | None, said: str, tmp_path: Path) -> None:
    folder = folder_with_admin(tmp_path / "server")
    (folder / "accounts.ini").write_bytes(file) if file else (folder / "accounts.ini").mkdir()
    done = prepared(folder)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert said in line
    assert str(folder / "accounts.ini") in line
    assert not (folder / "secret-key").exists()


def test_accounts_that_are_no_database_are_one_line(tmp_path: Path) -> None:
    (tmp_path / "accounts.db").write_text("no database " * 100)
    done = prepared(tmp_path)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert "accounts.db: the accounts cannot be read" in line


def test_mlflows_own_password_does_not_stay_usable(tmp_path: Path) -> None:
    done = prepared(folder_with_admin(tmp_path, LEGACY))
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert "the admin admin has the password with which older versions of MLflow came" in line
    assert [file.name for file in tmp_path.iterdir()] == ["accounts.db"]


def test_a_refusal_changes_no_settings(tmp_path: Path) -> None:
    before = "[mlflow]\nadmin_username = admin\ndatabase_uri = sqlite:////elsewhere/accounts.db\nadmin_password = x\n"
    (tmp_path / "accounts.ini").write_text(before)
    (tmp_path / "secret-key").write_text("\n")
    for said in ("secret-key: the file is empty", "the admin admin has no password yet"):
        assert said in prepared(tmp_path).stderr
        assert (tmp_path / "accounts.ini").read_text() == before
        (tmp_path / "secret-key").write_text("a key\n")


def test_a_password_that_was_changed_since_is_not_changed_back(tmp_path: Path) -> None:
    folder = folder_with_admin(tmp_path)
    before = accounts.stored_hash(folder / "accounts.db", "admin")
    done = prepared(folder, MLFLOW_AUTH_ADMIN_PASSWORD="another-long-one")
    assert done.returncode == 0
    assert "The admin admin has another password than the one that was given. It stays as it is" in done.stderr
    assert accounts.stored_hash(folder / "accounts.db", "admin") == before


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("abc123\n", "the password is too short"),
        ("", "the file of a password has one line, not 0"),
        ("\n", "the password is empty"),
        ("first-line-of-two\nsecond\n", "the file of a password has one line, not 2"),
        (f"{LEGACY}\n", "everybody knows this password"),
    ],
)
def test_passwords_that_cannot_be(content: str, said: str, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text(content)
    with pytest.raises(passwords.Refused, match=said) as refused:
        passwords.given(str(file), "UNSET")
    assert "\n" not in str(refused.value)
    assert not content.strip() or content.strip() not in str(refused.value)


def test_a_file_that_is_not_there_or_no_text(tmp_path: Path) -> None:
    with pytest.raises(passwords.Refused, match="cannot be read"):
        passwords.from_file(tmp_path / "away")
    (tmp_path / "bytes").write_bytes(b"\xff\xfe" * 10)
    with pytest.raises(passwords.Refused, match="it is not text"):
        passwords.from_file(tmp_path / "bytes")


ONE_LINE = st.text(st.characters(codec="utf-8", exclude_categories=("Cc", "Zl", "Zp", "Cs")), min_size=12)


@for_all(password=ONE_LINE.filter(lambda text: text != LEGACY))
def test_any_other_password_is_read_as_it_is(password: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    file = tmp_path_factory.mktemp("file") / "file"
    file.write_text(f"{password}\n")
    assert passwords.given(str(file), "UNSET") == password


def on_terminal(program: str, typed: list[str]) -> str:
    """What a terminal shows while ``program`` asks on it."""
    code = f"import sys; sys.path.insert(0, {str(ROOT / 'scripts/server')!r}); {program}"
    child, terminal = pty.fork()
    if child == 0:
        os.execv(sys.executable, [sys.executable, "-c", code])
    shown = b""
    for word in typed:
        while not shown.endswith(b": "):
            shown += os.read(terminal, 1000)
        os.write(terminal, word.encode() + b"\n")
        shown += os.read(terminal, 1000)
    try:
        while more := os.read(terminal, 1000):
            shown += more
    except OSError:  # the program has ended
        pass
    os.waitpid(child, 0)
    return shown.decode()


def test_a_terminal_asks_and_shows_nothing() -> None:
    program = "import passwords; print(len(passwords.asked('the admin')), passwords.on_a_terminal())"
    shown = on_terminal(program, [ADMINS, ADMINS])
    assert f"{len(ADMINS)} True" in shown
    assert "Password of the admin: " in shown
    assert ADMINS not in shown


def test_two_different_passwords_change_nothing() -> None:
    program = "import passwords\ntry: passwords.asked('the admin')\nexcept passwords.Refused as e: print(e)"
    assert "the two passwords of the admin differ; nothing was changed" in on_terminal(program, [ADMINS, "another"])
