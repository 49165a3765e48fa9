"""What a client can find out about a team's server: whether it answers, its version, TLS, and whether it knows us."""

import ipaddress
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from ttt_mlflow.tracking.refusal import sent_to, takes_basic, why_refused
from ttt_mlflow.tracking.store import CHECK_SECONDS, client_for_a_check, explain, known_errors

if TYPE_CHECKING:
    from requests import Response

VERSION = "/version"
PERMISSION = "/api/3.0/mlflow/users/permissions/get"  # of MLflow's accounts; a server without them has no such address
MAY_DELETE = "MANAGE"


class Lacking(Exception):
    """What a server lacks. fatal: nothing can be recorded there. remedy: what to do."""

    def __init__(self, found: str, remedy: str | None = None, fatal: bool = True) -> None:
        super().__init__(found)
        self.found, self.remedy, self.fatal = found, remedy, fatal


def check_version(uri: str) -> str:
    """Raises :class:`Lacking` if nothing answers, or something else than MLflow, or an older MLflow than ours."""
    import mlflow

    try:
        with client_for_a_check(uri):
            answer = _get(uri, VERSION)
    except known_errors() as error:
        if _is_tls(error):
            raise Lacking(f"the certificate is not accepted ({explain(error)})", CERTIFICATE) from None
        raise Lacking(f"it does not answer as an MLflow server ({explain(error)})", CHECK_ADDRESS) from None
    if answer.status_code in (401, 403):
        return "answers; it tells its version only to whom it knows"
    version = answer.text.strip()
    numbers = _numbers(version)
    if answer.status_code != 200 or numbers is None:
        said = f"{answer.status_code}, {answer.headers.get('Content-Type', 'no content type')}"
        raise Lacking(f"it does not answer as an MLflow server (it answers /version with {said})", CHECK_ADDRESS)
    ours = _numbers(mlflow.__version__)
    assert ours
    if numbers[:2] < ours[:2]:
        raise Lacking(
            f"answers; its MLflow {version} is older than this {mlflow.__version__}, which may ask too much",
            "upgrade the server",
            fatal=False,
        )
    return f"answers; MLflow {version}"


CHECK_ADDRESS = "runs stay on disk until `ttt-mlflow sync`; check the address in MLFLOW_TRACKING_URI, and that it runs"
CERTIFICATE = (
    "runs stay on disk until `ttt-mlflow sync`; name the certificate of whoever signed it in "
    "MLFLOW_TRACKING_SERVER_CERT_PATH"
)


def check_tls(uri: str) -> str:
    """How the way to the server is protected. Raises :class:`Lacking` if it is not, or not fully."""
    from mlflow.environment_variables import MLFLOW_TRACKING_INSECURE_TLS

    parts = urlsplit(uri)
    if parts.scheme == "http":
        if _is_here(parts.hostname or ""):
            return "none, and none needed: the server is on this machine"
        raise Lacking(
            "none: whoever is on the way reads passwords and runs, and can change them",
            "use an https address; docs/server.md puts TLS in front of a server",
            fatal=False,
        )
    try:
        with client_for_a_check(uri):
            answer = _get(uri, VERSION, stream=True)
    except known_errors() as error:
        raise Lacking(f"no connection ({explain(error)})", CERTIFICATE if _is_tls(error) else None) from None
    version, until = _session(answer)
    answer.close()
    if MLFLOW_TRACKING_INSECURE_TLS.get():
        raise Lacking(
            f"{version}, but nobody checks the certificate (MLFLOW_TRACKING_INSECURE_TLS): another server could answer",
            "unset it, and name the certificate of whoever signed the server's in MLFLOW_TRACKING_SERVER_CERT_PATH",
            fatal=False,
        )
    return f"{version}; the certificate is valid{f' until {until}' if until else ''}"


def check_account(uri: str) -> str:
    """Who we are to the server. Raises :class:`Lacking` if it refuses us."""
    with client_for_a_check(uri) as client:
        try:
            client.search_experiments(max_results=1)
        except known_errors() as error:
            if refused := why_refused(error, uri):
                raise Lacking(refused.partition("; ")[0], refused.partition("; ")[2] or None) from None
            raise Lacking(f"it cannot be asked ({explain(error, uri)})") from None
        if not takes_basic(uri):
            return "the server asks for no user: whoever reaches it can write and delete"
        user = sent_to(uri).user
    return f"signed in as {user}" if user else "signed in"


def may_delete(uri: str, experiment_id: str) -> bool:
    """Whether a trial run could be removed again. A server without MLflow's accounts is taken for one that allows it.

    MLflow lets a user with the permission EDIT make runs, and not delete even those.
    """
    user = sent_to(uri).user
    if user is None:
        return True
    asked = {"username": user, "resource_type": "experiment", "resource_id": experiment_id}
    answer = _get(uri, PERMISSION, params=asked)
    if answer.status_code != 200:
        return True
    try:
        return bool(answer.json().get("permission") == MAY_DELETE)
    except (ValueError, AttributeError):
        return True


def _get(uri: str, path: str, **more: object) -> "Response":
    """One request with the user's credentials, certificates and proxies."""
    from mlflow.utils.credentials import get_default_host_creds
    from mlflow.utils.rest_utils import http_request

    creds = get_default_host_creds(uri)
    answer: Response = http_request(
        creds, path, "GET", max_retries=0, timeout=CHECK_SECONDS, raise_on_status=False, **more
    )
    return answer


def _session(answer: "Response") -> tuple[str, str | None]:
    """The protocol's version, and until when the certificate is valid."""
    import ssl

    connection = getattr(answer.raw, "connection", None)
    sock = getattr(connection, "sock", None)
    if not isinstance(sock, ssl.SSLSocket):  # a proxy's, which wraps it
        return "TLS", None
    certificate = sock.getpeercert() or {}
    return sock.version() or "TLS", str(certificate["notAfter"]) if "notAfter" in certificate else None


def _is_tls(error: BaseException) -> bool:
    return "SSL" in str(error) or "certificate" in str(error)


def _is_here(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _numbers(version: str) -> tuple[int, ...] | None:
    """(3, 17, 2) of 3.17.2; None for what is no version."""
    first = version.partition("+")[0].split(".")
    numbers = [int(one) for one in first if one.isascii() and one.isdecimal()]
    return tuple(numbers) if len(numbers) >= 2 and len(version) < 40 else None
