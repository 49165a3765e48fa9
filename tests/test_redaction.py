"""No spelling of a URI lets a secret through, and what has no secret stays as it is."""

import json
import shlex
from pathlib import Path
from urllib.parse import quote, quote_plus

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.project import ROOT
from ttt_mlflow import redaction
from ttt_mlflow.redaction import environment_without_secrets, redacted, remember_secrets, secrets_of, without_secrets

SECRET = "hunter2Secret"
# The secret in every place of a URI, with what is left of it. The marks that a parser cuts at are in some passwords.
SPELLINGS = {
    "postgresql://me:{}@db:5432/x": "postgresql://me@db:5432/x",
    "postgresql+psycopg://me:{}@db/x": "postgresql+psycopg://me@db/x",
    "https://me:{}@host:5000/path": "https://host:5000/path",
    "https://{}@host/path": "https://host/path",
    "https://:{}@host:5000": "https://host:5000",
    "https://{}:@host": "https://host",
    "https://{}:x-oauth-basic@github.com/o/r": "https://github.com/o/r",
    "HTTPS://ME:{}@HOST": "HTTPS://HOST",
    "postgresql://me:p@{}@db/x": "postgresql://me@db/x",
    "postgresql://me:p/{}@db/x": "postgresql://me@db/x",
    "postgresql://me:{}/p@db/x": "postgresql://me@db/x",
    "postgresql://me:p:{}@db/x": "postgresql://me@db/x",
    "postgresql://me:p#{}@db/x": "postgresql://me@db/x",
    "postgresql://me:p?{}@db/x": "postgresql://me@db/x",
    "postgresql://me:1/{}@db/x": "postgresql://me@db/x",
    "http://me:1/{}@host/x": "http://host/x",
    "postgresql://me:p%40{}@db/x": "postgresql://me@db/x",
    "postgresql://me:p%2F%3A%23%3F{}@db/x": "postgresql://me@db/x",
    "http://me%3A{}@host": "http://host",
    "http://host/?token={}": "http://host/",
    "http://host:5000/path?a=1&token={}&b=2": "http://host:5000/path?a=1&b=2",
    "http://host/?access_token={}": "http://host/",
    "http://host/?api_key={}": "http://host/",
    "http://host/#access_token={}": "http://host/",
    "http://host/?pass%77ord={}": "http://host/",
    "postgresql://db/x?password={}&sslmode=require": "postgresql://db/x?sslmode=require",
    "postgresql+psycopg://db/x?sslmode=require&sslpassword={}": "postgresql+psycopg://db/x?sslmode=require",
    "postgresql://db/x?user=me@x.org&password={}": "postgresql://db/x?user=me@x.org",
    "mysql+pymysql://db/x?passwd={}": "mysql+pymysql://db/x",
    "mssql+pyodbc:///?odbc_connect=SERVER%3Ddb%3BPWD%3D{}%3BUID%3Dme": (
        "mssql+pyodbc:///?odbc_connect=SERVER%3Ddb%3BUID%3Dme"
    ),
    "mssql+pyodbc:///?odbc_connect=SERVER=db;Pwd={}": "mssql+pyodbc:///?odbc_connect=SERVER=db",
    "mssql+pyodbc:///?odbc_connect=SERVER%3Ddb%3BPWD%3D%7Ba%3B{}%7D": "mssql+pyodbc:///?odbc_connect=SERVER%3Ddb",
    "s3://AKIA:{}@bucket/path": "s3://bucket/path",
    "s3://AKIA:x/{}@bucket/path": "s3://bucket/path",
    "postgresql://me:{}@h1:5432,h2:5433/x": "postgresql://me@h1:5432,h2:5433/x",
    "postgresql://me:{}@[::1]:5432/x": "postgresql://me@[::1]:5432/x",
    "https://a.blob.core.windows.net/c?sv=1&sig={}&se=2": "https://a.blob.core.windows.net/c?sv=1&se=2",
    "sqlite+pysqlcipher://:{}@/x.db": "sqlite+pysqlcipher:///x.db",
    "me:{}@db:5432/x": "me@db:5432/x",
    "postgresql://me:pa {}@db/x": "postgresql://me@db/x",
    "postgresql://me:12 {}@db/x": "postgresql://me@db/x",
    "postgresql://me:pa\"'{}@db/x": "postgresql://me@db/x",
}
PLAIN = [
    "sqlite:////home/a:b@c/mlflow.db",
    "/home/a:b@c/mlflow.db",
    "sqlite:///mlflow.db",
    "sqlite:///a b@c/x.db",
    "http://127.0.0.1:5000/#/experiments/1/runs/abc?compare=1",
    "http://localhost:5000",
    "https://medium.com/@user/post",
    "git+https://github.com/o/r@main",
    "git+ssh://git@github.com/o/r.git@main",
    "git@github.com:o/r.git",
    "postgresql://me@db/x?sslmode=require&passfile=/home/me/.pgpass&sslkey=/home/me/key.pem",
    "postgresql://me@h1:1,h2:2/x?target_session_attrs=any",
    "wasbs://container@account.blob.core.windows.net/x",
    "s3://bucket/a@b",
    "dbfs:/Users/me@x.org/model",
    "databricks://profile",
    "file:///dev/null/ttt-mlflow-ab",
    "use http://host:port or sqlite:///path/mlflow.db; ask me@x.org",
    "http://h:5000: it does not answer (ask me@x.org)",
    "contact me@x.org: password: wrong",
    "joules_per_token=5, time_to_first_token=3, metrics.joules_per_token = 3",
]
TEXTS = [
    "connection to host=db user=me password={} failed",
    "('IM002', 'DRIVER=x;UID=me;PWD={{a;{}}};X=1')",
    "MLFLOW_TRACKING_TOKEN={} python",
    "mysql --password={} -u me",
    "{{'Authorization': 'Bearer {}'}}",
    "Authorization: Basic {}",
    "HTTPSConnectionPool(host='h', port=443): Max retries exceeded with url: https://me:{}@h/api (Caused by X)",
    "['git', 'clone', 'https://{}@github.com/o/r']",
]
NAMES = st.from_regex(r"[a-z][a-z0-9_]{0,8}", fullmatch=True)
HOSTS = st.sampled_from(["db", "db.example.org", "10.0.0.1", "[::1]", "h1:1,h2:2", "db:5432", "localhost"])
MARKS = st.sampled_from(list("/:@#?&=%;+!$*,~ "))


