"""Which kernel multiplies a decode step's rows with its weights fastest? `python -m benchmarks.product_choices`

For the products of a layer of ttt-1b and of its head, fp16, at some batches: microseconds of cuBLAS, of cuBLASLt, and
of the products of `decode_path=overlapped` with some tilings, with the weights in registers (up to 16 sequences) and in
shared memory (up to 128, on Hopper), whose launches overlap. A CUDA graph has the product with the weights of every
layer, so that none is in the cache. The gate and up projections include SwiGLU; a divided product leaves its parts in
float32, which another kernel adds. Prints each, its read rate, and how far its result is from float64. The kernels are
compiled first, several at a time. Needs a GPU.
"""

import os
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from multiprocessing import get_context
from statistics import median

import click
import torch
import triton
from torch import Tensor
from torch.nn import functional as F

from ttt_mlflow.kernels.block.fused import swiglu
from ttt_mlflow.kernels.launch import has_warpgroups, overlaps
from ttt_mlflow.kernels.overlapped import launch, tuning
from ttt_mlflow.kernels.overlapped.shape import LARGEST_BATCH, LARGEST_STAGED
from ttt_mlflow.kernels.overlapped.tuning import SHARED_BYTES, StagedTiling, Tiling
from ttt_mlflow.models.graph_capture import captured, warm_stream

BATCHES = (1, 16, 32, 64, 128, 256, 512, 1024)
REPLAYS, TURNS = 10, 5


@dataclass(frozen=True)
class Product:
    """Rows and columns of the weight. divided: whoever takes the result adds parts. copies: weights, one a layer."""

    name: str
    n: int
    k: int
    divided: bool = False
    gated: bool = False
    copies: int = 24


PRODUCTS = (
    Product("projection", 6208, 2048),
    Product("output projection", 2048, 2048, divided=True),
    Product("gate and up", 11008, 2048, gated=True),
    Product("down projection", 2048, 5504, divided=True),
    Product("head", 50304, 2048, copies=2),
)


IN_REGISTERS = {"wide": tuning.WIDE, "half": tuning.HALF, "pair": tuning.PAIR}
# rows, step, stages, warps; a divided product with each of PARTS
STAGED = [
    StagedTiling(rows, step, stages, warps=warps)
    for rows, step, stages, warps in (
        (64, 64, 4, 4), (64, 64, 8, 4), (64, 128, 4, 4), (64, 128, 5, 4), (64, 256, 2, 4), (64, 256, 5, 4),
        (128, 64, 3, 8), (128, 64, 6, 4), (128, 64, 6, 8), (128, 128, 3, 8), (128, 128, 5, 8),
    )
]  # fmt: skip
PARTS = (2, 3, 4, 8)
Multiply = Callable[[Tensor, Tensor], Tensor]  # x and W to the result, [B, N] or parts of it


def by_kernel(product: Product, tiling: Tiling | StagedTiling) -> Multiply:
    """A product of overlapping kernels."""
    width = product.n // 2 if product.gated else product.n
    parts = tiling.parts_of(product.k) if product.divided else 1

    def multiply(x: Tensor, w: Tensor) -> Tensor:
        dtype = torch.float32 if product.divided else x.dtype
        shape = (parts, x.shape[0], width) if product.divided else (x.shape[0], width)
        out = torch.empty(shape, dtype=dtype, device=x.device)
        launch.product(
            x, w, out, partial=product.divided, gated=product.gated, tiling=tiling, overlap=overlaps(x.device)
        )
        return out

    return multiply


def staged_tilings(product: Product, batch: int) -> list[StagedTiling]:
    """Those that a program has the shared memory for."""
    some = [replace(one, parts=parts) for one in STAGED for parts in (PARTS if product.divided else (1,))]
    return [one for one in some if one.shared_bytes(batch) <= SHARED_BYTES]


@contextmanager
def preferred(library: str) -> Iterator[None]:
    """With this library for matrix products."""
    before = torch.backends.cuda.preferred_blas_library()
    torch.backends.cuda.preferred_blas_library(library)
    try:
        yield
    finally:
        torch.backends.cuda.preferred_blas_library(before)


def by_library(product: Product, library: str) -> Multiply:
    def multiply(x: Tensor, w: Tensor) -> Tensor:
        with preferred(library):
            return swiglu(F.linear(x, w)) if product.gated else F.linear(x, w)

    return multiply


