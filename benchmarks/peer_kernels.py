"""How near are the peers' decode kernels to the memory's rate? `python -m benchmarks.peer_kernels OUTPUT`.

`gated_delta_step` and `rwkv7_step` with the heads of the 1.3b models, with the launch options of the package and with
others. A CUDA graph has one call for each layer, each with a state of its own, so that a state comes from memory as in
a model. Printed: µs of one call (the fastest of some replays), GB/s of state read and written.
"""

import argparse
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.peer_loops import facts, numbers
from ttt_mlflow.kernels import launch
from ttt_mlflow.kernels.gated_delta import decode as gated_delta
from ttt_mlflow.kernels.rwkv7 import decode as rwkv7
from ttt_mlflow.models.fla.sizes import GATED_DELTA, RWKV7

REPLAYS = 20
DELTA, RWKV = GATED_DELTA["gated-deltanet-1.3b"], RWKV7["rwkv7-1.3b"]
# rows of a head's state for a program, warps
DELTA_OPTIONS = [(8, 1), (4, 1), (16, 1), (16, 2), (32, 2), (32, 4), (64, 4)]
RWKV_WARPS = [2, 1, 4, 8]
Call = Callable[[Tensor], Tensor]  # of the state of one layer


def delta_call(batch: int, dtype: torch.dtype) -> tuple[Call, tuple[int, ...]]:
    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, device="cuda").to(dtype)

    qkv, decay, beta = normal(batch, DELTA.channels), normal(batch, DELTA.heads), normal(batch, DELTA.heads)
    a_log, dt_bias = torch.rand(2, DELTA.heads, device="cuda")
    shape = (batch, DELTA.heads, DELTA.value_dim, DELTA.key_dim)
    return lambda state: gated_delta.gated_delta_step(qkv, decay, beta, a_log, dt_bias, state), shape


def rwkv7_call(batch: int, dtype: torch.dtype) -> tuple[Call, tuple[int, ...]]:
    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, RWKV.width, device="cuda").to(dtype)

    rkv, low, low_bias, first = normal(3, batch), normal(4, batch), normal(4), normal(batch)
    k_k, k_a, r_k, weight, bias = normal(5)
    shape = (batch, RWKV.heads, RWKV.head_dim, RWKV.head_dim)

    def call(state: Tensor) -> Tensor:
        per_head = r_k.view(RWKV.heads, RWKV.head_dim)
        return rwkv7.rwkv7_step(rkv, low, low_bias, first, k_k, k_a, per_head, weight, bias, state, 64e-5)

    return call, shape


@contextmanager
def options(kernel: str, limit: int, warps: int, rows: int | None = None) -> Iterator[None]:
    """Launch ``kernel`` with these options until the block ends."""
    before, before_rows = launch.FLOAT32[kernel], gated_delta.ROWS
    launch.FLOAT32[kernel] = {limit: {"num_warps": warps}}
    gated_delta.ROWS = rows or before_rows
    try:
        yield
    finally:
        launch.FLOAT32[kernel], gated_delta.ROWS = before, before_rows


def microseconds(call: Call, states: list[Tensor]) -> float:
    """The fastest replay of a graph with one call for each of ``states``, divided by their number."""
    for state in states:  # compiled before the capture
        call(state)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for state in states:
            call(state)
    fastest = float("inf")
    for _ in range(REPLAYS):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        graph.replay()
        end.record()
        end.synchronize()
        fastest = min(fastest, start.elapsed_time(end))
    return 1e3 * fastest / len(states)


def lines(batch: int, dtype: torch.dtype) -> Iterator[str]:
    cases: list[tuple[str, Any, int, list[tuple[str, dict[str, Any]]]]] = [
        (
            "gated_delta_step",
            delta_call,
            DELTA.layers,
            [
                (f"{rows} rows, {warps} warps", {"limit": 256, "warps": warps, "rows": rows})
                for rows, warps in DELTA_OPTIONS
            ],
        ),
        (
            "rwkv7_step",
            rwkv7_call,
            RWKV.layers,
            [(f"{warps} warps", {"limit": 64, "warps": warps}) for warps in RWKV_WARPS],
        ),
    ]
    for kernel, make, layers, choices in cases:
        call, shape = make(batch, dtype)
        states = [torch.zeros(shape, device="cuda") for _ in range(layers)]
        for index, (label, chosen) in enumerate(choices):
            with options(kernel, **chosen):
                us = microseconds(call, states)
            rate = 2 * states[0].nbytes / us / 1e3
            own = ", the package's options" if index == 0 else ""
            yield f"  {kernel:16} {label:16} {us:9.2f} µs, {rate:7.0f} GB/s{own}"
        del states
        torch.cuda.empty_cache()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path, help="file for the results, which are also printed")
    parser.add_argument("--batch", type=numbers, default=[1, 16, 128, 1024], help="comma-separated (1,16,128,1024)")
    args = parser.parse_args()
    if not torch.cuda.is_available():
        raise SystemExit("benchmarks.peer_kernels needs a CUDA GPU")
    with args.output.open("w") as file:

        def tell(text: str) -> None:
            print(text, flush=True)
            print(text, file=file, flush=True)

        tell(facts("peer_kernels", sys.argv[1:]))
        for batch in args.batch:
            tell(f"\nbatch {batch}, float16")
            for text in lines(batch, torch.float16):
                tell(text)


if __name__ == "__main__":
    main()