def _password(middle: str, marks: list[str]) -> str:
    """A password that has the marks between its pieces, and a piece that nothing else has at its end."""
    return "".join([*(f"q{mark}" for mark in marks), middle])


@pytest.fixture(autouse=True)
def _nothing_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(redaction, "_given", set())


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_spellings(spelling: str) -> None:
    uri = spelling.format(SECRET)
    assert without_secrets(uri) == SPELLINGS[spelling]
    assert without_secrets(f"Error: tracking_uri={uri}") == f"Error: tracking_uri={SPELLINGS[spelling]}"
    assert without_secrets(SPELLINGS[spelling]) == SPELLINGS[spelling]


@pytest.mark.parametrize("text", PLAIN)
def test_without_a_secret_nothing_changes(text: str) -> None:
    assert without_secrets(text) == text


@pytest.mark.parametrize("text", TEXTS)
def test_texts_of_drivers_and_command_lines(text: str) -> None:
    assert SECRET not in without_secrets(text.format(SECRET))


@settings(max_examples=30, deadline=None)
@given(middle=st.from_regex(r"zq[A-Za-z0-9]{6,20}", fullmatch=True), marks=st.lists(MARKS, max_size=4), host=HOSTS)
@example(middle="zqabcdef", marks=["@", "/"], host="db")
def test_a_password_with_any_marks(middle: str, marks: list[str], host: str) -> None:
    password = _password(middle, marks)
    for scheme in ("postgresql", "mysql+pymysql", "http", "https", "s3", "mssql+pyodbc"):
        for written in {password, quote(password, safe=""), quote_plus(password)}:
            for uri in (f"{scheme}://me:{written}@{host}/x", f"{scheme}://me:{written}@{host}?sslmode=require"):
                # a blank in it: only who knows that all of it is a URI can tell
                remember_secrets(uri)
                for text in (uri, repr(uri), json.dumps({"uri": uri}), shlex.quote(uri), f"cannot use {uri}: no"):
                    shown = without_secrets(text)
                    assert middle not in shown
                    assert without_secrets(shown) == shown
                redaction._given.clear()
                if not set(marks) & {" "}:
                    assert middle not in without_secrets(uri)


