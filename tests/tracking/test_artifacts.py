"""Artifacts count as sent once what arrived was checked, on a real server behind a proxy that breaks them."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from mlflow import MlflowClient

from tests.catalog import artifact
from tests.record.conftest import MakeJournal
from tests.tracking.faulty_proxy import FaultyProxy, faulty_proxy
from ttt_mlflow.errors import PublishFailed
from ttt_mlflow.record.journal import Journal
from ttt_mlflow.tracking import artifacts, store
from ttt_mlflow.tracking.artifacts import in_parallel
from ttt_mlflow.tracking.publish import How, publish

STEPS = "timing/steps.csv"


@pytest.fixture(scope="module")
def proxy(server_uri: str) -> Iterator[FaultyProxy]:
    with faulty_proxy(server_uri) as proxy:
        yield proxy


@pytest.fixture(autouse=True)
def _no_fault(proxy: FaultyProxy, monkeypatch: pytest.MonkeyPatch) -> None:
    proxy.fault = lambda method, path: None
    proxy.requests.clear()
    monkeypatch.setitem(store.CHECK_PATIENCE, "MLFLOW_HTTP_REQUEST_TIMEOUT", "60")  # of a busy machine


def content(uri: str, run_id: str, path: str) -> bytes:
    return Path(MlflowClient(uri).download_artifacts(run_id, path)).read_bytes()


def check_whole(uri: str, journal: Journal) -> None:
    """The run has ended, and each artifact is what the record has."""
    run = MlflowClient(uri).get_run(journal.published["run_id"])
    assert run.info.status == "FINISHED"
    for path in journal.artifact_files():
        assert content(uri, run.info.run_id, path) == (journal.artifacts / path).read_bytes()


def check_refused(proxy: FaultyProxy, journal: Journal, *parts: str) -> None:
    with pytest.raises(PublishFailed) as raised:
        publish(journal, proxy.uri)
    for part in (*parts, f"ttt-mlflow sync {journal.path} --tracking-uri {proxy.uri}"):
        assert part in str(raised.value)
    assert "\n" not in str(raised.value)
    assert journal.published == {}
    assert MlflowClient(proxy.uri).get_run(str(journal.target["run_id"])).info.status == "RUNNING"


@pytest.mark.parametrize(
    ("method", "place", "what"),
    [
        ("PUT", STEPS, "an upload"),
        pytest.param("GET", "mlflow-artifacts/artifacts?", "a listing of artifacts", marks=pytest.mark.long),
        pytest.param("GET", STEPS, "a download", marks=pytest.mark.long),
    ],
)
def test_a_login_page_is_a_failure(
    proxy: FaultyProxy, make_journal: MakeJournal, method: str, place: str, what: str
) -> None:
    journal = make_journal()
    proxy.fault = lambda verb, path: "page" if verb == method and place in path else None
    check_refused(proxy, journal, f"{proxy.uri} answered {what} with a web page (text/html), as a proxy's login page")
    proxy.fault = lambda method, path: None
    publish(journal, proxy.uri)
    check_whole(proxy.uri, journal)


def test_a_login_page_in_the_place_of_the_api(proxy: FaultyProxy, make_journal: MakeJournal) -> None:
    journal = make_journal()
    proxy.fault = lambda method, path: "page" if "log-batch" in path else None
    check_refused(proxy, journal, "as a proxy's login page does")


@pytest.mark.parametrize(
    ("fault", "said"),
    [("empty", "(0 of 23 bytes)"), ("half", "(11 of 23 bytes)"), ("other", "(other content)")],
)
def test_what_did_not_arrive_whole_is_sent_again_alone(
    proxy: FaultyProxy, make_journal: MakeJournal, fault: str, said: str
) -> None:
    journal = make_journal()
    proxy.fault = lambda method, path: fault if method == "PUT" and path.endswith(STEPS) else None
    check_refused(proxy, journal, f"1 of 4 artifacts did not arrive whole: {STEPS} {said}")
    proxy.fault = lambda method, path: None
    proxy.requests.clear()
    publish(journal, proxy.uri)
    assert [path.rpartition("/artifacts/")[2] for path in proxy.uploads()] == [STEPS]
    check_whole(proxy.uri, journal)


def test_nothing_is_sent_twice_unless_it_is_gone(
    proxy: FaultyProxy, server_folder: Path, make_journal: MakeJournal
) -> None:
    journal = make_journal()
    run_id = publish(journal, proxy.uri).run_id
    proxy.requests.clear()
    publish(journal, proxy.uri)
    assert proxy.uploads() == []
    assert not [path for method, path in proxy.requests if path.endswith(STEPS)]  # nor read back again
    (kept,) = server_folder.glob(f"artifacts/*/{run_id}/artifacts/{STEPS}")
    kept.write_text("x" * kept.stat().st_size)
    publish(journal, proxy.uri, how=How(verify=True))
    assert [path.rpartition("/artifacts/")[2] for path in proxy.uploads()] == [STEPS]
    check_whole(proxy.uri, journal)


def test_a_large_file_is_read_back_on_request(
    proxy: FaultyProxy, make_journal: MakeJournal, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server tells its size alone."""
    monkeypatch.setattr(artifacts, "READ_BACK", 10)
    journal = make_journal("running")
    journal.write_artifact(artifact("profile/trace.json"), b"[1, 2, 3]" * 50)
    journal.set_status("ok", exit_code=0)
    proxy.fault = lambda method, path: "other" if method == "PUT" and path.endswith(STEPS) else None
    publish(journal, proxy.uri)
    assert not [path for method, path in proxy.requests if method == "GET" and path.endswith(STEPS)]
    with pytest.raises(PublishFailed, match=r"timing/steps.csv \(other content\)"):
        publish(journal, proxy.uri, how=How(verify=True))
    proxy.fault = lambda method, path: None
    publish(journal, proxy.uri, how=How(verify=True))
    check_whole(proxy.uri, journal)


@pytest.mark.parametrize("count", [0, 1, 9])
def test_in_parallel(count: int) -> None:
    assert in_parallel(lambda one: one * one, range(count)) == [one * one for one in range(count)]


def test_the_first_error_ends_it() -> None:
    def fail(one: int) -> int:
        if one == 3:
            raise OSError("no")
        return one

    with pytest.raises(OSError, match="no"):
        in_parallel(fail, range(9))
