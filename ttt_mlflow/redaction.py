"""Keeps credentials out of everything that is printed, logged or recorded.

:func:`without_secrets` takes a URI or a whole text, for example the message of a database driver. Two things hide a
secret. The spelling tells what is one: a password before ``@``, a token in a query, ``PWD=`` of ODBC. And its value is
known: it stands in the environment, or in a URI that :func:`remember_secrets` was told of. A driver quotes half a
password without the rest of its URI, so the spelling is not enough.

A URI loses its secrets and keeps the place. It can be used again where the credentials come from the environment.
"""

import base64
import json
import os
import re
from collections.abc import Iterator, Mapping
from functools import lru_cache
from html import escape
from typing import Any
from urllib.parse import quote, quote_plus, unquote, unquote_plus

HIDDEN = "***"

# Schemes in which a name alone before "@" is no secret: a user, or the container of a storage account.
NAME_ALONE_STAYS = {
    *("postgresql", "postgres", "mysql", "mariadb", "mssql", "oracle", "cockroachdb"),
    *("ssh", "sftp", "git+ssh", "svn+ssh", "rsync", "hdfs", "wasb", "wasbs", "abfs", "abfss"),
}
WEB = {"http", "https"}
SECRET_PARAMETER = re.compile(
    r"pass(?!file|ive)|pwd|secret|token|credential|signature|^sig$|^key$|(?:api|access|account|private|shared)[-_ ]?"
    r"(?:access[-_ ]?)?key|^auth$|authorization|^jwt$|^code$"
)
# After one of these, "@" belongs to a parameter and no longer to the user and password before the host.
KNOWN_QUERY = re.compile(
    r"\?(?:[\w.%-]*(?:pass|pwd|secret|token|credential|signature|key)[\w.%-]*|sig|ssl\w*|host\w*|port|user\w*|dbname|"
    r"database|driver|charset|options|application_name|connect_timeout|timeout|odbc_connect|service|mode|schema)=",
    re.IGNORECASE,
)
URI = re.compile(r"(?<![A-Za-z0-9])(?P<scheme>[A-Za-z][A-Za-z0-9+.\-]*)://(?P<rest>[^\s\"'`<>]*)")
A_URI = re.compile(r"\s*[A-Za-z][A-Za-z0-9+.:-]*://")
# The rest of a password that has a blank or a quote in it.
FURTHER = re.compile(r"(?:(?!://)[^\n]){0,200}?@[^\s\"'`<>]*")
NEXT_WORD = re.compile(r"\s+[^\s@:(]*@[^\s\"'`<>]+")
PLACEHOLDER_PORT = re.compile(r"[<{$\[]*port[>}\]]*", re.IGNORECASE)
CLEAR_HOST = re.compile(r"localhost|\d{1,3}(?:\.\d{1,3}){3}|\[[0-9A-Fa-f:.%\w]+\]", re.IGNORECASE)
DOTTED_HOST = re.compile(r"(?:[A-Za-z0-9_-]+\.)+[A-Za-z]{2,63}\.?")
# Without a scheme: name:password@host. Not mailto:, and not scheme:/path.
WITHOUT_SCHEME = re.compile(r"(?<![^\s\"'`<>(=,\[])(?!mailto:)([\w.+~$%-]+):(?!/)[^\s\"'`<>]+@(?=[\w\[])")
VALUE = r"(?:\{(?:[^}]|\}\})*\}?|(?:(?![&;][\w.% -]+=)[^\s\"'`<>])*)"
PARAMETER = re.compile(rf"(?P<mark>[?&;#])(?P<name>[^=&;?#\s/]+)=(?P<value>{VALUE})")
ODBC = re.compile(r"(?i)(?P<before>^|;)\s*(?:pwd|password|accesstoken)\s*=\s*(?:\{(?:[^}]|\}\})*\}?|[^;]*)")
# name=value in a text: a driver's connection string, an environment variable, a header.
IN_TEXT = re.compile(
    r"(?i)(?<![A-Za-z0-9])(?P<name>(?:ssl|db|pg)?pass(?:word|wd|phrase)|pwd|(?:access|auth|refresh|session|id)_?token|"
    r"api_?key|client_?secret|(?:secret_?)?access_?key|accountkey|sharedaccesskey|"
    r"[a-z0-9_]*_(?:password|passwd|secret|api_key|secret_key|access_key)|[a-z0-9]+(?:_[a-z0-9]+)*_TOKEN)"
    r"(?P<equals>\s*=\s*)(?P<value>'[^'\n]*'|\"[^\"\n]*\"|\{(?:[^}\n]|\}\})*\}?|[^\s;,&\"'`<>)]+)"
)
A_METRIC = re.compile(r"(?i).*_(?:per|first|last|next|each|a)_token$")
HEADER = re.compile(r"(?i)\b(authorization\s*[:=]\s*['\"]?\s*(?:bearer|basic|token)|bearer)(\s+)[A-Za-z0-9._~+/=-]{6,}")

