"""Random prompts for any implementation of an inner net's prefill, and its error against the float64 oracle."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from importlib import import_module

import torch
from torch import Tensor

from tests.kernels import oracle
from tests.kernels.decode_cases import SIZE, TOLERANCE, Case, make_case, poisoned_memory, relative_error
from ttt_mlflow.kernels.ttt_linear.reference import linear_decode, linear_prefill
from ttt_mlflow.kernels.ttt_mlp.reference import mlp_decode, mlp_prefill

Prefill = Callable[..., Tensor]
NETS = ("linear", "mlp")
TWINS: dict[str, Prefill] = {"linear": linear_prefill, "mlp": mlp_prefill}
STEPS: dict[str, Prefill] = {"linear": linear_decode, "mlp": mlp_decode}
# Lengths of the pieces in which a prompt is fed: every way to begin and to end a mini-batch.
PIECES = ((1,), (16,), (5, 3), (37,), (7, 40, 1), (48, 17, 15))


def triton_prefill(net: str) -> Prefill:
    """The function that the Triton inner nets use. Imported when asked for, as for decode."""
    function: Prefill = getattr(import_module(f"ttt_mlflow.kernels.ttt_{net}.prefill"), f"{net}_prefill")
    return function


def feed(prefill: Prefill, case: Case, start: int, end: int) -> Tensor:
    """Tokens ``start`` to ``end`` of the case at once, in poisoned memory: out [B, L, D]. The state is updated."""
    q, k, v = (x[start:end].transpose(0, 1).contiguous() for x in (case.q, case.k, case.v))
    v = torch.cat((torch.full_like(v, torch.nan), v), -1)[..., v.shape[-1] :]  # rows with a distance, as the model's
    lr = case.lr[start:end].permute(1, 2, 0).contiguous()
    position = torch.tensor([start % SIZE], dtype=torch.int32, device=q.device)
    with poisoned_memory():
        return prefill(q, k, v, lr, case.eta, position, case.gamma, case.beta, *case.params, *case.slots)


def errors(prefill: Prefill, case: Case, pieces: Sequence[int]) -> dict[str, float]:
    """Feed the case's tokens in pieces. Relative errors of the outputs, and of the state after the last mini-batch.

    The vectors of a mini-batch that is not complete are compared with those of float64 decode steps.
    """
    tokens, heads = len(case.q), case.lr.shape[2]
    assert tokens == sum(pieces)
    q, k, v = (x.unflatten(-1, (heads, -1)) for x in (case.q, case.k, case.v))
    expected, states = oracle.decode(q, k, v, case.lr, case.eta, case.gamma, case.beta, case.params)
    wide = replace(
        case,
        params=[p.double() for p in states[tokens // SIZE]],
        slots=[torch.zeros_like(s, dtype=torch.float64) for s in case.slots],
    )
    step = STEPS["linear" if len(case.params) == 2 else "mlp"]
    for t in range(tokens // SIZE * SIZE, tokens):
        token = (x[t].double() for x in (case.q, case.k, case.v, case.lr))
        position = torch.tensor([t % SIZE], dtype=torch.int32, device=case.q.device)
        norm = (case.gamma.double(), case.beta.double())
        step(*token, case.eta.double(), position, *norm, *wide.params, *wide.slots)
    start, outputs = 0, []
    for piece in pieces:
        outputs.append(feed(prefill, case, start, start + piece))
        start += piece
    out = torch.cat(outputs, 1).transpose(0, 1).unflatten(-1, (heads, -1))
    found = {"out": relative_error(out, expected)}
    for index, (got, want) in enumerate(zip(case.params, states[tokens // SIZE], strict=True)):
        found[f"state {index}"] = relative_error(got, want)
    if kept := tokens % SIZE:
        for index, (got, want) in enumerate(zip(case.slots, wide.slots, strict=True)):
            found[f"slots {index}"] = relative_error(got[:, :, :kept], want[:, :, :kept])
    return found


def check(
    net: str, prefill: Prefill, dtype: torch.dtype, pieces: Sequence[int], scale: float = 1.0, **shape: int
) -> None:
    """Assert that the errors on a fresh case are within the dtype's tolerance, that of a decode step.

    A single vector of a mini-batch that is not complete may be off by twice as much: nothing averages there.
    """
    device = "cuda" if shape.pop("gpu", 0) else "cpu"
    case = make_case(net, dtype=dtype, tokens=sum(pieces), scale=scale, device=device, **shape)
    found = errors(prefill, case, pieces)
    limit = TOLERANCE.get(dtype, 1e-6)
    assert all(error < (2 * limit if name.startswith("slots") else limit) for name, error in found.items()), found
