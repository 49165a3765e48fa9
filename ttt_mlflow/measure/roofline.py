"""The bytes that a decode step cannot do without, and so the time that it cannot beat."""

import torch

from ttt_mlflow.kernels.reference import MINI_BATCH


def decode_kernel_bytes(layer_type: str, batch: int, heads: int, head_dim: int, dtype: torch.dtype) -> float:
    """The least bytes of one layer's inner decode step, averaged over a mini-batch; ``layer_type`` linear or mlp.

    A token reads the state and its biases, which change once a mini-batch; it reads the vectors of the earlier tokens
    of its mini-batch, half of them on average, and writes its own; q, k, v and the output, and one learning rate a
    head, each counted in the state's dtype.

    This is the floor of the problem, as the rank-1 form has it. A kernel that moves more, as the accumulating form
    does, is held against the same bytes.
    """
    m, f = MINI_BATCH, head_dim
    if layer_type == "linear":
        state, biases, vectors = f * f, f, 2 * f
    elif layer_type == "mlp":
        state, biases, vectors = 8 * f * f, 5 * f, 10 * f
    else:
        raise ValueError(f"layer_type={layer_type}: linear or mlp")
    once_a_mini_batch = 1 + 1 / m  # read by every token, written by the last
    elements = (state + biases) * once_a_mini_batch + vectors * ((m - 1) / 2 + 1) + 4 * f + 1
    return batch * heads * elements * dtype.itemsize
