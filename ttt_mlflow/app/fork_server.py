"""Starts processes from one that has imported everything that they need.

Importing PyTorch, its compiler and this package takes each new process over ten seconds. A fork has all of it at once.
The server only imports: it has not started the CUDA driver, which no fork could use then, and it starts no threads of
its own. Once it has imported, it takes no time of the host, so that it can wait beside a measurement.
"""

import ctypes
import gc
import importlib
import importlib.machinery
import importlib.util
import json
import os
import runpy
import selectors
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import IO, Any

from ttt_mlflow.errors import one_line

# what a cell imports before it measures, and the compiler; what takes longest comes first, so that most is kept of it
# where one of them must be left out
MODULES = (
    "torch",
    "torch._dynamo",
    "torch._inductor.compile_fx",
    "ttt_mlflow.app.measure",
    "ttt_mlflow.app.sweep.task",
)
# what mamba-ssm imports; itself, it asks the GPU while it is imported, which a fork's server must not
IF_INSTALLED = ("transformers.generation", "einops")
# lets PyTorch count GPUs without the driver, whose state a fork could not use
WITHOUT_DRIVER = {"PYTORCH_NVML_BASED_CUDA_CHECK": "1"}
DRIVER, NVML = "libcuda.so.1", "libnvidia-ml.so.1"
NOT_INITIALIZED = 3  # CUDA_ERROR_NOT_INITIALIZED: what the driver answers until cuInit was called
LEFT_OUT = "--left-out="
COMMAND = (sys.executable, "-P", "-m", "ttt_mlflow.app.fork_server")
MESSAGE_BYTES = 1 << 18
LOOK_S = 0.05  # between two looks at a process that is waited for
LOST = 1  # the exit code of a process whose server has ended before it


@dataclass
class Forked:
    """A process that was forked; with the interface of :class:`subprocess.Popen`, as far as it is needed."""

    server: "ForkServer"
    pid: int
    stdin: IO[bytes]
    stdout: IO[bytes]
    returncode: int | None = None

    def poll(self) -> int | None:
        self.server.collect()
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        deadline = None if timeout is None else time.monotonic() + timeout
        while (code := self.poll()) is None:
            if deadline is not None and time.monotonic() > deadline:
                raise subprocess.TimeoutExpired(f"process {self.pid}", timeout or 0.0)
            time.sleep(LOOK_S)
        return code

    def send_signal(self, signum: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, signum)


class ForkServer:
    """The server, and what it has started. environment: of the server, which /proc shows for its forks too.

    left_out: what each fork must import by itself, and why, one line each; known when the server is ready.
    """

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._socket, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with there:
            self._process = subprocess.Popen(
                [*COMMAND, str(there.fileno()), *MODULES, *_installed()],
                env={**environment, **WITHOUT_DRIVER},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                pass_fds=[there.fileno()],
                start_new_session=True,
            )
        self._forked: dict[int, Forked] = {}
        self.is_ready = False
        self.left_out: list[str] = []

    def close(self) -> None:
        self._socket.close()
        if not self.is_ready:  # nobody waits for what it still imports
            self._process.kill()
        self._process.wait()

    def wait_until_ready(self) -> str | None:
        """Wait until everything is imported. Returns why no process can be started, in one line, or None."""
        if not self.is_ready:
            answer = self._receive()
            fault = answer["fault"] if answer else f"it ended with code {self._process.wait()}"
            if fault or not answer:
                return str(fault)
            self.left_out = answer["left_out"]
            self.is_ready = True
        return None

    def start(self, module: str, environment: Mapping[str, str], stderr: IO[bytes]) -> Forked:
        """Run ``module`` as ``python -m`` does, in a new session. Raises OSError if the server has ended."""
        (child_in, to_child), (from_child, child_out) = os.pipe(), os.pipe()
        try:
            order = json.dumps({"module": module, "environment": dict(environment)}).encode()
            socket.send_fds(self._socket, [order], [child_in, child_out, stderr.fileno()])
        except OSError:
            os.close(to_child)
            os.close(from_child)
            raise
        finally:
            os.close(child_in)
            os.close(child_out)
        stdin, stdout = os.fdopen(to_child, "wb"), os.fdopen(from_child, "rb", buffering=0)
        while (answer := self._receive()) and "ended" in answer:
            self._note(answer)
        if answer is None:
            raise OSError("the process from which others are forked has ended")
        forked = self._forked[answer["pid"]] = Forked(self, answer["pid"], stdin, stdout)
        return forked

    def collect(self) -> None:
        """Note which processes have ended."""
        while True:
            try:
                answer = self._receive(socket.MSG_DONTWAIT)
            except BlockingIOError:
                return
            if answer is None:
                break
            self._note(answer)
        for forked in self._forked.values():  # the server has ended, and nobody tells how they will
            if forked.returncode is None and not Path(f"/proc/{forked.pid}").exists():
                forked.returncode = LOST

    def _note(self, answer: Mapping[str, int]) -> None:
        self._forked.pop(answer["ended"]).returncode = answer["code"]

    def _receive(self, flags: int = 0) -> dict[str, Any] | None:
        """The next answer; None if the server has ended."""
        try:
            text = self._socket.recv(MESSAGE_BYTES, flags)
        except ConnectionError:
            return None
        return json.loads(text) if text else None


