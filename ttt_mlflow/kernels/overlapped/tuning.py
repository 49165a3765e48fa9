"""How the products of a step are divided, and what else changes its time: a table instead of autotuning."""

from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

import triton

from ttt_mlflow.kernels.overlapped.product import splits
from ttt_mlflow.kernels.overlapped.tiles import LANE_COLUMNS, ROWS, loads_operands

# whose step it is: of the transformers, one with a KV head for each query head, and one whose query heads share them
Model = Literal["ttt_linear", "ttt_mlp", "transformer", "shared_kv"]
SHARED_BYTES = 227 * 1024  # that a program may have on Hopper


def padded_batch(batch: int) -> int:
    """Sequences as the tensor cores' instruction has them."""
    return max(8, triton.next_power_of_2(batch))


@dataclass(frozen=True)
class Tiling:
    """How the programs of :func:`.product.product_kernel` divide a weight: 16 rows each, in registers.

    warps, registers: of a program, the latter of a thread at most. columns: of a row that a program has at most, if the
    parts of a row can be summed later. span: columns of a tile. tiles: those that a program has in its registers.
    flight: those of them that are on their way to it at once.
    """

    warps: int = 4
    registers: int = 168
    columns: int = 2048
    span: int = 512
    tiles: int = 4
    flight: int = 1

    def span_of(self, k: int) -> int:
        """``span``, for rows of k: a power of two with columns for every warp."""
        return max(min(self.span, triton.next_power_of_2(k)), self.warps * LANE_COLUMNS)

    def parts_of(self, k: int) -> int:
        """Of rows of k, the parts whose sums a ``partial`` product keeps."""
        return int(splits(k, self.columns, self.span_of(k)))

    def programs_of(self, n: int) -> int:
        """That share a weight's n rows."""
        return n // ROWS


@dataclass(frozen=True)
class StagedTiling:
    """How the programs of :func:`.staged.staged_product_kernel` divide a weight, which goes through shared memory.

    rows: of a program, 64 or 128. step: columns of a tile. stages: tiles that have a place in shared memory. flight:
    those of them that are on their way at once before the product waits for x; None: all. parts: of a row, if they
    can be summed later. warps: of a program, four or eight; no more than ``rows`` / 16.
    """

    rows: int = 64
    step: int = 64
    stages: int = 8
    flight: int | None = None
    parts: int = 1
    warps: int = 4

    def steps_of(self, k: int) -> int:
        """Of rows of k, the tiles that a program of a ``partial`` product has at most."""
        return triton.cdiv(triton.cdiv(k, self.step), self.parts)

    def parts_of(self, k: int) -> int:
        """Of rows of k, the parts whose sums a ``partial`` product keeps."""
        return triton.cdiv(triton.cdiv(k, self.step), self.steps_of(k))

    def programs_of(self, n: int) -> int:
        """That share a weight's n rows."""
        return triton.cdiv(n, self.rows)

    def shared_bytes(self, batch: int) -> int:
        """Of a program's tiles of 16-bit weights and rows, and the two barriers of each place."""
        return self.stages * (2 * self.step * (self.rows + padded_batch(batch)) + 2 * 8)


WIDE, HALF = Tiling(), Tiling(columns=1024, tiles=2)  # all columns of 2048, or half of them, in four warps' registers
PAIR = Tiling(warps=2, span=256)  # half of them in two warps' registers, and the others after them


@dataclass(frozen=True)
class Tuning:
    """What changes the time of a step, and nothing else but the order of sums.

    projection, output, gate_up, down, head: of these products, all of one kind. norm_warps, head_warps: of the programs
    of norms, and of the inner net. held: one kernel has the convolutions of Q and K and the inner net, a program each
    head, with its state in registers; otherwise they are the two kernels of ``launches``.
    """

    projection: Tiling | StagedTiling = WIDE
    output: Tiling | StagedTiling = HALF
    gate_up: Tiling | StagedTiling = WIDE
    down: Tiling | StagedTiling = WIDE
    head: Tiling | StagedTiling = WIDE
    norm_warps: int = 16
    head_warps: int = 1
    held: bool = True

    @classmethod
    def of(cls, model: Model, batch: int, staged: bool) -> "Tuning":
        """The choice for this model and batch. staged: the GPU can run :mod:`.staged`.

        With a Triton that moves what :class:`Tiling` holds in registers, all products are staged where they can be.
        ValueError for more sequences than the products take.
        """
        table = (TABLE | STAGED) if staged else TABLE
        if batch > max(table):
            raise ValueError(f"{batch} sequences: kernels that overlap take 1 to {max(table)} on this GPU")
        chosen: Tuning = next(getattr(row, model) for most, row in table.items() if batch <= most)
        if staged and isinstance(chosen.projection, Tiling) and not loads_operands():
            fewest: Tuning = getattr(STAGED[min(STAGED)], model)
            return replace(fewest, head_warps=chosen.head_warps, held=chosen.held)
        return chosen


