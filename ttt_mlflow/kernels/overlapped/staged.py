"""A product of up to 128 rows with a large weight, as one of a step's overlapping kernels, in Gluon, for Hopper.

y [B, N] = x [B, K] Wᵀ for W [N, K] row-major, B ≤ 128. Twin: ``torch.nn.functional.linear``.

A program has ROWS rows of W and a part of their columns, STEP at a time. The copy engine brings them to one of STAGES
places in shared memory, and the tensor cores multiply from there. The rows of W are the rows of their instruction, of
which there are 64, and the sequences its columns, 8 to 128: so few programs have many rows, and x is read seldom. What
a program reads of x comes through the same places.

Before it waits for x, a program requests all weights that have a place. FLIGHT of its steps at most are on their way
at once: more would not come earlier, and what the kernel before reads would wait behind them.

Bytes: 2 N K for W once, and 2 B K for each ROWS rows of W, most of them from the L2 cache. Limits: float16 and
bfloat16, K a multiple of 8, compute capability 9.x, which alone has this instruction.
"""

from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import mbarrier, tma, warpgroup_mma, warpgroup_mma_wait
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait


@gluon.constexpr_function
def out_layout(rows, warps, each):
    """EACH neighboring columns of the result, which are rows of W, in a thread, and the next ones beside it."""
    lanes = min(32, rows // each)
    return gl.BlockedLayout([each, 1], [lanes, 32 // lanes], [1, warps], [0, 1])


@gluon.constexpr_function
def pair_layout(rows, warps, each):
    """The same for pairs [.., .., 2], both of one in the same thread."""
    lanes = min(32, rows // each)
    return gl.BlockedLayout([each, 1, 2], [lanes, 32 // lanes, 1], [1, warps, 1], [2, 0, 1])


@gluon.jit
def request_weights(w, row, column, come, tile, APART: gl.constexpr, GATED: gl.constexpr, wanted):
    """Request a tile [ROWS, STEP] of W if it is wanted; ``come`` says when it is there.

    GATED: its second half is APART rows after the first.
    """
    ROWS: gl.constexpr = tile.shape[0]
    mbarrier.expect(come, ROWS * tile.shape[1] * 2, wanted)
    if GATED:
        HALF: gl.constexpr = ROWS // 2
        tma.async_copy_global_to_shared(w, [row, column], come, tile.slice(0, HALF), wanted)
        tma.async_copy_global_to_shared(w, [row + APART, column], come, tile.slice(HALF, HALF), wanted)
    else:
        tma.async_copy_global_to_shared(w, [row, column], come, tile, wanted)


@gluon.jit
def request_rows(x, column, come, tile, wanted):
    """Request STEP columns of all rows of x if they are wanted."""
    mbarrier.expect(come, x.block_type.nbytes, wanted)
    tma.async_copy_global_to_shared(x, [0, column], come, tile, wanted)


@gluon.jit
def sums_of_products(
    x, w, row, begin, steps, APART: gl.constexpr, ROWS: gl.constexpr, STAGES: gl.constexpr, FLIGHT: gl.constexpr,
    GATED: gl.constexpr, OVERLAP: gl.constexpr,
):  # fmt: skip
    """[ROWS, BATCH] float32: tile rows from ``row`` on times x, over ``steps`` steps of columns from ``begin`` on."""
    BATCH: gl.constexpr = x.block_type.shape[0]
    STEP: gl.constexpr = x.block_type.shape[1]
    x_tiles = gl.allocate_shared_memory(x.dtype, [STAGES, BATCH, STEP], x.layout)
    w_tiles = gl.allocate_shared_memory(w.dtype, [STAGES, ROWS, STEP], w.layout)
    x_come = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    w_come = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    for place in gl.static_range(STAGES):
        mbarrier.init(x_come.index(place), count=1)
        mbarrier.init(w_come.index(place), count=1)
    for place in gl.static_range(STAGES):
        if place >= FLIGHT:
            mbarrier.wait(w_come.index(place - FLIGHT), 0, place - FLIGHT < steps)
        request_weights(
            w, row, (begin + place) * STEP, w_come.index(place), w_tiles.index(place), APART, GATED, place < steps
        )
    if OVERLAP:
        gdc_wait()
    for place in gl.static_range(STAGES):
        request_rows(x, (begin + place) * STEP, x_come.index(place), x_tiles.index(place), place < steps)

    SUMS: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [gl.num_warps(), 1], [16, BATCH, 16])
    sums = gl.zeros([ROWS, BATCH], gl.float32, SUMS)
    for step in range(steps):
        now = step % STAGES
        turn = (step // STAGES) & 1
        mbarrier.wait(w_come.index(now), turn)
        mbarrier.wait(x_come.index(now), turn)
        sums = warpgroup_mma(w_tiles.index(now), x_tiles.index(now).permute((1, 0)), sums, is_async=True)
        sums = warpgroup_mma_wait(1, deps=(sums,))  # the step before has been multiplied, and its place is free
        later = step - 1 + STAGES
        if (step > 0) & (later < steps):
            free = later % STAGES
            column = (begin + later) * STEP
            request_weights(w, row, column, w_come.index(free), w_tiles.index(free), APART, GATED, True)
            request_rows(x, column, x_come.index(free), x_tiles.index(free), True)
    return warpgroup_mma_wait(0, deps=(sums,))


@gluon.jit
def best_of(values, columns):
    """Along axis 0, what :func:`.tiles.best_of` makes of the largest value, and of the first column that has it."""
    largest = gl.max(values, 0)
    column = gl.min(gl.where(values == largest[None, :], columns[:, None], 0x7FFFFFFF), 0)
    bits = (largest + 0.0).to(gl.int32, bitcast=True)  # no -0.0, whose bits are not those of 0.0
    ordered = gl.where(bits < 0, bits ^ 0x7FFFFFFF, bits)
    return (ordered.to(gl.int64) << 32) | (0x7FFFFFFF - column).to(gl.int64)


@gluon.jit
def staged_product_kernel(
    x, w, out, best, batch, words, out_stride,
    N: gl.constexpr, K: gl.constexpr, STEPS: gl.constexpr, STAGES: gl.constexpr, FLIGHT: gl.constexpr,
    PARTIAL: gl.constexpr, GATED: gl.constexpr, BEST: gl.constexpr, OVERLAP: gl.constexpr,
):  # fmt: skip
    """out [B, N], rounded to its dtype. Programs: rows of W by parts of STEPS steps.

    x, w: tensor descriptors, of blocks [BATCH, STEP] and [ROWS, STEP]; [ROWS / 2, STEP] if GATED. PARTIAL, GATED, BEST:
    as :func:`.product.product_kernel` has them.
    """
    STEP: gl.constexpr = x.block_type.shape[1]
    COLUMNS: gl.constexpr = w.block_type.shape[0]  # of the result, that this program has
    ROWS: gl.constexpr = COLUMNS * 2 if GATED else COLUMNS
    WARPS: gl.constexpr = gl.num_warps()
    if OVERLAP:
        gdc_launch_dependents()
    row = gl.program_id(0) * COLUMNS
    begin = gl.program_id(1) * STEPS
    steps = gl.minimum(STEPS, (K + STEP - 1) // STEP - begin)
    sums = sums_of_products(x, w, row, begin, steps, N // 2, ROWS, STAGES, FLIGHT, GATED, OVERLAP)

    kind: gl.constexpr = out.dtype.element_ty
    EACH: gl.constexpr = 4 if PARTIAL else 8
    OUT: gl.constexpr = out_layout(COLUMNS, WARPS, EACH)
    rounded = sums.to(kind)
    if GATED:
        pairs = rounded.reshape([2, COLUMNS, x.block_type.shape[0]]).permute([1, 2, 0])
        gate, up = gl.split(gl.convert_layout(pairs, pair_layout(COLUMNS, WARPS, EACH)))
        gate = gate.to(gl.float32)
        rounded = (gate / (1.0 + gl.exp(-gate)) * up.to(gl.float32)).to(kind)
    if PARTIAL:
        out += gl.program_id(1) * batch * N
    rounded = gl.convert_layout(rounded, OUT)
    columns = row + gl.arange(0, COLUMNS, gl.SliceLayout(1, OUT))
    sequences = gl.arange(0, x.block_type.shape[0], gl.SliceLayout(0, OUT))
    place = out + sequences[None, :] * out_stride + columns[:, None]
    within = columns < (N // 2 if GATED else N)
    gl.store(place, rounded, (sequences < batch)[None, :] & within[:, None])
    if BEST:
        values = gl.where((columns < words)[:, None], rounded.to(gl.float32), -float("inf"))
        gl.store(best + sequences * gl.num_programs(0) + gl.program_id(0), best_of(values, columns))
