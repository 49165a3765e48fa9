"""Another process on the GPU: one that computes, or one that only holds memory.

``python -m benchmarks.neighbor compute|hold cuda|cpu`` prints ``ready`` and its process id once it computes or holds
memory. It continues until its standard input ends, which happens when the process that started it ends. It is not a
child of that process, because the children of a run count as the run's own.
"""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

from ttt_mlflow.errors import RunFailed

ROOT = Path(__file__).parents[1]
HELD_BYTES = 10**9
MATRIX = 4096
IN_FLIGHT = 8  # products issued between two checks of the clock, so that the GPU is never idle
END_S = 10.0  # time to end by itself before it is killed
POLL_S = 0.02
KINDS = ("compute", "hold")


@contextmanager
def neighbor(kind: str, device: str = "cuda") -> Iterator[int]:
    """Run such a process during the block. Yields its process id. Raises RunFailed if it does not start to work."""
    command = [sys.executable, "-m", "benchmarks.neighbor", kind, device]
    starter = subprocess.Popen(
        command, cwd=ROOT, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    process: psutil.Process | None = None
    try:
        assert starter.stdout is not None
        word, _, pid = starter.stdout.readline().strip().partition(" ")
        if word != "ready":
            said = starter.communicate()[1].strip().splitlines()[-1:]
            raise RunFailed(f"the other process ({kind}) did not start to work: {' '.join(said) or 'no output'}")
        process = psutil.Process(int(pid))
        yield process.pid
        if not _runs(process):
            raise RunFailed(f"the other process ({kind}) ended before the run")
    finally:
        _end(starter, process)


def _runs(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _end(starter: "subprocess.Popen[str]", process: psutil.Process | None) -> None:
    """Close its input, which requests its end, then kill it. Its output ends with it, its memory a little later."""
    try:
        starter.communicate(timeout=END_S)
    except subprocess.TimeoutExpired:
        for one in (starter, process):
            if one is not None:
                with suppress(psutil.NoSuchProcess):
                    one.kill()
        starter.communicate()
    until = time.monotonic() + END_S
    while process is not None and _runs(process) and time.monotonic() < until:
        time.sleep(POLL_S)


def main(kind: str, device: str) -> None:
    if os.fork():
        os._exit(0)
    _end_with_input()
    import torch  # imported late: this takes seconds, during which the input may end

    ready = f"ready {os.getpid()}"
    if kind == "hold":
        held = torch.ones(HELD_BYTES if device == "cuda" else MATRIX, dtype=torch.uint8, device=device)
        if held.is_cuda:
            torch.cuda.synchronize()
        print(ready, flush=True)
        threading.Event().wait()
    size = MATRIX if device == "cuda" else 256
    left = torch.randn(size, size, device=device, dtype=torch.float16 if device == "cuda" else torch.float32)
    product = left @ left
    print(ready, flush=True)
    while True:
        for _ in range(IN_FLIGHT):
            torch.mm(left, left, out=product)
        if product.is_cuda:
            torch.cuda.synchronize()


def _end_with_input() -> None:
    """End this process when its standard input ends, regardless of what it is doing."""

    def watch() -> None:
        sys.stdin.read()
        os._exit(0)

    threading.Thread(target=watch, daemon=True).start()


if __name__ == "__main__":
    if len(sys.argv) != 3 or sys.argv[1] not in KINDS:
        sys.exit(f"usage: python -m benchmarks.neighbor {'|'.join(KINDS)} cuda|cpu")
    main(sys.argv[1], sys.argv[2])
