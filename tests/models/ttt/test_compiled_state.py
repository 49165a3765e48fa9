"""What the compiler does with a kernel that updates the state: it hands over the state itself.

A launch that overlaps with the kernel before it is right only if that kernel does not write the state. Were the state
copied for the launch, as the compiler may do with what an operator updates, the copy would be just that kernel.
"""

import os
import shutil
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from ttt_mlflow.kernels.opaque import opaque
from ttt_mlflow.kernels.ttt_linear.reference import linear_decode
from ttt_mlflow.models.ttt.initialization import initialize
from ttt_mlflow.models.ttt.inner_nets import INNER_NETS
from ttt_mlflow.models.ttt.model import TTTModel
from ttt_mlflow.models.ttt.sizes import config_of

CXX = os.environ.get("CXX") or shutil.which("g++") or shutil.which("clang++")
seen: list[list[int]] = []


@opaque(mutates=["w", "b", "k_slots", "g_slots"], shapes=lambda q, *_, **__: torch.empty_like(q))
def state_probe(
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
    *,
    overlap: bool = False,
) -> Tensor:
    """The Triton function's operator, with the twin for a body: it runs on a CPU."""
    assert overlap
    seen.append([part.data_ptr() for part in (w, b, k_slots, g_slots)])
    out = linear_decode(q, k, v, lr, eta, position, norm_weight, norm_bias, w, b, k_slots, g_slots)
    return out.clone()


def decode(*arguments: Tensor) -> Tensor:
    return state_probe(*arguments, overlap=True)


@pytest.mark.long
@pytest.mark.skipif(not CXX, reason="compiling for a CPU needs a C++ compiler")
def test_a_compiled_step_gives_the_kernel_the_state_itself() -> None:
    seen.clear()
    net = replace(INNER_NETS["mlp_1_dual"], decode=decode)
    model = TTTModel(config_of("ttt-tiny", "linear"), net, torch.float32, torch.device("cpu"))
    initialize(model, 0)
    state = model.new_state(2)
    model.reset_state(state)
    model.compile_step()
    with torch.no_grad():
        model.step(torch.zeros(2, dtype=torch.int64), state)
    assert seen == [[part.data_ptr() for part in (*layer.inner, *layer.slots)] for layer in state.layers]