@given(
    middle=st.from_regex(r"zq[A-Za-z0-9]{6,20}", fullmatch=True),
    marks=st.lists(MARKS, max_size=3),
    name=st.sampled_from(
        ["token", "password", "sslpassword", "access_token", "api_key", "Sig", "passwd", "x-amz-signature"]
    ),
    other=st.booleans(),
)
def test_a_secret_parameter(middle: str, marks: list[str], name: str, other: bool) -> None:
    value = quote(_password(middle, marks), safe="")
    for scheme in ("postgresql", "https"):
        uri = f"{scheme}://host/path?{'sslmode=require&' if other else ''}{name}={value}&connect_timeout=5"
        shown = without_secrets(uri)
        assert middle not in shown
        assert shown == f"{scheme}://host/path?{'sslmode=require&' if other else ''}connect_timeout=5"


@given(name=NAMES, host=HOSTS, path=st.lists(NAMES, max_size=3), options=st.booleans())
def test_a_uri_without_a_secret(name: str, host: str, path: list[str], options: bool) -> None:
    query = "?connect_timeout=5" if options else ""
    for uri in (
        f"postgresql://{name}@{host}/{'/'.join(path)}{query}",
        f"http://{host}/{'/'.join(path)}{query}",
        f"sqlite:////{'/'.join([name, *path])}:{name}@{name}/mlflow.db",
    ):
        assert without_secrets(uri) == uri


@given(text=st.text(max_size=200))
def test_any_text(text: str) -> None:
    shown = without_secrets(text)
    assert without_secrets(shown) == shown
    secrets_of(text)


@pytest.mark.parametrize(
    "said",
    [
        "Port could not be cast to integer value as '{}'",
        'could not translate host name "{}@db" to address',
        "FATAL: no pg_hba.conf entry: {}",
    ],
)
def test_what_a_driver_says_of_a_uri_that_was_given(said: str) -> None:
    remember_secrets(f"postgresql://me:pa/{SECRET}@db/x")
    assert SECRET not in without_secrets(said.format(SECRET))


def test_without_a_scheme_a_name_alone_is_a_secret_where_a_uri_was_given() -> None:
    assert without_secrets("git@github.com") == "git@github.com"
    remember_secrets(f"{SECRET}@host")
    assert without_secrets(f"{SECRET}@host: no store") == "***@host: no store"


def test_the_word_mlflow_stays_where_it_is_a_password() -> None:
    uri = "postgresql://me:mlflow@db/x"
    remember_secrets(uri)
    assert without_secrets(f"{uri}: mlflow says no") == "postgresql://me@db/x: mlflow says no"


@pytest.mark.parametrize("name", ["MLFLOW_TRACKING_TOKEN", "AWS_SECRET_ACCESS_KEY", "PGPASSWORD", "MYSQL_PWD"])
def test_values_of_the_environment(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, f"{SECRET}/+x")
    for form in (f"{SECRET}/+x", quote(f"{SECRET}/+x", safe="")):
        assert SECRET not in without_secrets(f"the server said {form}")
    assert name not in environment_without_secrets()


def test_uris_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", f"postgresql://me:{SECRET}@db/x")
    monkeypatch.setenv("PLAIN_URL", "postgresql://me@db/x")
    assert without_secrets(f"it is {SECRET}!") == "it is ***!"
    assert "DATABASE_URL" not in environment_without_secrets()
    assert environment_without_secrets()["PLAIN_URL"] == "postgresql://me@db/x"


def test_folders_and_switches_of_the_environment_are_no_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PWD", "OLDPWD", "TOKENIZERS_PARALLELISM", "MLFLOW_TRACKING_USERNAME", "AWS_ACCESS_KEY_ID"):
        monkeypatch.setenv(name, "somewhere-known")
        assert without_secrets("somewhere-known") == "somewhere-known"
        assert name in environment_without_secrets()


def test_json() -> None:
    value = {"a": [f"https://{SECRET}@h/x", 1.5, None], "b": {"c": True}}
    assert redacted(value) == {"a": ["https://h/x", 1.5, None], "b": {"c": True}}


@pytest.mark.parametrize("path", sorted((ROOT / "ttt_mlflow/report/pages").iterdir()), ids=lambda path: path.name)
def test_the_programs_of_our_pages_are_left_alone(path: Path) -> None:
    assert without_secrets(path.read_text()) == path.read_text()
