"""The Python interface: what a script or a notebook gets, and what it is spared."""

import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from rich.console import Console

import ttt_mlflow
from tests.project import ROOT, new_store
from ttt_mlflow import names
from ttt_mlflow.errors import BadInput, OutOfMemory, PublishFailed, RunFailed
from ttt_mlflow.models import registry
from ttt_mlflow.models.entry import DecodeModel, ModelEntry, ModelRequest
from ttt_mlflow.record.finding import find_journals

TINY = ttt_mlflow.RunConfig(model_name="ttt-tiny", device="cpu", batch=2, genlen=3, warmup=1, repeats=3)
MICRO = ttt_mlflow.MicroConfig(device="cpu", kernels=("mlp_1_dual",), heads=2, head_dim=16, batches=(1,), seconds=0.001)


def test_what_a_run_measured(tmp_path: Path) -> None:
    result = ttt_mlflow.measure(TINY, logdir=tmp_path)
    assert (result.status, result.failure) == ("ok", None)
    assert result.verdict == result.record.tags["ttt.verdict"] != "valid", "a CPU is not seen by NVML"
    throughput = result.metrics["decode_tokens_per_s"]
    interval = result.confidence_interval("decode_tokens_per_s")
    assert interval is not None
    assert interval[0] <= throughput <= interval[1]
    assert result.confidence_interval(names.DECODE_TOKENS_PER_S) == interval
    assert result.confidence_interval("prefill_ms") is None, "no throughput has no interval"
    assert result.folder.parent == tmp_path
    assert (result.folder / "artifacts/timing/passes.json").exists()
    assert "imports_s" not in result.metrics, "the age of a process that goes on says nothing"
    assert "ttt-tiny mlp_1_dual b2 g3 cpu" in result.summary()
    assert "| decode | " in result._repr_markdown_()
    result.raise_for_failure()


def test_in_any_thread_with_the_signals_as_they_are(tmp_path: Path) -> None:
    """The thread that asked for it may have ended before."""
    results: list[ttt_mlflow.Result] = []
    signums = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = [signal.getsignal(signum) for signum in signums]

    def measure() -> None:
        results.append(ttt_mlflow.measure({**TINY.model_dump(), "profile": "torch"}, logdir=tmp_path))

    def start() -> None:
        threads.append(threading.Thread(target=measure))
        threads[0].start()

    threads: list[threading.Thread] = []
    starting = threading.Thread(target=start)
    starting.start()
    starting.join()
    threads[0].join()
    (result,) = results
    assert (result.status, result.failure) == ("ok", None)
    assert [signal.getsignal(signum) for signum in signums] == before


def test_a_mapping_is_a_run(tmp_path: Path) -> None:
    result = ttt_mlflow.measure({**TINY.model_dump(), "mode": "prefill", "promptlen": 20}, logdir=tmp_path)
    assert result.metrics["prefill_tokens_per_s"] > 0


def test_a_micro_benchmark(tmp_path: Path) -> None:
    result = ttt_mlflow.measure(MICRO, logdir=tmp_path)
    assert result.status == "ok"
    assert result.metrics["kernel_error/mlp_1_dual"] < 1e-3
    assert "mlp_1_dual" in result.summary()


def test_nothing_is_printed_unless_asked_for(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    ttt_mlflow.measure(TINY, logdir=tmp_path)
    assert capfd.readouterr() == ("", "")
    ttt_mlflow.measure(TINY, logdir=tmp_path, console=Console())
    assert "building ttt-tiny" in capfd.readouterr().out


@pytest.mark.parametrize(
    ("values", "faults"),
    [
        ({"batch": 0}, ["batch=0: not allowed; batch takes a whole number of at least 1"]),
        ({"mode": "y", "batch": "x"}, ["mode=y: not allowed; ", "batch=x: not allowed; "]),
        ({"batches": 1}, ["batches: no such parameter; the parameters are model_name, "]),
    ],
)
def test_bad_input_is_refused_before_anything_is_recorded(
    values: dict[str, Any], faults: list[str], tmp_path: Path
) -> None:
    for ask in (lambda: ttt_mlflow.measure(values, logdir=tmp_path), lambda: ttt_mlflow.RunConfig(**values)):
        with pytest.raises(BadInput) as refused:
            ask()
        lines = str(refused.value).splitlines()
        assert [line[: len(fault)] for line, fault in zip(lines, faults, strict=True)] == faults
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_had_here_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="no such model"):
        ttt_mlflow.measure({"model_name": "gpt-2"}, logdir=tmp_path)
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(BadInput, match="not writable"):
        ttt_mlflow.measure(TINY, logdir=tmp_path / "file")


