"""A server that others write to: its texts are shown as texts, and its artifacts stay in the folder for them."""

import json
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
from mlflow import MlflowClient

from tests.project import ROOT, environment
from tests.record.conftest import MakeJournal
from ttt_mlflow.names import ARTIFACT_TORCH_KERNELS_CSV, Artifact
from ttt_mlflow.tracking.publish import publish
from ttt_mlflow.tracking.query import open_store

RUN_ID = "0123456789abcdef0123456789abcdef"
EVIL = "<script>alert(1)</script> [x](javascript:alert(1)) \x1b[31m|`red`"
ESCAPES = [
    "{path}/../../../../../../../../{target}",
    "{path}/%2e%2e/%2e%2e/%2e%2e/%2e%2e/%2e%2e/%2e%2e/{target}",
    "/{target}",
    "{path}/..\\..\\..\\{target}",
    "{path}//{target}",
]


@contextmanager
def hostile(listed: str) -> Iterator[str]:
    """A tracking server with one run. The artifact that is asked for is a folder there, with ``listed`` in it."""
    path = ARTIFACT_TORCH_KERNELS_CSV.path
    experiment = {"experiment_id": "1", "name": "ttt-mlflow", "lifecycle_stage": "active"}
    tags = [{"key": "ttt.kind", "value": "decode"}, {"key": "ttt.entry_point", "value": "main"}]
    info = {
        "run_id": RUN_ID,
        "run_uuid": RUN_ID,
        "run_name": EVIL,
        "experiment_id": "1",
        "status": "FINISHED",
        "lifecycle_stage": "active",
        "start_time": 1,
        "artifact_uri": f"mlflow-artifacts:/1/{RUN_ID}/artifacts",
    }
    run = {"info": info, "data": {"tags": [*tags, {"key": "ttt.gpu_name", "value": EVIL}]}}

    def files(asked: str) -> list[dict[str, object]]:
        if asked.endswith(path):
            return [{"path": listed, "is_dir": False, "file_size": 5}]
        return [{"path": path, "is_dir": True}]

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            url = urlsplit(self.path)
            asked = parse_qs(url.query).get("path", [""])[0]
            if url.path.endswith("/runs/get"):
                answer: object = {"run": run}
            elif url.path.endswith("/runs/search"):
                answer = {"runs": [run]}
            elif url.path.endswith("/experiments/get-by-name"):
                answer = {"experiment": experiment}
            elif url.path.endswith("/experiments/search"):
                answer = {"experiments": [experiment]}
            elif url.path.endswith(("/artifacts/list", "/mlflow-artifacts/artifacts")):
                answer = {"files": files(asked)}
            else:
                answer = "owned"
            body = json.dumps(answer).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_POST = do_GET

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


@pytest.mark.parametrize("spelling", ESCAPES)
def test_an_artifact_whose_path_leads_out_of_the_folder(spelling: str, tmp_path: Path) -> None:
    target = tmp_path / "owned"
    listed = spelling.format(path=ARTIFACT_TORCH_KERNELS_CSV.path, target=str(target).lstrip("/"))
    with hostile(listed) as uri, open_store(uri) as store:
        run = store.run(RUN_ID)
        assert run is not None
        read = run.artifact(ARTIFACT_TORCH_KERNELS_CSV)
        assert read is not None
        assert read.resolve().is_relative_to(store._folder.resolve())
        assert read.read_bytes() == b'"owned"', "its content is the server's, its place is not"
    assert not target.exists()


def test_our_own_upload_refuses_such_a_path(make_journal: MakeJournal) -> None:
    journal = make_journal()
    for path in ("../outside", "a/../../outside", "/tmp/outside"):
        with pytest.raises(ValueError, match="inside the journal"):
            journal.write_artifact(Artifact(path, "somewhere else"), "x")


def test_the_server_refuses_such_a_path(server_uri: str, server_folder: Path, make_journal: MakeJournal) -> None:
    run_id = publish(make_journal(), server_uri).run_id
    root = MlflowClient(server_uri).get_run(run_id).info.artifact_uri.removeprefix("mlflow-artifacts:/")
    for path in ("../../../outside", "%2e%2e/%2e%2e/%2e%2e/outside", "..%2f..%2f..%2foutside"):
        address = f"{server_uri}/api/2.0/mlflow-artifacts/artifacts/{root}/{path}"
        request = urllib.request.Request(address, b"owned", method="PUT")
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(request, timeout=30)
        assert refused.value.code in (400, 404)
    assert not [*server_folder.rglob("outside")]


@pytest.mark.parametrize(
    "form", ["text", *(pytest.param(form, marks=pytest.mark.long) for form in ("markdown", "csv", "json"))]
)
def test_names_and_tags_of_others_in_a_table(form: str) -> None:
    with hostile("x") as uri:
        command = [sys.executable, "-m", "ttt_mlflow", "table", "--tracking-uri", uri, "--format", form]
        command += ["--columns", "name,tags.ttt.gpu_name"]
        done = subprocess.run(command, env=environment(), cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "\x1b" not in done.stdout
    if form == "markdown":
        assert "&lt;script>" in done.stdout
        assert "[x]\\(javascript" in done.stdout
        assert "\\|\\`red\\`" in done.stdout
    elif form == "json":
        assert json.loads(done.stdout)[0]["name"] == EVIL
    else:
        assert "<script>" in done.stdout, "in a terminal, the text itself"
