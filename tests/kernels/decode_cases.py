"""Random decode steps for any implementation of an inner net, and their error against the float64 oracle."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import torch
from torch import Tensor

from tests.kernels import oracle
from ttt_mlflow.kernels.ttt_linear.reference import linear_accumulate, linear_decode
from ttt_mlflow.kernels.ttt_mlp.reference import mlp_accumulate, mlp_decode

Step = Callable[..., Tensor]
SIZE = 16  # tokens of a mini-batch
KINDS = ("linear", "mlp", "linear_accumulate", "mlp_accumulate")  # rank-1 form; accumulating form
TWINS: dict[str, Step] = {
    "linear": linear_decode,
    "mlp": mlp_decode,
    "linear_accumulate": linear_accumulate,
    "mlp_accumulate": mlp_accumulate,
}
TOLERANCE = {torch.float16: 1e-3, torch.bfloat16: 8e-3, torch.float32: 2e-5}
# Standard deviations of q, k and v. Beyond them 16-bit state is no fair test: with TTT-MLP the rounding of the state at
# a fold alone, amplified by inputs of 100, may be more than the tolerance.
EXTREMES = [(torch.float16, 1e-3), (torch.float16, 30.0), (torch.float32, 1e-3), (torch.float32, 100.0)]


@dataclass
class Case:
    """Inputs of ``tokens`` decode steps; ``params`` and ``slots`` are the state that the steps update."""

    q: Tensor  # [T, B, H F]
    k: Tensor
    v: Tensor
    lr: Tensor  # [T, B, H]
    eta: Tensor  # [M]
    gamma: Tensor  # [H, F]
    beta: Tensor
    params: list[Tensor]
    slots: list[Tensor]  # rank-1 form: the mini-batch's vectors; accumulating form: its sums


def triton_step(kind: str) -> Step:
    """The Triton implementation. Imported when asked for: the interpreter is chosen before that."""
    function = TWINS[kind].__name__
    inner_net, form = function.rsplit("_", 1)
    step: Step = getattr(import_module(f"ttt_mlflow.kernels.ttt_{inner_net}.{form}"), function)
    return step


def state_shapes(kind: str, dim: int) -> tuple[list[tuple[int, ...]], list[tuple[int, ...]]]:
    """Shapes, a head's, of the state that a mini-batch begins with, and of what is kept beside it."""
    state: list[tuple[int, ...]] = [(dim, dim), (dim,)]
    slots: list[tuple[int, ...]] = [(SIZE, dim), (SIZE, dim)]
    if kind.startswith("mlp"):
        state = [(dim, 4 * dim), (4 * dim,), (4 * dim, dim), (dim,)]
        slots = [(SIZE, dim), (SIZE, 4 * dim), (SIZE, 4 * dim), (SIZE, dim)]
    return state, state if kind.endswith("_accumulate") else slots


def make_case(
    kind: str,
    batch: int,
    heads: int,
    dim: int,
    dtype: torch.dtype,
    device: str = "cpu",
    tokens: int = 3 * SIZE + 5,
    scale: float = 1.0,
    seed: int | None = None,
) -> Case:
    """Fresh random inputs; slots poisoned with NaN; layer-norm parameters and token scales off their initial values.

    ``kind`` is one of KINDS, ``scale`` the standard deviation of q, k and v.
    """
    generator = torch.Generator(device)
    seed = generator.seed() if seed is None else generator.manual_seed(seed).initial_seed()
    print(f"make_case(seed={seed})")  # pytest shows it with a failure

    def normal(*shape: int, std: float = 1.0, mean: float = 0.0, as_dtype: torch.dtype = dtype) -> Tensor:
        return (torch.randn(shape, generator=generator, device=device) * std + mean).to(as_dtype)

    shapes, slots = state_shapes(kind, dim)
    stds = [dim**-0.5, 0.1, (4 * dim) ** -0.5, 0.1]
    q, k, v = normal(tokens, batch, 3 * heads * dim, std=scale).chunk(3, -1)
    eta = (1 / torch.arange(1, SIZE + 1, device=device) + normal(SIZE, std=0.02, as_dtype=torch.float32)).clamp_min(0)
    return Case(
        q=q.contiguous(),
        k=k.contiguous(),
        v=v,  # a strided view, as the model's
        lr=torch.rand(tokens, batch, heads, generator=generator, device=device) / dim,
        eta=eta,
        gamma=normal(heads, dim, std=0.3, mean=1.0),
        beta=normal(heads, dim, std=0.3),
        params=[normal(batch, heads, *shape, std=std) for shape, std in zip(shapes, stds, strict=False)],
        slots=[torch.full((batch, heads, *shape), torch.nan, dtype=dtype, device=device) for shape in slots],
    )


