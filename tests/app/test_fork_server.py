"""Forks of a process that has imported everything: each is a process of its own, as one that was started anew."""

import importlib.machinery
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from tests.project import wait_until
from ttt_mlflow.app import fork_server
from ttt_mlflow.app.fork_server import DRIVER, Forked, ForkServer

CELL = """
import json, os, sys, time
print(json.dumps([sys.stdin.readline(), os.environ["SAID"], os.getsid(0) == os.getpid(), "imported" in sys.modules]))
print("to the file", file=sys.stderr)
sys.stdout.flush()
time.sleep(float(os.environ.get("SLEEP", 0)))
sys.exit(int(os.environ.get("CODE", 0)))
"""


@pytest.fixture
def modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "cell.py").write_text(CELL)
    (tmp_path / "imported.py").write_text("")
    monkeypatch.setattr(fork_server, "MODULES", ("imported",))
    monkeypatch.setattr(fork_server, "IF_INSTALLED", ())
    return tmp_path


def environment(folder: Path, **more: str) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(folder), *sys.path]), **more}


@pytest.fixture
def server(modules: Path) -> Iterator[ForkServer]:
    server = ForkServer(environment(modules, SAID="by the server"))
    assert server.wait_until_ready() is None
    yield server
    server.close()


Start = Callable[..., Forked]


@pytest.fixture
def start(server: ForkServer, modules: Path) -> Iterator[Start]:
    with tempfile.TemporaryFile() as said:
        yield lambda **more: server.start("cell", environment(modules, **{"SAID": "x", **more}), said)


def test_a_fork_has_its_own_input_output_environment_and_session(server: ForkServer, modules: Path) -> None:
    with tempfile.TemporaryFile() as said:
        one = server.start("cell", environment(modules, SAID="one", CODE="3"), said)
        two = server.start("cell", environment(modules, SAID="two"), said)
        for number, fork in enumerate((one, two)):
            fork.stdin.write(b"task %d\n" % number)
            fork.stdin.close()
        assert [one.wait(20), two.wait(20)] == [3, 0]
        assert one.stdout.read() == b'["task 0\\n", "one", true, true]\n'
        assert two.stdout.read() == b'["task 1\\n", "two", true, true]\n'
        said.seek(0)
        assert said.read() == b"to the file\n" * 2
    assert server.wait_until_ready() is None, "it goes on"


def test_a_signal_ends_one_fork_alone(start: Start) -> None:
    one, two = start(SLEEP="60"), start(SLEEP="60")
    with pytest.raises(subprocess.TimeoutExpired):
        one.wait(0.2)
    one.send_signal(signal.SIGTERM)
    os.killpg(two.pid, signal.SIGKILL)
    assert [one.wait(20), two.wait(20)] == [-signal.SIGTERM, -signal.SIGKILL]
    one.send_signal(signal.SIGTERM)  # it is not there any more


def test_a_fork_sees_the_end_of_its_input_when_whoever_started_it_ends(start: Start) -> None:
    fork = start()
    fork.stdin.close()
    assert fork.wait(20) == 0
    assert fork.stdout.read().startswith(b'["", "x"')


def test_a_server_that_dies_is_noticed(server: ForkServer, start: Start) -> None:
    fork = start(SLEEP="0.5")
    server._process.kill()
    server._process.wait()
    with pytest.raises(OSError):  # noqa: PT011 (a broken pipe, or no answer)
        start()
    fork.stdin.close()
    assert fork.wait(20) == fork_server.LOST
    assert fork.stdout.read().startswith(b'["", "x"'), "it was measured to its end"


def test_the_server_ends_with_whoever_started_it(modules: Path) -> None:
    program = f"""
import os, time
from ttt_mlflow.app import fork_server
fork_server.MODULES, fork_server.IF_INSTALLED = ("imported",), ()
server = fork_server.ForkServer(os.environ)
assert server.wait_until_ready() is None
print(server._process.pid, flush=True)
os.kill(os.getpid(), {signal.SIGKILL.value})
"""
    done = subprocess.run([sys.executable, "-c", program], env=environment(modules), capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    wait_until(lambda: not psutil.pid_exists(int(done.stdout)))


@pytest.mark.parametrize(
    ("imported", "fault"),
    [
        ("raise RuntimeError('no such\\nluck')", "imported cannot be imported (RuntimeError: no such luck)"),
        (
            f"import sub, calendar\nkept = sub.start('{{folder}}/{DRIVER}')",
            "importing imported has started the CUDA driver, which a fork cannot use",
        ),
        (
            f"import sub.deep\nkept = open('{{folder}}/{DRIVER}')",
            "importing sub.deep has started the CUDA driver, which a fork cannot use",
        ),
    ],
    ids=["an import that fails", "an import that uses the GPU", "an import in it that uses the GPU"],
)
def test_a_server_that_cannot_be_used_says_why(imported: str, fault: str, modules: Path) -> None:
    """A file with its name stands in for the driver's device."""
    device = modules / DRIVER
    device.write_text("")
    (modules / "sub").mkdir()
    (modules / "sub" / "__init__.py").write_text("start = open")
    (modules / "sub" / "deep.py").write_text(f"kept = open('{device}')")
    (modules / "imported.py").write_text(imported.format(folder=modules))
    server = ForkServer(environment(modules))
    assert server.wait_until_ready() == fault
    server.close()


def test_what_cells_import_is_there_and_uses_no_gpu() -> None:
    program = f"""
import importlib
for name in {list(fork_server.MODULES)}:
    importlib.import_module(name)
import torch
from ttt_mlflow.app.fork_server import _driver_is_started
assert not torch.cuda.is_initialized()
assert not _driver_is_started()
"""
    env = environment(Path(), **fork_server.WITHOUT_DRIVER)
    done = subprocess.run([sys.executable, "-c", program], env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_watching_imports_leaves_nothing_behind() -> None:
    loaders = [importlib.machinery.SourceFileLoader, importlib.machinery.ExtensionFileLoader]
    before = [(loader.exec_module, "exec_module" in vars(loader)) for loader in loaders]
    with fork_server._watched() as starters:
        assert [loader.exec_module for loader in loaders] != [function for function, _ in before]
    assert [(loader.exec_module, "exec_module" in vars(loader)) for loader in loaders] == before
    assert not starters
