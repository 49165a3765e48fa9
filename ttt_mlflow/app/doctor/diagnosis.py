"""Checks whether this machine can measure. Each need of a full measurement has one finding.

The checks run in separate threads and have the same time limit. A check that hangs or fails becomes a finding and does
not delay the others. Nothing is measured unless :func:`measure_gpus` is called.
"""

import importlib
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, wait
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ttt_mlflow.app.doctor import gpu, software, store
from ttt_mlflow.app.doctor.finding import SEVERITY, Asked, Finding, State, Wrong
from ttt_mlflow.errors import TTTError
from ttt_mlflow.report.text import json_text

SECONDS = 9.0  # from the start of the process to the last answer
LEAST_SECONDS = 4.0  # for the checks, even if the start took long
CHILD_SHARE = 0.8  # of that time for a process that a check starts, so that it ends before its check does


def diagnose(asked: Asked, seconds: float) -> list[Finding]:
    """All findings, within ``seconds``. A check that has not answered by then is a finding too."""
    deadline = time.monotonic() + seconds
    try:
        importlib.import_module("torch")  # imported here, so that the threads do not wait for each other's import
    except (ImportError, OSError) as error:  # OSError: a library of PyTorch does not load
        return [
            Finding("pytorch", "failed", f"PyTorch does not load: {type(error).__name__}: {error}", "reinstall PyTorch")
        ]
    server = store.asks_server(asked)
    gpus = _begin(gpu.find_gpus)
    others = _begin(lambda: gpu.check_others(gpus.result()))
    checks: dict[str, Callable[[], str]] = {
        "gpu": lambda: gpu.check_gpu(gpus.result()),
        "clocks": lambda: gpu.check_clocks(gpus.result()),
        "others": others.result,
        "telemetry": lambda: gpu.check_telemetry(gpus.result()),
        "gpm": lambda: gpu.check_gpm(gpus.result()),
        "ceilings": lambda: gpu.check_ceilings(gpus.result()),
        # its kernel makes this process one of the GPU's processes; in a container, NVML lists it with another pid
        "triton": lambda: software.check_triton(_after(others, gpus, seconds / 4)),
        "mamba": lambda: software.check_mamba(gpus.result(), CHILD_SHARE * seconds),
        "peers": software.check_peers,
        "nsys": lambda: software.check_nsys(CHILD_SHARE * seconds),
        "logdir": lambda: store.check_folder(asked.logdir, "the record of a run"),
        "temp": lambda: store.check_folder(Path(tempfile.gettempdir()), "compilers and profilers"),
        **({} if server else {"tracking": lambda: store.check_tracking(asked)}),
    }
    started = {name: _begin(check) for name, check in checks.items()} | (_begin_server(asked) if server else {})
    return [_finding(name, future, deadline, seconds) for name, future in started.items()]


def _begin_server(asked: Asked) -> "dict[str, Future[Any]]":
    """The checks of a server, one after the other: MLflow's client takes its settings from the environment."""
    server = _begin(lambda: store.check_server(asked, "server"))
    tls = _begin(lambda: store.check_server(asked, "tls", server))
    account = _begin(lambda: store.check_server(asked, "account", tls))

    def write() -> str:
        store.after(account)
        return store.check_tracking(asked)

    return {"server": server, "tls": tls, "account": account, "tracking": _begin(write)}


def exit_code(findings: Sequence[Finding]) -> int:
    """0: nothing is missing. 1: something is missing for full measurements. 2: measuring or recording is impossible."""
    return max(SEVERITY.index(finding.state) for finding in findings)


def findings_text(findings: Sequence[Finding]) -> str:
    """The findings as text, one line each."""
    width = max(len(finding.name) for finding in findings)
    return "\n".join(
        f"{finding.state:<7}  {finding.name:<{width}}  {'; '.join(filter(None, [finding.found, finding.remedy]))}"
        for finding in findings
    )


def findings_json(findings: Sequence[Finding], measured: dict[str, dict[str, float]] | None = None) -> str:
    """exit_code, checks (name, state, found, remedy) and, where they were measured, the ceilings by GPU UUID."""
    record: dict[str, Any] = {"exit_code": exit_code(findings), "checks": [asdict(finding) for finding in findings]}
    return json_text(record if measured is None else {**record, "ceilings": measured})


# Time limits


def _begin(action: Callable[[], Any]) -> "Future[Any]":
    """Run ``action`` in a thread. The end of the process does not wait for the thread."""
    future: Future[Any] = Future()

    def work() -> None:
        try:
            future.set_result(action())
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=work, daemon=True).start()
    return future


def _after(first: "Future[Any]", second: "Future[Any]", patience_s: float) -> Any:
    """The result of ``second``, once ``first`` has ended or ``patience_s`` has passed."""
    wait([first], timeout=patience_s)
    return second.result()


def _finding(name: str, future: "Future[Any]", deadline: float, seconds: float) -> Finding:
    try:
        return Finding(name, "ok", future.result(timeout=max(0.0, deadline - time.monotonic())))
    except TimeoutError:
        if future.done():  # the check itself raised it
            return Finding(name, _worst_of(name), "the check had a timeout of its own")
        return Finding(name, _worst_of(name), f"no answer within {seconds:.1f} s")
    except Wrong as wrong:
        return Finding(name, wrong.state, wrong.found, wrong.remedy)
    except Exception as error:  # a check that breaks is a finding, whatever the error
        said = " ".join(str(error).split())[:300]
        return Finding(
            name, _worst_of(name), said if isinstance(error, TTTError) else f"{type(error).__name__}: {said}"
        )


def _worst_of(name: str) -> State:
    """``failed`` where nothing could be recorded, else ``limited``."""
    return "failed" if name in ("logdir", "temp", "tracking", "server", "account") else "limited"


# The GPU


# The software


# Where the record goes
