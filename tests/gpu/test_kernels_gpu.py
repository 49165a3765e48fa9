"""The decode kernels on a real GPU, against float64. The cases are those of the CPU tests, larger."""

import random

import pytest
import torch
from torch import Tensor

from tests.kernels.decode_cases import (
    EXTREMES,
    KINDS,
    SIZE,
    TOLERANCE,
    TWINS,
    Case,
    check,
    check_state_between_folds,
    make_case,
    run,
    state_shapes,
    triton_step,
)

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU"),
]
HEADS_DIMS = [(12, 64), (16, 96), (32, 64)]
BATCHES = [1, 3, 128]  # each with every dtype and with every head


@pytest.fixture(autouse=True)
def _return_memory():
    yield
    torch.cuda.empty_cache()  # the next case's tensors have other sizes


def need_memory(gigabytes: float) -> None:
    free = torch.cuda.mem_get_info()[0] / 1e9
    if free < gigabytes:
        pytest.skip(f"needs {gigabytes:.0f} GB of free GPU memory, there are {free:.0f}")


@pytest.mark.parametrize(
    ("dtype", "heads", "dim", "batch"),
    [
        (dtype, heads, dim, BATCHES[(row + column) % 3])
        for row, dtype in enumerate(TOLERANCE)
        for column, (heads, dim) in enumerate(HEADS_DIMS)
    ],
    ids=str,
)
@pytest.mark.parametrize("kind", KINDS)
def test_triton_matches_float64(kind, dtype, heads, dim, batch):
    check(kind, triton_step(kind), dtype, batch=batch, heads=heads, dim=dim, tokens=3 * SIZE, device="cuda")


@pytest.mark.parametrize(("dtype", "heads", "dim"), [(torch.float16, 32, 64), (torch.bfloat16, 16, 96)], ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_a_large_batch(kind, dtype, heads, dim):
    """4096 sequences; the oracle has the first, the last, and some of the others."""
    need_memory(80)
    rows = sorted({0, 4095, *random.sample(range(4096), 14)})
    print(f"rows {rows}")
    check(kind, triton_step(kind), dtype, rows, batch=4096, heads=heads, dim=dim, tokens=3 * SIZE, device="cuda")


@pytest.mark.parametrize("kind", KINDS)
def test_a_large_batch_in_float32(kind):
    need_memory(40)
    rows = [0, 2047, 4094, 4095]
    shape = {"batch": 4096, "heads": 12, "dim": 64, "tokens": 3 * SIZE}
    check(kind, triton_step(kind), torch.float32, rows, device="cuda", **shape)


@pytest.mark.parametrize(("dtype", "scale"), EXTREMES, ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_large_and_tiny_inputs(kind, dtype, scale):
    check(kind, triton_step(kind), dtype, batch=3, heads=12, dim=64, tokens=3 * SIZE, scale=scale, device="cuda")


@pytest.mark.parametrize(("heads", "dim"), [(12, 64), (16, 96)])
@pytest.mark.parametrize("kind", KINDS)
def test_state_changes_at_the_end_of_a_mini_batch_only(kind, heads, dim):
    check_state_between_folds(kind, triton_step(kind), torch.float16, batch=3, heads=heads, dim=dim, device="cuda")


@pytest.mark.parametrize("kind", KINDS)
def test_pytorch_matches_float64(kind):
    check(kind, TWINS[kind], torch.float16, batch=3, heads=32, dim=64, tokens=SIZE + 3, device="cuda")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize(("kind", "heads", "dim"), [("linear", 32, 64), ("mlp", 32, 64), ("mlp", 16, 96)])
def test_overlapping_launches_give_the_same_bits(kind, heads, dim, dtype):
    """In a graph, launch after launch, each on another copy than the one before: what the model and the
    micro-benchmark do. Outputs, state and slots over two folds."""
    step, tokens = triton_step(kind), 2 * SIZE + 2
    positions = [row[:1] for row in torch.arange(SIZE, dtype=torch.int32, device="cuda")[:, None].repeat(1, 4)]
    shape = {"batch": 150, "heads": heads, "dim": dim, "dtype": dtype, "device": "cuda", "tokens": tokens}

    def outputs(cases, **options):
        return [
            step(
                case.q[t], case.k[t], case.v[t], case.lr[t], case.eta, positions[t % SIZE], case.gamma, case.beta,
                *case.params, *case.slots, **options,
            )
            for t in range(tokens)
            for case in cases
        ]  # fmt: skip

    alone, overlapping = ([make_case(kind, seed=seed, **shape) for seed in (1, 2)] for _ in range(2))
    expected = outputs(alone)
    warm = make_case(kind, seed=3, **shape)
    outputs([warm], overlap=True)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        found = outputs(overlapping, overlap=True)
    for out in found:
        out.fill_(torch.nan)
    graph.replay()
    assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))
    for one, other in zip(alone, overlapping, strict=True):
        for a, b in zip((*one.params, *one.slots), (*other.params, *other.slots), strict=True):
            assert torch.equal(a.nan_to_num(), b.nan_to_num())


