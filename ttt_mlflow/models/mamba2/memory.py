"""The memory of a Mamba-2 model on a GPU: weights, state, and what mamba-ssm allocates on the way.

The allocations follow mamba-ssm 2.3.2: ``Mamba2.forward`` for a prompt and ``Mamba2.step`` for a token; what is around
the block is that of Mamba.
"""

import math
from dataclasses import dataclass
from typing import ClassVar

from ttt_mlflow.models.allocations import Allocations
from ttt_mlflow.models.mamba.memory import MemoryOfMamba
from ttt_mlflow.models.mamba.work import SINGLE, TAPS
from ttt_mlflow.models.mamba2.work import HEAD_DIM, STATE, VOCABULARY_MULTIPLE

CHUNK = 256  # tokens between two states that the scan of a prompt keeps


@dataclass(frozen=True)
class MemoryOfMamba2(MemoryOfMamba):
    TEMPORARIES: ClassVar[tuple[str, ...]] = ("zxbcdt", "x", "y", "final")
    multiple: ClassVar[int] = VOCABULARY_MULTIPLE

    @property
    def heads(self) -> int:
        return self.inner // HEAD_DIM

    @property
    def channels(self) -> int:
        """Of the convolution: x, B and C."""
        return self.inner + 2 * STATE

    @property
    def projected(self) -> int:
        """Width of the projection to z, x, B, C and the step sizes."""
        return self.inner + self.channels + self.heads

    @property
    def _block_weights(self) -> list[int]:
        size, width, inner = self.dtype.itemsize, self.width, self.inner
        elements = (self.projected * width, self.channels * TAPS, self.channels, self.heads, self.heads, inner)
        return [*(one * size for one in elements), self.heads * SINGLE, width * inner * size]

    @property
    def _state(self) -> list[int]:
        return [self._row(self.channels * TAPS), self._row(self.inner * STATE)]

    def _prompt(self, made: Allocations, length: int) -> None:
        inner, wide = self.inner, self._row(self.inner, length)
        chunks = math.ceil(length / CHUNK)
        tokens = self.workload.batch * chunks * CHUNK  # of whole chunks
        states = self.workload.batch * chunks * inner * STATE * SINGLE
        made.put(zxbcdt=self._row(self.projected, length))
        made.put(padded=self._row(TAPS * self.channels))
        made.drop("padded")
        made.put(x=self._row(self.channels, length))
        made.put(steps=2 * tokens * self.heads * SINGLE)
        made.put(states=states)
        made.put(passed=states // SINGLE * self.dtype.itemsize, final=self.workload.batch * inner * STATE * SINGLE)
        made.drop("states")
        made.put(squares=tokens * CHUNK * SINGLE)
        made.put(y=wide)
        made.drop("squares", "steps", "passed")
        made.put(y=wide)  # gated and normed
        made.put(out=self._row(self.width, length))

    def _step(self, made: Allocations) -> None:
        wide = self._row(self.inner)
        made.put(zxbcdt=self._row(self.projected))
        made.put(x=self._row(self.channels))
        made.put(y=wide)
        made.put(y=wide)  # gated and normed
        made.put(out=self._row(self.width))