def choices(product: Product, batch: int, staged: bool) -> dict[str, Multiply]:
    """All that is compared, by name. staged: the GPU can have the weights in shared memory."""
    found = {"cuBLAS": by_library(product, "cublas"), "cuBLASLt": by_library(product, "cublaslt")}
    if batch <= LARGEST_BATCH:
        found |= {f"in registers, {name}": by_kernel(product, one) for name, one in IN_REGISTERS.items()}
    if staged and batch <= LARGEST_STAGED:
        found |= {str(vars(one)): by_kernel(product, one) for one in staged_tilings(product, batch)}
    return found


def inputs(product: Product, batch: int) -> tuple[Tensor, list[Tensor]]:
    """x, and the weights of each layer."""
    generator = torch.Generator("cuda").manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float16, device="cuda")

    scale = product.k**-0.5
    return normal(batch, product.k), [normal(product.n, product.k) * scale for _ in range(product.copies)]


def distance(product: Product, result: Tensor, x: Tensor, w: Tensor) -> float:
    """‖result - exact‖ / ‖exact‖"""
    exact = x.double() @ w.double().T
    if product.gated:
        gate, up = exact.chunk(2, 1)
        exact = gate * gate.sigmoid() * up
    found = result.double().reshape(-1, *exact.shape).sum(0)
    return float((found - exact).norm() / exact.norm())


def compile_one(product: Product, batch: int) -> None:
    """All choices, one after the other. One that the GPU cannot run is left to the comparison to say."""
    x, weights = inputs(Product(product.name, product.n, product.k, product.divided, product.gated, 1), batch)
    for multiply in choices(product, batch, has_warpgroups(x.device)).values():
        try:
            multiply(x, weights[0])
        except (RuntimeError, triton.runtime.errors.OutOfResources):
            continue
    torch.cuda.synchronize()


def compare(product: Product, batch: int) -> list[str]:
    """One line for each choice, the fastest first."""
    x, weights = inputs(product, batch)
    far, replays, failed = {}, {}, []
    for name, multiply in choices(product, batch, has_warpgroups(x.device)).items():
        try:
            far[name] = distance(product, multiply(x, weights[0]), x, weights[0])
            replays[name] = graph_of(multiply, x, weights)
        except (RuntimeError, triton.runtime.errors.OutOfResources) as error:
            failed.append(f"  {name}: {str(error).splitlines()[0][:120]}")
    times: dict[str, list[float]] = {name: [] for name in replays}
    for _ in range(TURNS):
        for name, replay in replays.items():
            times[name].append(1e3 * milliseconds(replay) / (REPLAYS * product.copies))
    lines = []
    for name in sorted(times, key=lambda one: median(times[one])):
        us = median(times[name])
        rate = 2e-3 * product.n * product.k / us
        lines.append(f"  {us:7.2f} us, {rate:5.0f} GB/s of weights, {far[name]:.1e} from float64: {name}")
    return lines + failed


def graph_of(multiply: Multiply, x: Tensor, weights: list[Tensor]) -> Callable[[], object]:
    stream = warm_stream(x.device, lambda: multiply(x, weights[0]))
    with captured(stream) as graph:
        for weight in weights:
            multiply(x, weight)
    return graph.replay


def milliseconds(replay: Callable[[], object]) -> float:
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    replay()
    start.record()
    for _ in range(REPLAYS):
        replay()
    end.record()
    torch.cuda.synchronize()
    return start.elapsed_time(end)


@click.command(help=__doc__, context_settings={"max_content_width": 120})
@click.option("--batches", default="16,128,1024", show_default=True, help="Batches, comma-separated.")
def main(batches: str) -> None:
    if unknown := set(batches.split(",")) - set(known := list(map(str, BATCHES))):
        raise click.BadParameter(f"{', '.join(sorted(unknown))}; it takes {', '.join(known)}", param_hint="--batches")
    if not torch.cuda.is_available():
        raise click.ClickException("no CUDA GPU was found; the choices are about a GPU's time")
    sizes = [int(one) for one in batches.split(",")]
    workers = min(12, os.cpu_count() or 1)
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn"), max_tasks_per_child=1) as pool:
        for done in [pool.submit(compile_one, product, batch) for batch in sizes for product in PRODUCTS]:
            done.result()
    print(torch.cuda.get_device_name(), f"torch {torch.__version__}, triton {triton.__version__}", flush=True)
    for batch in sizes:
        for product in PRODUCTS:
            print(f"batch {batch}, {product.name} [{product.n} x {product.k}]", flush=True)
            print("\n".join(compare(product, batch)), flush=True)
            torch.cuda.empty_cache()


if __name__ == "__main__":
    sys.exit(main())
