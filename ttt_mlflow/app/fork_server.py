"""Starts processes from one that has imported everything that they need.

Importing PyTorch, its compiler and this package takes each new process over ten seconds. A fork has all of it at once.
The server only imports: it has no CUDA context, which no fork could use, and it starts no threads of its own. Once it
has imported, it takes no time of the host, so that it can wait beside a measurement.
"""

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
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import IO, Any

from ttt_mlflow.errors import one_line

# what a cell imports before it measures, and the compiler
MODULES = ("ttt_mlflow.app.measure", "ttt_mlflow.app.sweep.task", "torch._dynamo", "torch._inductor.compile_fx")
# what mamba-ssm imports; itself, it asks the GPU while it is imported, which a fork's server must not
IF_INSTALLED = ("transformers.generation", "einops")
# lets PyTorch count GPUs without the driver, whose state a fork could not use
WITHOUT_DRIVER = {"PYTORCH_NVML_BASED_CUDA_CHECK": "1"}
# a process that called cuInit has it open; NVML does not need it, and a driver's library that is only loaded neither
DRIVER = "nvidia-uvm"
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
    """The server, and what it has started. environment: of the server, which /proc shows for its forks too."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._socket, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with there:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", __name__, str(there.fileno()), *MODULES, *_installed()],
                env={**environment, **WITHOUT_DRIVER},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                pass_fds=[there.fileno()],
                start_new_session=True,
            )
        self._forked: dict[int, Forked] = {}
        self._is_ready = False

    def close(self) -> None:
        self._socket.close()
        self._process.wait()

    def wait_until_ready(self) -> str | None:
        """Wait until everything is imported. Returns why no process can be started, in one line, or None."""
        if not self._is_ready:
            answer = self._receive()
            fault = answer["fault"] if answer else f"it ended with code {self._process.wait()}"
            if fault:
                return str(fault)
            self._is_ready = True
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

    def _receive(self, flags: int = 0) -> dict[str, int] | None:
        """The next answer; None if the server has ended."""
        try:
            text = self._socket.recv(MESSAGE_BYTES, flags)
        except ConnectionError:
            return None
        return json.loads(text) if text else None


# In the server


def _installed() -> list[str]:
    return [name for name in IF_INSTALLED if importlib.util.find_spec(name.partition(".")[0])]


def main(connection: socket.socket, modules: Sequence[str]) -> int:
    """Import, then fork on request. In a fork, it runs what was asked for."""
    fault = _import_all(modules)
    connection.send(json.dumps({"fault": fault}).encode())
    if fault:
        return 1
    gc.collect()
    gc.freeze()  # so that a fork's collections leave the shared memory alone
    module = _serve(connection)
    if module is None:
        return 0
    sys.argv = [module]
    runpy.run_module(module, run_name="__main__", alter_sys=True)
    return 0


def _import_all(modules: Sequence[str]) -> str | None:
    """Returns why no fork could measure, in one line, or None."""
    with _watched() as starters:
        for name in modules:
            try:
                importlib.import_module(name)
            except Exception as error:  # a run that needs it will say so
                return f"{name} cannot be imported ({one_line(error)})"
    if starters:
        return f"importing {starters[0]} has started the CUDA driver, which a fork cannot use"
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
            if not starters and _driver_is_started():
                starters.append(module.__name__)

        return exec_module

    # the first has its function from a class that has no name
    source, extension = importlib.machinery.SourceFileLoader, importlib.machinery.ExtensionFileLoader
    of_extension = extension.exec_module
    source.exec_module = watched(source.exec_module)  # type: ignore[method-assign]
    extension.exec_module = watched(of_extension)  # type: ignore[method-assign]
    try:
        yield starters
    finally:
        del source.exec_module
        extension.exec_module = of_extension  # type: ignore[method-assign]


def _driver_is_started() -> bool:
    """Whether cuInit was called in this process."""
    for file in os.scandir("/proc/self/fd"):
        with suppress(OSError):  # the folder's own, which is closed then
            if os.path.basename(os.readlink(file.path)) == DRIVER:
                return True
    return False


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
