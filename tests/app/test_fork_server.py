"""Forks of a process that has imported everything: each is a process of its own, as one that was started anew."""

import importlib.machinery
import json
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
from ttt_mlflow.app.fork_server import DRIVER, NVML, Forked, ForkServer

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


# stand-ins for the driver and for NVML, which opens the same device as the driver does
LIBRARIES = {
    DRIVER: """
static int started;
int cuInit(unsigned flags) { started = 1; return 0; }
int cuDeviceGetCount(int *count) { *count = 1; return started ? 0 : 3; }
""",
    NVML: """
#include <fcntl.h>
#include <unistd.h>
static int times, device;
int nvmlInit(void) { if (!times++) device = open("{folder}/nvidia-uvm", O_RDWR | O_CREAT, 0600); return 0; }
int nvmlShutdown(void) { if (!times) return 1; if (!--times) close(device); return 0; }
""",
}
LOOK = """
import json, os, sys
from ttt_mlflow.app.fork_server import driver_is_started
files = [os.readlink(entry.path) for entry in os.scandir("/proc/self/fd") if os.path.exists(entry.path)]
devices = [os.path.basename(file) for file in files if "nvidia" in file]
print(json.dumps([driver_is_started(), devices, sorted({"imported", "other", "sub.deep"} & set(sys.modules))]))
"""


@pytest.fixture
def libraries(modules: Path) -> Path:
    """A module ``gpu`` whose functions call stand-ins for the libraries of a GPU, and a cell that looks around."""
    for name, text in LIBRARIES.items():
        source, library = modules / f"{name}.c", modules / name
        source.write_text(text.replace("{folder}", str(modules)))
        subprocess.run(["cc", "-shared", "-fPIC", f"-Wl,-soname,{name}", "-o", library, source], check=True)
    (modules / "gpu.py").write_text(
        f"import ctypes\ndriver, nvml = (ctypes.CDLL('{modules}/' + name) for name in {list(LIBRARIES)})\n"
        "def start():\n    driver.cuInit(0)\n"
    )
    (modules / "sub").mkdir()
    (modules / "sub" / "__init__.py").write_text("")
    (modules / "sub" / "deep.py").write_text("import gpu\ngpu.start()")
    (modules / "cell.py").write_text(LOOK)
    return modules


def looked(server: ForkServer, folder: Path) -> list[object]:
    with tempfile.TemporaryFile() as said:
        fork = server.start("cell", environment(folder), said)
        code = fork.wait(20)
        said.seek(0)
        assert code == 0, said.read().decode()
        return list(json.loads(fork.stdout.read()))


def test_what_opens_the_device_without_starting_the_driver_does_no_harm(libraries: Path) -> None:
    """PyTorch asks NVML for GPUs while it is imported. Each fork begins it anew."""
    (libraries / "imported.py").write_text("import gpu\ngpu.nvml.nvmlInit()\ngpu.nvml.nvmlInit()")
    server = ForkServer(environment(libraries))
    assert server.wait_until_ready() is None
    assert server.left_out == []
    assert looked(server, libraries) == [False, [], ["imported"]]
    server.close()


def test_what_starts_the_driver_is_left_out_and_the_rest_is_shared(
    libraries: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fork_server, "MODULES", ("imported", "deeper", "other", "direct"))
    (libraries / "other.py").write_text("")
    (libraries / "deeper.py").write_text("import sub.deep, calendar")
    (libraries / "direct.py").write_text("import gpu\ngpu.start()")
    server = ForkServer(environment(libraries))
    assert server.wait_until_ready() is None
    assert server.left_out == [
        "deeper: importing sub.deep starts the CUDA driver, which a fork cannot use",
        "direct: importing direct starts the CUDA driver, which a fork cannot use",
    ]
    assert looked(server, libraries) == [False, [], ["imported", "other"]]
    server.close()


@pytest.mark.parametrize(
    ("imported", "fault"),
    [
        ("raise RuntimeError('no such\\nluck')", "imported cannot be imported (RuntimeError: no such luck)"),
        (
            "import gpu, calendar\ngpu.start()",
            "imported: importing imported starts the CUDA driver, which a fork cannot use",
        ),
        ("import sub.deep", "imported: importing sub.deep starts the CUDA driver, which a fork cannot use"),
    ],
    ids=["an import that fails", "an import that uses the GPU", "an import in it that uses the GPU"],
)
def test_a_server_that_cannot_be_used_says_why(imported: str, fault: str, libraries: Path) -> None:
    (libraries / "imported.py").write_text(imported)
    server = ForkServer(environment(libraries))
    assert server.wait_until_ready() == fault
    server.close()


def test_the_calls_that_start_the_driver_are_all_found(libraries: Path) -> None:
    """For a GPU's host, on which tests/gpu looks at what is really imported."""
    (libraries / "direct.py").write_text("import gpu\ndef here():\n    gpu.start()\nhere()")
    command = [sys.executable, "-m", "tests.driver_starts"]
    found = subprocess.run(
        [*command, "imported", "sub.deep", "calendar", "direct"],
        env=environment(libraries),
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    starts = [line for line in found.splitlines() if "starts the driver" in line]
    assert starts == [f"{name}: importing {name} starts the driver:" for name in ("sub.deep", "direct")]
    assert found.count('gpu.py", line 4, in start') == 2
    assert 'direct.py", line 3, in here' in found
    none = subprocess.run(
        [*command, "imported", "calendar"], env=environment(libraries), capture_output=True, text=True
    )
    assert (none.returncode, none.stdout) == (0, ""), none.stderr


def test_a_server_that_nobody_needs_does_not_import_to_its_end(modules: Path) -> None:
    (modules / "imported.py").write_text(f"import time\nopen('{modules}/begun', 'w').close()\ntime.sleep(600)")
    server = ForkServer(environment(modules))
    wait_until((modules / "begun").exists)
    server.close()
    assert server._process.returncode == -signal.SIGKILL


def test_what_cells_import_is_there_and_uses_no_gpu() -> None:
    program = f"""
import importlib
for name in {list(fork_server.MODULES)}:
    importlib.import_module(name)
import torch
from ttt_mlflow.app.fork_server import driver_is_started
assert not torch.cuda.is_initialized()
assert not driver_is_started()
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