# In the server


def _installed() -> list[str]:
    return [name for name in IF_INSTALLED if importlib.util.find_spec(name.partition(".")[0])]


def main(connection: socket.socket, words: Sequence[str]) -> int:
    """Import, then fork on request. In a fork, it runs what was asked for.

    words: the modules to import, and what earlier attempts of this process have left out, as ``LEFT_OUT`` texts.
    """
    modules = [word for word in words if not word.startswith(LEFT_OUT)]
    left_out = [word.removeprefix(LEFT_OUT) for word in words if word.startswith(LEFT_OUT)]
    fault = _import_all(modules, connection.fileno(), left_out)
    connection.send(json.dumps({"fault": fault, "left_out": left_out}).encode())
    if fault:
        return 1
    _end_nvml()
    gc.collect()
    gc.freeze()  # so that a fork's collections leave the shared memory alone
    module = _serve(connection)
    if module is None:
        return 0
    sys.argv = [module]
    runpy.run_module(module, run_name="__main__", alter_sys=True)
    return 0


def _import_all(modules: Sequence[str], connection: int, left_out: Sequence[str]) -> str | None:
    """Returns why no fork could measure, in one line, or None.

    If one of ``modules`` starts the driver, this process begins anew without it: nothing else ends the driver.
    """
    with _watched() as starters:
        for name in modules:
            try:
                importlib.import_module(name)
            except Exception as error:  # a run that needs it will say so
                return f"{name} cannot be imported ({one_line(error)})"
            if starters:
                others = [other for other in modules if other != name]
                why = f"importing {starters[0]} starts the CUDA driver, which a fork cannot use"
                if not others:
                    return "; ".join([*left_out, f"{name}: {why}"])
                texts = [f"{LEFT_OUT}{text}" for text in (*left_out, f"{name}: {why}")]
                os.execv(sys.executable, [*COMMAND, str(connection), *others, *texts])
    return None


@contextmanager
def _watched() -> Iterator[list[str]]:
    """Yields a list: of the module that starts the driver while it is imported in the block, if there is one.

    The innermost import ends first, so that it is the right one.
    """
    starters: list[str] = []

    def watched(execute: Callable[[Any, ModuleType], None]) -> Callable[[Any, ModuleType], None]:
        def exec_module(self: Any, module: ModuleType) -> None:
            execute(self, module)
            if not starters and driver_is_started():
                starters.append(module.__name__)

        return exec_module

    source: Any = importlib.machinery.SourceFileLoader  # which inherits the function
    extension: Any = importlib.machinery.ExtensionFileLoader
    of_extension = extension.exec_module
    source.exec_module, extension.exec_module = watched(source.exec_module), watched(of_extension)
    try:
        yield starters
    finally:
        del source.exec_module
        extension.exec_module = of_extension


def driver_is_started() -> bool:
    """Whether cuInit was called in this process.

    The driver itself is asked. Its open devices tell nothing: NVML opens /dev/nvidia-uvm too. Nor does its library,
    which others bring with them.
    """
    driver = _loaded(DRIVER)
    return driver is not None and driver.cuDeviceGetCount(ctypes.byref(ctypes.c_int())) != NOT_INITIALIZED


def _end_nvml() -> None:
    """End NVML, which PyTorch has asked for GPUs, so that each fork begins it anew with files of its own."""
    if nvml := _loaded(NVML):
        while nvml.nvmlShutdown() == 0:  # as often as it was begun
            pass


def _loaded(library: str) -> ctypes.CDLL | None:
    """``library`` if this process has it already; None otherwise."""
    try:
        return ctypes.CDLL(library, mode=os.RTLD_NOW | os.RTLD_NOLOAD)
    except OSError:
        return None


def _serve(connection: socket.socket) -> str | None:
    """Returns in a fork, with the module to run; and without one when nobody asks any more."""
    with selectors.DefaultSelector() as selector:
        selector.register(connection, selectors.EVENT_READ)
        while True:
            for key, _ in selector.select():
                if key.fileobj is connection:
                    order, files, _, _ = socket.recv_fds(connection, MESSAGE_BYTES, 3)
                    if not order:
                        return None
                    asked = json.loads(order)
                    pid = os.fork()
                    if pid == 0:
                        selector.close()
                        connection.close()
                        _become(asked["environment"], files)
                        return str(asked["module"])
                    for file in files:
                        os.close(file)
                    selector.register(os.pidfd_open(pid), selectors.EVENT_READ, pid)
                    connection.send(json.dumps({"pid": pid}).encode())
                else:
                    selector.unregister(key.fileobj)
                    os.close(key.fd)
                    _, status = os.waitpid(key.data, 0)
                    code = os.waitstatus_to_exitcode(status)
                    connection.send(json.dumps({"ended": key.data, "code": code}).encode())


def _become(environment: Mapping[str, str], files: Sequence[int]) -> None:
    """A process of its own, with its own input, output and environment."""
    os.setsid()
    for target, file in enumerate(files):
        os.dup2(file, target)
        os.close(file)
    os.environ.clear()
    os.environ.update(environment)
    signal.signal(signal.SIGINT, signal.default_int_handler)


if __name__ == "__main__":
    sys.exit(main(socket.socket(fileno=int(sys.argv[1])), sys.argv[2:]))