SECRET_VARIABLE = re.compile(
    r"(?:^|_)(?:TOKEN|PASSWORD|PASSWD|PASSPHRASE|SECRET|CREDENTIALS|PAT|CONNECTION_STRING)$|PASSWORD$|^MYSQL_PWD$|"
    r"(?:API|ACCESS|SECRET|PRIVATE|ACCOUNT|ENCRYPTION)_?KEY$"
)
# A password that is one of these words cannot be told from the word in a text. Its URI still loses it.
WORDS = {
    *("mlflow", "ttt", "ttt-mlflow", "postgres", "postgresql", "mysql", "sqlite", "localhost", "host", "user", "admin"),
    *("root", "none", "null", "true", "false", "auto", "default", "local", "test", "run", "runs", "http", "https"),
}
SHORTEST = 3  # a value that is shorter is not looked for in texts
SURE = 8  # a value that is shorter is hidden only where it is a word of its own

_given: set[str] = set()


def without_secrets(text: str) -> str:
    """``text``, a URI or anything that may hold one, without passwords, tokens and keys."""
    text = _without_values(text)
    if "://" in text:
        text = _without_uris(text)
    if "@" in text:
        text = _outside_uris(WITHOUT_SCHEME, r"\1@", text)
    if "=" in text:
        text = IN_TEXT.sub(_in_text, text)
    return HEADER.sub(rf"\1\2{HIDDEN}", text) if re.search("(?i)bearer|authorization", text) else text


def redacted(value: Any) -> Any:
    """``value`` of JSON with every text in it without secrets."""
    if isinstance(value, str):
        return without_secrets(value)
    if isinstance(value, Mapping):
        return {name: redacted(one) for name, one in value.items()}
    return [redacted(one) for one in value] if isinstance(value, list | tuple) else value


def remember_secrets(uri: str) -> None:
    """Hide the secrets of ``uri``, which somebody gave to this process, wherever they occur from now on."""
    _given.update(secrets_of(uri))


def environment_without_secrets() -> dict[str, str]:
    """This process's environment without credentials, for a child process that needs none."""
    return {
        name: value
        for name, value in os.environ.items()
        if not SECRET_VARIABLE.search(name) and ("://" not in value or _without_uris(value) == value)
    }


@lru_cache(maxsize=64)
def secrets_of(uri: str, strict: bool = True) -> frozenset[str]:
    """The secrets in ``uri`` as they may occur in a text: decoded, encoded, and in the pieces that a parser cuts.

    strict: all that stands before the last ``@`` is a user and a password.
    """
    scheme, there, rest = uri.strip().partition("://")
    if not there:
        if uri.lstrip().startswith(("/", ".", "~")):
            return frozenset()
        scheme, rest = "", uri.strip()
    at = -1 if rest.startswith("/") else _end_of_userinfo(scheme, rest, strict)
    userinfo, place = (rest[:at], rest[at + 1 :]) if at >= 0 else ("", rest)
    user, colon, password = _split_userinfo(userinfo)
    found = {password} if colon else set()
    if user and (not password or password == "x-oauth-basic") and not _name_stays(scheme):
        found.add(user)
        user = ""
    for match in PARAMETER.finditer(place):
        name = unquote(match["name"]).lower()
        if name == "odbc_connect":
            found.update(_odbc_passwords(unquote_plus(match["value"])))
        elif SECRET_PARAMETER.search(name):
            found.add(match["value"])
    public = {scheme, user, unquote(user), *re.split(r"[/?&=:,]", PARAMETER.sub("", place))}
    values = {form for secret in found for form in _pieces(unquote(secret)) | _pieces(secret)}
    values -= public | {unquote(one) for one in public}
    if user and password:
        values.add(base64.b64encode(f"{unquote(user)}:{unquote(password)}".encode(errors="replace")).decode())
    return frozenset(value for value in values if len(value) >= SHORTEST)


