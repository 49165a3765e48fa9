"""TTT-Linear over a whole prompt (inner net ``mlp_1_dual_triton``).

Twin: :func:`ttt_mlflow.kernels.ttt_linear.reference.linear_prefill`, which defines shapes and meaning.

16-bit state with heads of 64 uses the tensor-core kernel, where its shared memory fits. The rest is for other models
than the one that is compared most, and for checks: it takes PyTorch's operations, mini-batch by mini-batch.
"""

import torch
from torch import Tensor

from ttt_mlflow.kernels.checks import check_prefill_arguments, head_shape
from ttt_mlflow.kernels.inner_layers import MINI_BATCH
from ttt_mlflow.kernels.launch import on_tensor_cores
from ttt_mlflow.kernels.ttt_linear import reference


def linear_prefill(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    lr: Tensor,
    eta: Tensor,
    position: Tensor,
    norm_weight: Tensor,
    norm_bias: Tensor,
    w: Tensor,
    b: Tensor,
    k_slots: Tensor,
    g_slots: Tensor,
) -> Tensor:
    """See :func:`ttt_mlflow.kernels.ttt_linear.reference.linear_prefill`.

    Raises ValueError with the argument's name for unsupported arguments.
    """
    batch, heads, dim = head_shape("b", b)
    check_prefill_arguments(
        q, k, v, lr, eta, position, norm_weight, norm_bias,
        state={
            "b": (b, (batch, heads, dim)), "w": (w, (batch, heads, dim, dim)),
            "k_slots": (k_slots, (batch, heads, MINI_BATCH, dim)),
            "g_slots": (g_slots, (batch, heads, MINI_BATCH, dim)),
        },
    )  # fmt: skip
    arguments = (
        q, k, v, lr, eta, position, norm_weight, norm_bias,
        w, b, k_slots, g_slots,
    )  # fmt: skip
    if not on_tensor_cores("ttt_linear_prefill_tensor", q.device, w.dtype, dim):
        return reference.linear_prefill(*arguments)
    from ttt_mlflow.kernels.ttt_linear.prefill_tensor_cores import linear_prefill_tensor

    out = torch.empty_like(q)
    linear_prefill_tensor(out, *arguments)
    return out