class Row(NamedTuple):
    """The choice for each :data:`Model`, for batches up to one."""

    ttt_linear: Tuning
    ttt_mlp: Tuning
    transformer: Tuning
    shared_kv: Tuning


def _in_registers(normed: Tiling, **others: Tiling | int | bool) -> Tuning:
    """normed: of the products of a normed row."""
    return replace(Tuning(normed, HALF, normed, WIDE, normed), **others)  # type: ignore[arg-type]


# Largest batch -> the fastest on an H200, by benchmarks.step_tuning. For transformers that was asked at batches 1, 16
# and 128; elsewhere they have TTT-Linear's, with shared KV heads in three parts up to 8. Weights in registers:
MORE = _in_registers(PAIR)
MOST = _in_registers(replace(PAIR, tiles=3), down=replace(WIDE, tiles=2), norm_warps=32)
HALVES = replace(PAIR, columns=1024)
THIRDS = replace(WIDE, columns=2560)  # of 6528 columns, so that all programs of the product run at once
TABLE = {
    4: Row(
        Tuning(), Tuning(norm_warps=32, head_warps=8),
        Tuning(output=HALVES, down=HALVES), Tuning(down=THIRDS),
    ),
    8: Row(MORE, replace(MORE, held=False), MORE, replace(MORE, down=THIRDS)),
    16: Row(MOST, replace(MOST, held=False), MOST, MOST),
}  # fmt: skip

# in shared memory; from 9 sequences on, where the GPU has what that needs
LONG, SHORT = StagedTiling(step=128, stages=5), StagedTiling(step=64, stages=8)
DEEP, FEW = StagedTiling(step=256, stages=5), StagedTiling(step=128, stages=4)
SIXTEEN = Tuning(
    projection=replace(DEEP, flight=1), output=StagedTiling(step=256, stages=2, parts=4),
    gate_up=replace(LONG, flight=2), down=replace(LONG, flight=4, parts=8), head=LONG, norm_warps=32,
)  # fmt: skip
THIRTY_TWO = Tuning(
    projection=replace(LONG, flight=2), output=StagedTiling(step=128, stages=8, flight=4, parts=2),
    gate_up=StagedTiling(rows=128, step=128, stages=5, flight=2, warps=8), down=replace(LONG, flight=4, parts=4),
    head=StagedTiling(step=256, stages=2),
)  # fmt: skip
SIXTY_FOUR = Tuning(
    projection=replace(SHORT, flight=2), output=replace(FEW, parts=4),
    gate_up=StagedTiling(rows=128, stages=6, flight=2, warps=8), down=replace(FEW, parts=4),
    head=StagedTiling(rows=128, stages=3, warps=8), held=False,
)  # fmt: skip
MANY = Tuning(
    projection=SHORT, output=replace(SHORT, flight=4, parts=3),
    gate_up=StagedTiling(rows=128, stages=6, flight=2, warps=8), down=replace(SHORT, flight=4, parts=4),
    head=StagedTiling(rows=128, stages=6), held=False,
)  # fmt: skip
STAGED = {
    16: Row(
        SIXTEEN,
        replace(SIXTEEN, output=THIRTY_TWO.output, down=replace(LONG, parts=8), held=False),
        replace(SIXTEEN, output=replace(FEW, parts=4), down=replace(LONG, flight=2, parts=8)),
        replace(
            SIXTEEN, projection=replace(DEEP, flight=2), output=replace(SIXTEEN.output, flight=1),
            down=replace(SHORT, flight=4, parts=8),
        ),
    ),
    32: Row(THIRTY_TWO, replace(THIRTY_TWO, held=False), THIRTY_TWO, THIRTY_TWO),
    64: Row(SIXTY_FOUR, SIXTY_FOUR, SIXTY_FOUR, SIXTY_FOUR),
    128: Row(
        MANY,
        replace(
            MANY, output=replace(SHORT, parts=3), gate_up=StagedTiling(rows=128, stages=6, warps=8),
            down=replace(SHORT, parts=3),
        ),
        MANY,
        replace(MANY, projection=FEW, down=replace(FEW, flight=4, parts=4), head=replace(MANY.head, flight=1)),
    ),
}  # fmt: skip