# What the spelling tells


def _without_uris(text: str) -> str:
    parts, end = [], 0
    while match := URI.search(text, end):
        parts.append(text[end : match.start()])
        rest, end = match["rest"], match.end()
        if further := _further(rest, text, end):
            rest, end = rest + further, end + len(further)
        parts.append(_uri(match["scheme"], rest))
    return "".join([*parts, text[end:]])


def _further(rest: str, text: str, end: int) -> str:
    """What follows a URI in ``text`` and belongs to it: the rest of a password with a blank or a quote."""
    if "@" in rest or rest.startswith("/") or end >= len(text):
        return ""
    authority = re.split(r"[/?#]", rest, maxsplit=1)[0]
    name, colon, port = authority.rpartition(":")
    if CLEAR_HOST.fullmatch(authority) or (colon and CLEAR_HOST.fullmatch(name)):
        return ""
    if colon and port and not port.isdecimal() and not PLACEHOLDER_PORT.fullmatch(port):
        match = FURTHER.match(text, end)
    elif authority == rest and not DOTTED_HOST.fullmatch(authority):
        match = NEXT_WORD.match(text, end)
    else:
        match = None
    return match[0] if match else ""


def _uri(scheme: str, rest: str) -> str:
    at = -1 if rest.startswith("/") else _end_of_userinfo(scheme, rest)
    if at < 0:
        return f"{scheme}://{_without_parameters(rest)}"
    user = _split_userinfo(rest[:at])[0]
    shown = f"{user}@" if user and _name_stays(scheme) and re.fullmatch(r"[\w.+%~$-]+", user) else ""
    return f"{scheme}://{shown}{_without_parameters(rest[at + 1 :])}"


def _name_stays(scheme: str) -> bool:
    return scheme.lower() in NAME_ALONE_STAYS or scheme.lower().partition("+")[0] in NAME_ALONE_STAYS


def _end_of_userinfo(scheme: str, rest: str, strict: bool = False) -> int:
    """Where the ``@`` before the host is; -1 without one. A password may have ``@``, ``/``, ``?`` and ``#`` in it.

    strict: every ``@`` ends a user and password. Otherwise the path of a clear host may have one.
    """
    query = KNOWN_QUERY.search(rest)
    zone = rest[: query.start()] if query else rest
    at = zone.rfind("@")
    authority = re.split(r"[/?#]", zone, maxsplit=1)[0]
    if at < len(authority):
        return at
    name, colon, port = authority.rpartition(":")
    if strict or _is_database(scheme):
        return at
    if "@" in authority:
        return authority.rfind("@") if authority.startswith("git@") else at
    if CLEAR_HOST.fullmatch(name if colon and port.isdecimal() else authority):
        return -1
    if scheme.lower().rpartition("+")[2] in WEB:
        return -1 if DOTTED_HOST.fullmatch(authority) else at
    return at if colon else -1  # the name of a bucket, and a path


def _is_database(scheme: str) -> bool:
    return _name_stays(scheme) and "ssh" not in scheme.lower()


def _split_userinfo(userinfo: str) -> tuple[str, str, str]:
    """The user, the colon and the password. The colon may be encoded too."""
    match = re.search(r":|%3a", userinfo, re.IGNORECASE)
    return (userinfo[: match.start()], match[0], userinfo[match.end() :]) if match else (userinfo, "", "")


