"""Why a server refuses a person: what was sent to it, what it does not allow, and what to do. One line, no secret."""

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from requests import Response

UNAUTHENTICATED, FORBIDDEN = 401, 403
CODES = {
    "UNAUTHENTICATED": UNAUTHENTICATED,
    "CUSTOMER_UNAUTHORIZED": UNAUTHENTICATED,
    "PERMISSION_DENIED": FORBIDDEN,
}
REPEATED = re.compile(r"Max retries exceeded with url: (\S+) .*too many (5\d\d) error responses", re.DOTALL)
STATUS = re.compile(r"API request to endpoint (\S+) failed with error code (\d+) ")
ASK_S = 4
QUESTION = "/api/2.0/mlflow/experiments/search?max_results=1"
USER, PASSWORD, TOKEN = "MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN"
SIGN_IN = f"set {TOKEN}, or {USER} and {PASSWORD}"
SHOWN_NAME = re.compile(r"[\w.@+-]{1,39}")  # what is longer may be a token in the wrong place
# the end of an endpoint's path -> what a client wanted there
DOINGS = {
    "runs/create": "make runs in this experiment",
    "runs/delete": "delete runs in this experiment",
    "runs/search": "read the runs of this experiment",
    "runs/get": "read this run",
    "experiments/create": "make experiments",
    "experiments/get": "read this experiment",
    "experiments/get-by-name": "read this experiment",
    "experiments/set-experiment-tag": "write the saved views of this experiment",
    **dict.fromkeys(("runs/log-batch", "runs/set-tag", "runs/delete-tag", "runs/update"), "write to this run"),
}

Kind = Literal["nothing", "half", "user", "token", "address", "half an address", "netrc"]


class Refusal(str):
    """The line that tells why a server refuses. It will not change by itself, unlike a server that is away."""


@dataclass(frozen=True)
class Sent:
    """By what MLflow's client signs in. user: where it may be shown. also_token: a token is set, and not sent."""

    kind: Kind
    user: str | None = None
    also_token: bool = False

    @property
    def who(self) -> str:
        return f"the user {self.user}" if self.user else "the owner of this token" if self.kind == "token" else "you"


def sent_to(uri: str | None) -> Sent:
    """What the client sends to ``uri``; None: to a server whose address is not known here."""
    from mlflow.environment_variables import MLFLOW_TRACKING_TOKEN
    from mlflow.utils.credentials import read_mlflow_creds
    from requests.utils import get_netrc_auth

    parts = urlsplit(uri or "")
    if parts.username:  # requests lets the address go before all else
        return Sent("address" if parts.password else "half an address")
    if uri and get_netrc_auth(uri):
        return Sent("netrc")
    known, token = read_mlflow_creds(), bool(MLFLOW_TRACKING_TOKEN.get())
    if known.username and known.password:
        shown = known.username if SHOWN_NAME.fullmatch(known.username) else None
        return Sent("user", shown, token)
    if token:
        return Sent("token")
    return Sent("half" if known.username or known.password else "nothing")


def why_refused(error: BaseException, uri: str | None = None, status: int | None = None) -> Refusal | None:
    """The line for ``error`` of MLflow's client; None if it is not a refusal. status: of the answer, where it is known.

    A server with MLflow's accounts breaks with 500 if a token comes. So then it is asked what it takes.
    """
    endpoint, told = _told_by(error)
    status = status if status in (UNAUTHENTICATED, FORBIDDEN) else told
    sent = sent_to(uri) if status is not None else None
    if sent is None or status is None:
        return None
    if status >= 500:
        return Refusal(_unknown_text(sent, True, status)) if sent.kind == "token" and uri and takes_basic(uri) else None
    if status == UNAUTHENTICATED or sent.kind in ("nothing", "half"):
        basic = sent.kind == "token" and uri is not None and takes_basic(uri)
        return Refusal(_unknown_text(sent, basic, status))
    doing = next((text for end, text in DOINGS.items() if endpoint.endswith(f"/{end}")), "do this here")
    if "/mlflow-artifacts/" in endpoint:
        doing = "reach the artifacts of this experiment so"
    return Refusal(
        f"refused with {status}: {sent.who} may not {doing}; ask whoever manages the experiment for the permission "
        "(EDIT, to write runs), or sign in as another user"
    )


def _told_by(error: BaseException) -> tuple[str, int | None]:
    """The endpoint and the status that an exception tells, if it is one that matters here."""
    text = str(error)
    found = STATUS.search(text) or REPEATED.search(text)
    status = int(found[2]) if found else CODES.get(getattr(error, "error_code", ""))
    if status is None:
        response: Response | None = getattr(error, "response", None)
        status = getattr(response, "status_code", None)
        return str(getattr(response, "url", "")), status if _matters(status) else None
    return found[1] if found else "", status if _matters(status) else None


def _matters(status: Any) -> bool:
    return isinstance(status, int) and (status in (UNAUTHENTICATED, FORBIDDEN) or status >= 500)


def _unknown_text(sent: Sent, basic: bool, status: int) -> str:
    """Why a server does not know who asks. basic: it takes a user and a password, and a token was sent."""
    user_pair = f"{USER} and {PASSWORD}"
    texts: dict[Kind, tuple[str, str]] = {
        "nothing": ("no user and no token were sent", SIGN_IN),
        "half": ("a user without a password, or a password without a user, is not sent", f"set both {user_pair}"),
        "user": (
            f"the server does not accept {f'the user {sent.user}' if sent.user else 'this user'} with this password; "
            "it does not say which of the two is wrong",
            f"check {user_pair}",
        ),
        "token": (f"the server does not accept the token in {TOKEN}", "get a valid one"),
        "address": ("the server does not accept the user and the password in the address", "correct them"),
        "half an address": (
            "the address has a user without a password, as if a token stood there",
            f"take it out of the address, and {SIGN_IN}",
        ),
        "netrc": (
            "the entry for this host in ~/.netrc was sent, which goes before MLflow's variables",
            "correct or remove it",
        ),
    }
    found, remedy = texts[sent.kind]
    if basic:
        found = f"a token was sent ({TOKEN}), and this server takes a user and a password"
        remedy = f"unset {TOKEN}, and set {user_pair}"
    also = f"; {TOKEN} was not sent, because a user is set" if sent.also_token else ""
    return f"refused with {status}: {found}{also}; {remedy}"


def takes_basic(uri: str) -> bool:
    """Whether the server refuses who has not signed in, and asks for a user and a password."""
    from mlflow.environment_variables import MLFLOW_TRACKING_INSECURE_TLS, MLFLOW_TRACKING_SERVER_CERT_PATH
    from mlflow.utils.rest_utils import MlflowHostCreds, http_request

    host = MlflowHostCreds(
        uri,
        ignore_tls_verification=MLFLOW_TRACKING_INSECURE_TLS.get(),
        server_cert_path=MLFLOW_TRACKING_SERVER_CERT_PATH.get(),
    )
    try:
        answer = http_request(host, QUESTION, "GET", max_retries=0, timeout=ASK_S, raise_on_status=False)
    except Exception:  # whatever it is: nothing is known then, and the first fault is told
        return False
    wanted = str(answer.headers.get("WWW-Authenticate", ""))
    return answer.status_code == UNAUTHENTICATED and wanted.lower().startswith("basic")