def failing(error: BaseException, monkeypatch: pytest.MonkeyPatch) -> ttt_mlflow.RunConfig:
    def build(request: ModelRequest) -> DecodeModel:
        raise error

    entry = ModelEntry("failing", build, "fails while it is built")
    monkeypatch.setattr(registry, "_registered", {**registry.models(), "failing": entry})
    return ttt_mlflow.RunConfig(model_name="failing", device="cpu")


@pytest.mark.parametrize(
    ("error", "kind", "status"),
    [(ValueError("no weights"), RunFailed, "error"), (MemoryError("not enough memory"), OutOfMemory, "oom")],
)
def test_a_run_that_fails_returns_its_result(
    error: Exception, kind: type[Exception], status: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = ttt_mlflow.measure(failing(error, monkeypatch), logdir=tmp_path)
    assert (type(result.failure), result.status) == (kind, status)
    assert result.metrics.get("decode_tokens_per_s") is None
    with pytest.raises(kind):
        result.raise_for_failure()


def test_an_interrupted_notebook_cell_is_recorded_as_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without our signal handler SIGINT is a KeyboardInterrupt: it goes on to the caller."""
    with pytest.raises(KeyboardInterrupt):
        ttt_mlflow.measure(failing(KeyboardInterrupt(), monkeypatch), logdir=tmp_path)
    (record,) = find_journals(tmp_path).journals
    assert (record.status["status"], record.status["message"]) == ("killed", "stopped by SIGINT")
    assert record.status["exit_code"] == 130


# Publishing


def test_a_result_becomes_one_mlflow_run(tmp_path: Path) -> None:
    store, result = new_store(tmp_path), ttt_mlflow.measure(TINY, logdir=tmp_path / "runs")
    published = ttt_mlflow.publish(result, tracking_uri=store, experiment_name="mine")
    assert published.run_url is None, "a file has no link"
    run = MlflowClient(store).get_run(published.run_id)
    assert run.info.status == "FINISHED"
    assert run.data.metrics["decode_tokens_per_s"] == result.metrics["decode_tokens_per_s"]
    assert ttt_mlflow.publish(result, tracking_uri=store).run_id == published.run_id


def test_a_store_that_cannot_be_reached_keeps_the_record(tmp_path: Path) -> None:
    result = ttt_mlflow.measure(TINY, logdir=tmp_path)
    with pytest.raises(PublishFailed, match="the record is kept"):
        ttt_mlflow.publish(result, tracking_uri="http://127.0.0.1:9")
    assert result.status == "ok"


# Importing


@pytest.mark.parametrize(
    ("program", "absent"),
    [
        ("import ttt_mlflow", {"torch", "mlflow", "pydantic", "numpy", "rich", "click"}),
        ("import ttt_mlflow; ttt_mlflow.RunConfig(batch=8)", {"torch", "mlflow"}),
        ("import ttt_mlflow; ttt_mlflow.measure", {"mlflow", "click"}),
    ],
)
def test_libraries_are_loaded_when_they_are_needed(program: str, absent: set[str]) -> None:
    check = f"{program}; import sys; print(*sorted({absent!r} & sys.modules.keys()))"
    done = subprocess.run([sys.executable, "-c", check], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def test_the_package_offers_its_interface_and_nothing_else() -> None:
    assert set(ttt_mlflow.__all__) <= set(dir(ttt_mlflow))
    with pytest.raises(AttributeError, match="has no attribute 'mesure'"):
        ttt_mlflow.mesure  # noqa: B018
