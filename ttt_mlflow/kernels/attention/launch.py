"""Launch options of the split-KV kernel, and into how many parts the cache of a head is split.

Both follow from the shape. A model that measures its choices at set-up tries the other rows too; see
:mod:`ttt_mlflow.models.transformer.choice`.
"""

from dataclasses import dataclass, replace

import torch
import triton

MOST_SPLITS = 64
WHOLE = 512  # positions of a cache that one program reads as a whole: a second launch costs more than it saves
LEAST = 256  # positions of a part
AHEAD = (1, 8)  # blocks
RESIDENT = 2  # programs on each multiprocessor for which the default splits


@dataclass(frozen=True)
class Launch:
    """splits: parts of a head's cache. block: positions that are loaded at once. warps and stages: of a program.

    Where launches overlap, early: this one does too; ahead: of its part, the blocks that a program requests meanwhile.
    """

    splits: int
    block: int
    warps: int
    stages: int
    early: bool = True
    ahead: int = 0

    @property
    def options(self) -> dict[str, int]:
        """The arguments of :func:`ttt_mlflow.kernels.attention.decode.decode_attention`."""
        return vars(self).copy()


# block, warps, stages; the first row is the default. Chosen by shared memory: two or more programs on a multiprocessor.
ROWS = ((64, 4, 3), (64, 4, 4), (32, 4, 3), (32, 2, 4), (128, 4, 2), (128, 8, 3))
FLOAT32_ROWS = ((32, 8, 2),)  # for checks; a block takes twice as much, and four warps spill


def rows_for(dtype: torch.dtype) -> tuple[tuple[int, int, int], ...]:
    return FLOAT32_ROWS if dtype == torch.float32 else ROWS


def default_launch(heads: int, length: int, multiprocessors: int, dtype: torch.dtype) -> Launch:
    """heads: KV heads of all sequences. length: positions of the cache."""
    splits = 1
    if length > WHOLE:
        splits = min(_splits(RESIDENT, heads, multiprocessors), triton.cdiv(length, LEAST), MOST_SPLITS)
    return Launch(splits, *rows_for(dtype)[0])


def other_rows(launch: Launch, dtype: torch.dtype) -> list[Launch]:
    """``launch`` with each of the rows, itself first."""
    rows = (replace(launch, block=block, warps=warps, stages=stages) for block, warps, stages in rows_for(dtype))
    return list(dict.fromkeys([launch, *rows]))


def other_splits(launch: Launch, heads: int, length: int, multiprocessors: int) -> list[Launch]:
    """``launch`` with more and with fewer parts, itself first."""
    most = min(triton.cdiv(length, launch.block), MOST_SPLITS)
    numbers = (1, *(min(_splits(resident, heads, multiprocessors), most) for resident in (1, 2, 4, 8)))
    return list(dict.fromkeys([launch, *(replace(launch, splits=number) for number in numbers)]))


def other_starts(launch: Launch, default: Launch) -> list[Launch]:
    """``launch``, itself first: requesting some of its part early; and with its parts, those of ``default`` or one,
    starting when all before has ended."""
    numbers = dict.fromkeys((launch.splits, default.splits, 1))
    early = [replace(launch, ahead=blocks) for blocks in AHEAD]
    return [launch, *early, *(replace(launch, splits=number, early=False) for number in numbers)]


def _splits(resident: int, heads: int, multiprocessors: int) -> int:
    return triton.cdiv(resident * multiprocessors, heads)
