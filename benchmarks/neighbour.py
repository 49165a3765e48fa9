"""Another process on the GPU: one that computes, or one that only holds memory.

``python -m benchmarks.neighbour compute|hold`` says ``ready`` when it does, and goes on until its standard input ends,
which it does with the process that started it, however that ends.
"""

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ttt_mlflow.errors import RunFailed

ROOT = Path(__file__).parents[1]
HELD_BYTES = 10**9
MATRIX = 4096
IN_FLIGHT = 8  # products issued between two looks at the clock: the GPU is never without work
END_S = 10.0  # to end by itself, and then to be ended
KINDS = ("compute", "hold")


@contextmanager
def neighbour(kind: str, device: str = "cuda") -> Iterator[int]:
    """Such a process while the block runs; gives its process id. RunFailed if it does not come to work."""
    command = [sys.executable, "-m", "benchmarks.neighbour", kind, device]
    process = subprocess.Popen(
        command, cwd=ROOT, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    try:
        assert process.stdout is not None
        if process.stdout.readline().strip() != "ready":
            process.kill()
            said = process.communicate()[1].strip().splitlines()[-1:]
            raise RunFailed(f"the other process ({kind}) did not come to work: {' '.join(said) or 'it said nothing'}")
        yield process.pid
        if process.poll() is not None:
            raise RunFailed(f"the other process ({kind}) ended before the run did, with code {process.returncode}")
    finally:
        _end(process)


def _end(process: "subprocess.Popen[str]") -> None:
    """The end of its input asks it to end; then it is killed."""
    try:
        process.communicate(timeout=END_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()


def main(kind: str, device: str) -> None:
    import torch

    _end_with_input()
    if kind == "hold":
        held = torch.ones(HELD_BYTES, dtype=torch.uint8, device=device)
        if held.is_cuda:
            torch.cuda.synchronize()
        print("ready", flush=True)
        threading.Event().wait()
    size = MATRIX if device == "cuda" else 256
    left = torch.randn(size, size, device=device, dtype=torch.float16 if device == "cuda" else torch.float32)
    product = left @ left
    print("ready", flush=True)
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
