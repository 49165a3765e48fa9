"""A product of some ten to some hundred rows with a large weight: the kernel that `product_choices` tries.

y [B, N] = x [B, K] Wᵀ for W [N, K] row-major. A program has ROWS rows of W and a part of their columns, and goes
through them in steps, some of which are on their way through shared memory.
"""

import triton
import triton.language as tl

from ttt_mlflow.kernels.overlap import wait_for_inputs


@triton.jit
def wide_product_kernel(  # type: ignore[no-untyped-def]
    x, w, out, batch,
    N: tl.constexpr, K: tl.constexpr, BATCH: tl.constexpr, ROWS: tl.constexpr, STEP: tl.constexpr,
    STEPS: tl.constexpr, STAGES: tl.constexpr, GATED: tl.constexpr, OVERLAP: tl.constexpr,
):  # fmt: skip
    """out [parts, B, N], the sums of each part of STEPS · STEP columns. Programs: rows by ROWS, and parts.

    GATED: out [1, B, N / 2] = silu(gate) · up, of the first and the second half of W's rows, each rounded before.
    """
    row = tl.arange(0, ROWS)
    rows = tl.program_id(0) * ROWS + row
    if GATED:
        rows = tl.program_id(0) * (ROWS // 2) + row // 2 + row % 2 * (N // 2)  # each gate beside its partner
    sequences = tl.arange(0, BATCH)
    columns = tl.program_id(1) * (STEP * STEPS) + tl.arange(0, STEP)
    rows_of_w = w + rows.to(tl.int64)[None, :] * K
    rows_of_x = x + sequences[:, None] * K
    wait_for_inputs(OVERLAP)
    sums = tl.zeros((BATCH, ROWS), tl.float32)
    for _ in tl.range(0, STEPS, num_stages=STAGES):
        there = columns < K
        left = tl.load(rows_of_x + columns[None, :], (sequences < batch)[:, None] & there[None, :], 0.0)
        right = tl.load(rows_of_w + columns[:, None], (rows < N)[None, :] & there[:, None], 0.0)
        sums = tl.dot(left, right, sums)
        columns += STEP
    rounded = sums.to(out.dtype.element_ty)
    if GATED:
        gate, up = tl.split(tl.reshape(rounded.to(tl.float32), (BATCH, ROWS // 2, 2)))
        half = tl.program_id(0) * (ROWS // 2) + tl.arange(0, ROWS // 2)
        wanted = (sequences < batch)[:, None] & (half < N // 2)[None, :]
        tl.store(out + sequences[:, None] * (N // 2) + half[None, :], gate * tl.sigmoid(gate) * up, wanted)
    else:
        out += tl.program_id(1) * batch * N
        wanted = (sequences < batch)[:, None] & (rows < N)[None, :]
        tl.store(out + sequences[:, None] * N + rows[None, :], rounded, wanted)
