"""TTT-MLP over a whole prompt (inner net ``mlp_2_dual_triton``).

Twin: :func:`ttt_mlflow.kernels.ttt_mlp.reference.mlp_prefill`, which defines shapes and meaning.

16-bit state with heads of 64 uses the tensor-core kernel, where its shared memory fits. The rest is for other models
than the one that is compared most, and for checks: it takes PyTorch's operations, mini-batch by mini-batch.
"""

import torch
from torch import Tensor

from ttt_mlflow.kernels.checks import check_prefill_arguments, head_shape
from ttt_mlflow.kernels.inner_layers import MINI_BATCH
from ttt_mlflow.kernels.launch import on_tensor_cores
from ttt_mlflow.kernels.ttt_mlp import reference


def mlp_prefill(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    lr: Tensor,
    eta: Tensor,
    position: Tensor,
    norm_weight: Tensor,
    norm_bias: Tensor,
    w1: Tensor,
    b1: Tensor,
    w2: Tensor,
    b2: Tensor,
    k_slots: Tensor,
    g1_slots: Tensor,
    x2_slots: Tensor,
    g2_slots: Tensor,
) -> Tensor:
    """See :func:`ttt_mlflow.kernels.ttt_mlp.reference.mlp_prefill`.

    Raises ValueError with the argument's name for unsupported arguments.
    """
    batch, heads, dim = head_shape("b2", b2)
    check_prefill_arguments(
        q, k, v, lr, eta, position, norm_weight, norm_bias,
        state={
            "b2": (b2, (batch, heads, dim)), "w2": (w2, (batch, heads, 4 * dim, dim)),
            "b1": (b1, (batch, heads, 4 * dim)), "w1": (w1, (batch, heads, dim, 4 * dim)),
            "k_slots": (k_slots, (batch, heads, MINI_BATCH, dim)),
            "g1_slots": (g1_slots, (batch, heads, MINI_BATCH, 4 * dim)),
            "x2_slots": (x2_slots, (batch, heads, MINI_BATCH, 4 * dim)),
            "g2_slots": (g2_slots, (batch, heads, MINI_BATCH, dim)),
        },
    )  # fmt: skip
    arguments = (
        q, k, v, lr, eta, position, norm_weight, norm_bias,
        w1, b1, w2, b2, k_slots, g1_slots, x2_slots, g2_slots,
    )  # fmt: skip
    if not on_tensor_cores("ttt_mlp_prefill_tensor", q.device, w1.dtype, dim):
        return reference.mlp_prefill(*arguments)
    from ttt_mlflow.kernels.ttt_mlp.prefill_tensor_cores import mlp_prefill_tensor

    out = torch.empty_like(q)
    mlp_prefill_tensor(out, *arguments)
    return out