def vast_case(kind: str, batch: int, heads: int, dim: int) -> Case:
    """A float16 mini-batch of which every random number is made in place, in float16: state of many gigabytes."""

    def normal(*shape: int, std: float = 1.0) -> Tensor:
        return torch.empty(shape, dtype=torch.float16, device="cuda").normal_(std=std)

    state, slots = state_shapes(kind, dim)
    q, k, v = normal(SIZE, batch, 3 * heads * dim).chunk(3, -1)
    return Case(
        q=q.contiguous(),
        k=k.contiguous(),
        v=v,
        lr=torch.rand(SIZE, batch, heads, device="cuda") / dim,
        eta=1 / torch.arange(1, SIZE + 1, device="cuda"),
        gamma=1 + normal(heads, dim, std=0.3),
        beta=normal(heads, dim, std=0.3),
        params=[normal(batch, heads, *shape, std=0.1) for shape in state],
        slots=[torch.full((batch, heads, *shape), torch.nan, dtype=torch.float16, device="cuda") for shape in slots],
    )


def part_of(case: Case, rows: Tensor) -> Case:
    """A copy of some sequences of a case."""
    return Case(
        q=case.q[:, rows].contiguous(),
        k=case.k[:, rows].contiguous(),
        v=case.v[:, rows].contiguous(),
        lr=case.lr[:, rows].contiguous(),
        eta=case.eta,
        gamma=case.gamma,
        beta=case.beta,
        params=[p[rows].contiguous() for p in case.params],
        slots=[s[rows].contiguous() for s in case.slots],
    )


# Batches whose first matrix has more than 2³¹ elements; with heads of 96 the rank-1 form takes the general kernels.
VAST = [
    ("mlp", 8192, 32, 64, 45),
    ("mlp_accumulate", 8192, 32, 64, 55),
    ("linear", 17000, 32, 64, 30),
    ("linear_accumulate", 17000, 32, 64, 30),
    ("mlp", 3800, 16, 96, 30),
    ("mlp_accumulate", 3800, 16, 96, 35),
    ("linear", 15000, 16, 96, 30),
    ("linear_accumulate", 15000, 16, 96, 30),
]


@pytest.mark.parametrize(("kind", "batch", "heads", "dim", "gigabytes"), VAST)
def test_offsets_beyond_32_bits(kind, batch, heads, dim, gigabytes):
    """The first sequences, those around the 2³¹st element, and the last give the bits that they give on their own."""
    need_memory(gigabytes)
    case = vast_case(kind, batch, heads, dim)
    assert case.params[0].numel() > 2**31
    crossing = 2**31 // case.params[0][0].numel()
    assert crossing < batch - 1
    rows = torch.tensor([0, 1, crossing - 1, crossing, crossing + 1, batch - 2, batch - 1], device="cuda")
    alone = part_of(case, rows)
    step = triton_step(kind)
    for t in range(SIZE):
        out = run(step, case, t)
        assert torch.equal(out[rows], run(step, alone, t)), f"token {t}"
        assert out.isfinite().all(), f"token {t}"
    for index, (all_rows, some) in enumerate(zip(case.params, alone.params, strict=True)):
        assert torch.equal(all_rows[rows], some), f"state {index}"
