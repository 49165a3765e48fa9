"""A layer outside its inner net, for prompts: the Triton functions against their twins and against decode steps."""

import torch
from torch import Tensor

from tests.kernels.decode_cases import relative_error
from ttt_mlflow.kernels.block import prefill_reference, reference

# Rounding once to float16 is up to 2.5e-4 of a result; a rare last bit that falls the other way adds little.
TOLERANCE = {torch.float16: 5e-4, torch.bfloat16: 4e-3, torch.float32: 1e-5}


def check_against_twins(functions, dtype, length, start, heads, dim, device="cpu"):
    """All functions of ``functions`` for a prompt of ``length`` tokens from position ``start``."""
    batch, width, limit = 2, heads * dim, TOLERANCE[dtype]

    def x(*shape: int) -> Tensor:
        return torch.randn(shape, device=device).to(dtype)

    def compare(name: str, *arguments: Tensor | float) -> None:
        results = []
        for module in (functions, prefill_reference):
            copies = [a.clone() if torch.is_tensor(a) and a.is_contiguous() else a for a in arguments]
            out = getattr(module, name)(*copies)
            written = [copy for copy in copies if torch.is_tensor(copy)]
            results.append([*(out if isinstance(out, tuple) else [out]), *written])
        for index, (mine, theirs) in enumerate(zip(*results, strict=True)):
            assert mine.shape == theirs.shape
            assert mine.dtype == theirs.dtype
            if mine.dtype == torch.int32:
                assert torch.equal(mine, theirs)
            else:
                assert relative_error(mine, theirs) < limit, f"{name}: result {index}"

    position = torch.tensor([start], dtype=torch.int32, device=device)
    angles = torch.randn(16, dim // 2, device=device)
    compare(
        "conv_rms_norm", x(batch, length, width), x(batch, 4, width), position,
        x(width), x(4, width), x(width), x(width),
    )  # fmt: skip
    projected = x(batch, length, 3 * width + 64)
    compare(
        "qk_conv_rotary", projected[..., :width], projected[..., 3 * width : 3 * width + heads], x(batch, 4, width),
        position, x(4, width), x(width), x(4, width), x(width), x(heads), angles.cos(), angles.sin(), 0.5,
    )  # fmt: skip
    compare("gated_layer_norm", x(batch, length, width), projected[..., width : 2 * width], x(width), x(width))
    compare("rms_norm", x(batch, length, width), x(width))
    compare("swiglu", x(batch, length, 2 * (width + 24)))


def check_against_steps(functions, dtype, length, start):
    """The convolutions of ``functions`` for a prompt against one decode step for each token, in plain PyTorch."""
    batch, heads, dim = 2, 3, 16
    width, limit = heads * dim, TOLERANCE[dtype]

    def x(*shape: int) -> Tensor:
        return torch.randn(shape).to(dtype)

    angles = torch.randn(16, dim // 2)
    position = torch.tensor([start], dtype=torch.int32)
    positions = [torch.tensor([(start + token) % 16], dtype=torch.int32) for token in range(length)]
    hidden, ring, weights = x(batch, length, width), x(batch, 4, width), (x(width), x(4, width), x(width), x(width))
    stepped = ring.clone()
    zero = torch.zeros(batch, width, dtype=dtype)
    expected = [
        reference.conv_rms_norm(row, zero, stepped, now, *weights)
        for row, now in zip(hidden.unbind(1), positions, strict=True)
    ]
    found = functions.conv_rms_norm(hidden, ring, position, *weights)
    for mine, theirs in zip(found, zip(*expected, strict=True), strict=True):
        assert relative_error(mine, torch.stack(theirs, 1)) < limit
    assert relative_error(ring, stepped) < limit

    qk, logits, ring = x(batch, length, width), x(batch, length, heads), x(batch, 4, width)
    filters = (x(4, width), x(width), x(4, width), x(width), x(heads), angles.cos(), angles.sin(), 0.5)
    stepped = ring.clone()
    stepwise = [
        reference.qk_conv_rotary(row, logit, stepped, now, *filters)
        for row, logit, now in zip(qk.unbind(1), logits.unbind(1), positions, strict=True)
    ]
    q, k, lr = functions.qk_conv_rotary(qk, logits, ring, position, *filters)
    for mine, theirs in zip((q, k, lr.transpose(1, 2)), zip(*stepwise, strict=True), strict=True):
        assert relative_error(mine, torch.stack(theirs, 1)) < limit
    assert torch.equal(ring, stepped)
