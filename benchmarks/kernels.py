"""Time of the decode kernels alone: one layer, one token, averaged over a mini-batch, the fold included.

    python benchmarks/kernels.py [--dtype float16]

Graph replay over the sixteen positions and over enough layers that the L2 cache cannot serve the state. The bytes are
the floor of the rank-1 form (elements of the state's dtype, per head and token): s(1 + 1/16) + v(1 + 1/16) + 8.5 r
+ 4 F + 1 with s = F^2 or 8 F^2, v = F or 5 F, r = 2 F or 10 F. The share is that floor over 4.48 TB/s, the read-only
stream that was measured on an H200, over the time.
"""

import argparse
import math
import statistics
from collections.abc import Callable

import torch
from torch import Tensor

from ttt_mlflow.kernels.ttt_linear_decode import linear_decode
from ttt_mlflow.kernels.ttt_mlp_decode import mlp_decode

HEADS, F, M = 32, 64, 16
READ_BYTES_PER_S = 4.48e12
L2_TIMES_TEN = 600e6
BATCHES = {"linear": (128, 1024, 4096), "mlp": (128, 512, 1024)}


def floor_bytes(kind: str, batch: int) -> float:
    s, v, r = (F * F, F, 2 * F) if kind == "linear" else (8 * F * F, 5 * F, 10 * F)
    return 2.0 * batch * HEADS * ((s + v) * (1 + 1 / M) + r * ((M - 1) / 2 + 1) + 4 * F + 1)


def make_layer(kind: str, batch: int, dtype: torch.dtype) -> list[Tensor]:
    """Arguments of one step, without position: q, k, v, lr, eta, norms, state, slots."""

    def normal(*shape: int, std: float = 1.0) -> Tensor:
        return (torch.randn(shape, device="cuda") * std).to(dtype)

    shapes = [(F, F), (F,)] if kind == "linear" else [(F, 4 * F), (4 * F,), (4 * F, F), (F,)]
    widths = [F, F] if kind == "linear" else [F, 4 * F, 4 * F, F]
    q, k, v = (normal(batch, HEADS * F) for _ in range(3))
    lr = torch.rand(batch, HEADS, device="cuda") / F
    state = [normal(batch, HEADS, *shape, std=0.1) for shape in shapes]
    slots = [normal(batch, HEADS, M, width, std=0.1) for width in widths]
    return [q, k, v, lr, 1 / torch.arange(1.0, M + 1, device="cuda"), normal(HEADS, F), normal(HEADS, F), *state, *slots]


def time_us(step: Callable[..., Tensor], layers: list[list[Tensor]], positions: list[Tensor]) -> float:
    """Median over ten replays of the mean time of a step."""

    def all_steps() -> None:
        for position in positions:
            for layer in layers:
                step(*layer[:5], position, *layer[5:])

    all_steps()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        all_steps()
    times = []
    for _ in range(12):
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begin.record()
        graph.replay()
        end.record()
        end.synchronize()
        times.append(1e3 * begin.elapsed_time(end) / len(positions) / len(layers))
    return statistics.median(times[2:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dtype", choices=["float16", "bfloat16"], default="float16")
    dtype = getattr(torch, parser.parse_args().dtype)
    torch.manual_seed(0)
    positions = [torch.full((1,), t, dtype=torch.int32, device="cuda") for t in range(M)]
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}, {dtype}, {HEADS} heads of {F}")
    print("kernel  batch  time (us)  last position (us)  floor at 4.48 TB/s (us)  share")
    for kind, step in (("linear", linear_decode), ("mlp", mlp_decode)):
        for batch in BATCHES[kind]:
            state_bytes = 2 * batch * HEADS * F * F * (1 if kind == "linear" else 8)
            layers = [make_layer(kind, batch, dtype) for _ in range(math.ceil(L2_TIMES_TEN / state_bytes))]
            mean, last = time_us(step, layers, positions), time_us(step, layers, positions[-1:] * 2)
            floor = 1e6 * floor_bytes(kind, batch) / READ_BYTES_PER_S
            print(f"{kind:6s}  {batch:5d}  {mean:9.1f}  {last:18.1f}  {floor:23.1f}  {100 * floor / mean:4.1f} %")
            del layers


if __name__ == "__main__":
    main()