def relative_error(out: Tensor, ref: Tensor) -> float:
    """‖out − ref‖ / ‖ref‖ in float64; NaN if ``out`` holds one."""
    return float((out.double() - ref.double()).norm() / ref.double().norm())


@contextmanager
def poisoned_memory() -> Iterator[None]:
    """In here, new uninitialized tensors hold NaN: an output that a kernel does not write all of shows it.

    PyTorch does that in its deterministic mode; it may only warn here of operators that are not deterministic.
    """
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        assert torch.empty(1).isnan().all()
        yield
    finally:
        torch.use_deterministic_algorithms(False)


def run(step: Step, case: Case, t: int) -> Tensor:
    """Token ``t`` of the case in poisoned memory; the case's state and slots are updated."""
    position = torch.tensor([t % SIZE], dtype=torch.int32, device=case.q.device)
    with poisoned_memory():
        token = (case.q[t], case.k[t], case.v[t], case.lr[t])
        return step(*token, case.eta, position, case.gamma, case.beta, *case.params, *case.slots)


def errors(step: Step, case: Case, rows: list[int] | None = None) -> dict[str, float]:
    """Run ``step`` over the case's tokens; relative errors of all outputs, and of the state after each mini-batch.

    ``rows`` are the sequences to compare where the oracle would not fit all; the others' outputs must be finite.
    The case's state is updated.
    """
    heads = case.lr.shape[2]
    chosen = slice(None) if rows is None else torch.tensor(rows, device=case.q.device)
    q, k, v = (x[:, chosen].unflatten(-1, (heads, -1)) for x in (case.q, case.k, case.v))
    params = [p[chosen] for p in case.params]
    expected, states = oracle.decode(q, k, v, case.lr[:, chosen], case.eta, case.gamma, case.beta, params)
    outputs, found = [], {}
    for t in range(len(case.q)):
        out = run(step, case, t)
        assert out.isfinite().all(), f"token {t}: not all outputs are finite"
        outputs.append(out[chosen].clone())
        if t % SIZE == SIZE - 1:
            for index, (got, want) in enumerate(zip(case.params, states[1 + t // SIZE], strict=True)):
                found[f"state {index} after token {t}"] = relative_error(got[chosen], want)
    return {"out": relative_error(torch.stack(outputs).unflatten(-1, (heads, -1)), expected), **found}


def check(kind: str, step: Step, dtype: torch.dtype, rows: list[int] | None = None, **shape: Any) -> None:
    """Assert that the errors of ``step`` on a fresh case (see :func:`make_case`) are within the dtype's tolerance."""
    found = errors(step, make_case(kind, dtype=dtype, **shape), rows)
    assert all(error < TOLERANCE[dtype] for error in found.values()), found


def check_state_between_folds(kind: str, step: Step, dtype: torch.dtype, **shape: Any) -> None:
    """Assert that the last token of a mini-batch changes the state, and no other a bit of it."""
    case = make_case(kind, dtype=dtype, tokens=SIZE + 2, **shape)
    case.eta.clamp_min_(0.01)  # a mini-batch whose last scale is zero, as one in a thousand has, changes nothing
    for t in range(len(case.q)):
        before = [p.clone() for p in case.params]
        run(step, case, t)
        for index, (old, new) in enumerate(zip(before, case.params, strict=True)):
            assert torch.equal(old, new) == (t % SIZE != SIZE - 1), f"state {index} at token {t}"