def _without_parameters(place: str) -> str:
    """The part of a URI from the host on, without its secret parameters."""
    if "=" not in place:
        return place
    parts, end, dropped = [], 0, ""
    for match in PARAMETER.finditer(place):
        between = place[end : match.start()]
        kept = _kept_value(unquote(unquote(match["name"])).lower(), match["value"])
        mark, end = match["mark"], match.end()
        if kept is None:
            dropped = dropped if dropped and not between else mark
            parts.append(between)
            continue
        # the first parameter that is kept takes the mark of one that was dropped before it
        mark = dropped if dropped in ("?", "#") and not between else mark
        parts.append(f"{between}{mark}{match['name']}={kept}")
        dropped = ""
    return "".join([*parts, place[end:]])


def _kept_value(name: str, value: str) -> str | None:
    """The value to show of a parameter; None to drop it."""
    if name == "odbc_connect":
        plain = unquote_plus(value)
        kept = ODBC.sub(r"\g<before>", plain)
        if kept == plain:
            return value
        kept = re.sub(r";{2,}", ";", kept).rstrip(";")
        return quote_plus(kept) if plain != value else kept
    return None if SECRET_PARAMETER.search(name) else value


def _odbc_passwords(connection: str) -> set[str]:
    found = {match[0].partition("=")[2].strip() for match in ODBC.finditer(connection)}
    return found | {one[1:].removesuffix("}").replace("}}", "}") for one in found if one.startswith("{")}


def _outside_uris(pattern: re.Pattern[str], new: str, text: str) -> str:
    """Replace in what is no URI: the path of an SQLite file may look like a user and a password."""
    parts, end = [], 0
    for match in URI.finditer(text):
        parts += [pattern.sub(new, text[end : match.start()]), match[0]]
        end = match.end()
    return "".join([*parts, pattern.sub(new, text[end:])])


def _in_text(match: re.Match[str]) -> str:
    if A_METRIC.fullmatch(match["name"]):
        return match[0]
    mark = match["value"][0] if match["value"][0] in "'\"" else ""
    return f"{match['name']}{match['equals']}{mark}{HIDDEN}{mark}"


# What is known


def _without_values(text: str) -> str:
    values = frozenset(_given | set(_in_environment()))
    pattern = _pattern(values) if values else None
    return pattern.sub(HIDDEN, text) if pattern else text


def _in_environment() -> Iterator[str]:
    for name, value in os.environ.items():
        if SECRET_VARIABLE.search(name):
            yield from (form for form in _pieces(value.strip()) if len(form) > SHORTEST)
        elif "://" in value:
            for uri in [value] if value.count("://") == 1 else value.split():
                if A_URI.match(uri):
                    yield from secrets_of(uri, strict=name.startswith("MLFLOW_"))
    user, password = (os.environ.get(f"MLFLOW_TRACKING_{name}", "") for name in ("USERNAME", "PASSWORD"))
    if password:
        yield base64.b64encode(f"{user}:{password}".encode(errors="replace")).decode()


@lru_cache(maxsize=64)
def _pieces(secret: str) -> frozenset[str]:
    """A secret as texts show it: whole, encoded, quoted, and cut at the marks at which a parser of URIs cuts."""
    if not secret:
        return frozenset()
    cut = set(re.split(r"[/:@?#&;=\s\[\]{}]+", secret))
    tails = {f"{secret[match.end() :]}@" for match in re.finditer(r"[/:@?#]", secret)} - {"@"}
    forms = {secret, *cut, *tails}
    for one in (secret, *cut):
        forms |= {
            quote(one, safe="", errors="replace"),
            quote(one, errors="replace"),
            quote_plus(one, errors="replace"),
        }
        forms |= {repr(one)[1:-1], json.dumps(one)[1:-1], escape(one)}
    return frozenset(forms)


@lru_cache(maxsize=8)
def _pattern(values: frozenset[str]) -> re.Pattern[str] | None:
    parts = []
    for value in sorted(values, key=len, reverse=True):
        if value.lower() in WORDS or len(value) < SHORTEST:
            continue
        word = re.escape(value)
        parts.append(word if len(value) >= SURE else rf"(?<![\w.-]){word}(?![\w-]|\.\w)")
    return re.compile("|".join(parts)) if parts else None
