"""Another process on the GPU: one that computes, or one that only holds memory.

``python -m benchmarks.neighbour compute|hold cuda|cpu`` prints ``ready`` and its process id when it does so, and goes
on until its standard input ends, which it does with the process that started it, however that ends. It is no child of
that process: what a run started itself counts as the run's own.
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
IN_FLIGHT = 8  # products issued between two looks at the clock: the GPU is never without work
END_S = 10.0  # to end by itself, before it is killed
POLL_S = 0.02
KINDS = ("compute", "hold")


@contextmanager
def neighbour(kind: str, device: str = "cuda") -> Iterator[int]:
    """Such a process while the block runs; gives its process id. RunFailed if it does not come to work."""
    command = [sys.executable, "-m", "benchmarks.neighbour", kind, device]
    starter = subprocess.Popen(
        command, cwd=ROOT, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    process: psutil.Process | None = None
    try:
        assert starter.stdout is not None
        word, _, pid = starter.stdout.readline().strip().partition(" ")
        if word != "ready":
            said = starter.communicate()[1].strip().splitlines()[-1:]
            raise RunFailed(f"the other process ({kind}) did not come to work: {' '.join(said) or 'it said nothing'}")
        process = psutil.Process(int(pid))
        yield process.pid
        if not _runs(process):
            raise RunFailed(f"the other process ({kind}) ended before the run did")
    finally:
        _end(starter, process)


def _runs(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _end(starter: "subprocess.Popen[str]", process: psutil.Process | None) -> None:
    """The end of its input asks it to end; then it is killed. Its output ends with it, its memory a little later."""
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
    import torch  # here: it takes seconds, in which the input may end

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
    """End this process, whatever it does, when its standard input ends."""

    def watch() -> None:
        sys.stdin.read()
        os._exit(0)

    threading.Thread(target=watch, daemon=True).start()


if __name__ == "__main__":
    if len(sys.argv) != 3 or sys.argv[1] not in KINDS:
        sys.exit(f"usage: python -m benchmarks.neighbour {'|'.join(KINDS)} cuda|cpu")
    main(sys.argv[1], sys.argv[2])
