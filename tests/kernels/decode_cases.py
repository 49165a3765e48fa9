"""Random decode steps for any implementation of an inner net, and their error against the float64 oracle."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tests.kernels import oracle

SIZE = 16
TOLERANCE = {torch.float16: 1e-3, torch.bfloat16: 8e-3, torch.float32: 2e-5}


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

    ``kind`` is linear or mlp (the rank-1 form), linear_accumulate or mlp_accumulate.
    """
    generator = torch.Generator(device)
    seed = generator.seed() if seed is None else generator.manual_seed(seed).initial_seed()
    print(f"make_case(seed={seed})")  # pytest shows it with a failure

    def normal(*shape: int, std: float = 1.0, mean: float = 0.0, as_dtype: torch.dtype = dtype) -> Tensor:
        return (torch.randn(shape, generator=generator, device=device) * std + mean).to(as_dtype)

    shapes, slots = state_shapes(kind, dim)
    stds = [dim**-0.5, 0.1, (4 * dim) ** -0.5, 0.1]
    fused = [normal(tokens, batch, 3 * heads * dim, std=scale).chunk(3, -1)[i] for i in range(3)]
    eta = (1 / torch.arange(1, SIZE + 1, device=device) + normal(SIZE, std=0.02, as_dtype=torch.float32)).clamp_min(0)
    return Case(
        q=fused[0].contiguous(),
        k=fused[1].contiguous(),
        v=fused[2],  # a strided view, as the model's
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


def errors(step: Any, case: Case) -> dict[str, float]:
    """Run ``step`` over the case's tokens; relative errors of the outputs and of each state tensor.

    The case's state is updated. The first fold's state is checked through the tokens that follow it.
    """
    heads = case.lr.shape[2]
    q, k, v = (x.unflatten(-1, (heads, -1)) for x in (case.q, case.k, case.v))
    expected, state = oracle.decode(q, k, v, case.lr, case.eta, case.gamma, case.beta, case.params)
    position = torch.zeros(1, dtype=torch.int32, device=case.q.device)
    outputs = []
    for t in range(len(case.q)):
        position.fill_(t % SIZE)
        token = (case.q[t], case.k[t], case.v[t], case.lr[t])
        outputs.append(step(*token, case.eta, position, case.gamma, case.beta, *case.params, *case.slots).clone())
    found = {"out": relative_error(torch.stack(outputs).unflatten(-1, (heads, -1)), expected)}
    for index, (got, want) in enumerate(zip(case.params, state, strict=True)):
        found[f"state {index}"] = relative_error(got, want)
    return found
