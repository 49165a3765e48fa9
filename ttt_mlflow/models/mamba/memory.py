"""The memory of a Mamba model on a GPU: weights, state, and what mamba-ssm allocates on the way.

The allocations follow mamba-ssm 2.3.2: ``MambaLMHeadModel``, ``Block``, ``Mamba.forward`` for a prompt, ``Mamba.step``
for a token, and ``capture_graph``.
"""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch

from ttt_mlflow.models.allocations import STATE, WEIGHTS, Allocations
from ttt_mlflow.models.mamba.work import EXPANSION, SINGLE, TAPS, VOCABULARY_MULTIPLE
from ttt_mlflow.models.mamba.work import STATE as STATE_SIZE
from ttt_mlflow.workload import TOKEN_BYTES, Workload

CHUNK = 2048  # tokens between two states that the scan of a prompt keeps
WARM_UP, GRAPH = "stream of the warm-up", "graph"
# of Triton's `do_bench`, which clears the GPU's L2 cache with it
AUTOTUNING_BYTES = 256 << 20
AUTOTUNED_LAYERS = 2  # the first without a residual, then one with it


@dataclass(frozen=True)
class MemoryOfMamba:
    """width, layers, vocab: of the model."""

    width: int
    layers: int
    vocab: int
    dtype: torch.dtype
    workload: Workload
    TEMPORARIES: ClassVar[tuple[str, ...]] = ("xz", "x", "x_dbl", "dt", "a", "b", "c", "y", "chunks")
    multiple: ClassVar[int] = VOCABULARY_MULTIPLE

    @property
    def padded_vocab(self) -> int:
        return math.ceil(self.vocab / self.multiple) * self.multiple

    @property
    def inner(self) -> int:
        return EXPANSION * self.width

    @property
    def projected(self) -> int:
        """Width of the projection to the step size's bottleneck, B and C."""
        return math.ceil(self.width / 16) + 2 * STATE_SIZE

    def allocations(self, cuda_graph: bool) -> Allocations:
        """All that a run allocates on a GPU."""
        made, batch = Allocations(), self.workload.batch
        self._weights(made)
        made.put(prompt=batch * self.workload.promptlen * TOKEN_BYTES)
        if cuda_graph:
            for _ in range(self.layers):
                made.keep(STATE, self._state)
            made.put(lengths=batch * SINGLE)
            self._capture(made)
        made.put(token=batch * TOKEN_BYTES)
        if self.workload.promptlen > 1 or self.workload.mode == "prefill":
            self._forward(made, self.workload.promptlen, new_state=not cuda_graph, first=not cuda_graph)
            made.drop("logits", "sampled")
        elif not cuda_graph:  # a prompt of one token is a step
            self._forward(made, None, new_state=True, first=True)
            made.drop("logits", "sampled")
        if cuda_graph:
            made.put(position=batch * TOKEN_BYTES)
            made.put(logits=self._logits)
        else:
            self._forward(made, None, new_state=False)
        made.put(sampled=batch * TOKEN_BYTES)
        return made

    def _weights(self, made: Allocations) -> None:
        size, width = self.dtype.itemsize, self.width
        embeddings = self.padded_vocab * width * size
        made.keep(WEIGHTS, [embeddings])
        for _ in range(self.layers):
            made.keep(WEIGHTS, self._block_weights)
            made.keep(WEIGHTS, [width * size])
        made.keep(WEIGHTS, [width * size])
        made.put(head=embeddings)  # replaced by the embeddings
        made.drop("head")

    @property
    def _block_weights(self) -> list[int]:
        """Of one layer, without its norm."""
        size, width, inner = self.dtype.itemsize, self.width, self.inner
        elements = (2 * inner * width, inner * TAPS, inner, self.projected * inner)
        rank = self.projected - 2 * STATE_SIZE
        return [
            *(one * size for one in elements),
            *(inner * rank * size, inner * size),
            *(inner * STATE_SIZE * SINGLE, inner * SINGLE, width * inner * size),
        ]

    @property
    def _state(self) -> list[int]:
        """Of one layer: the convolution's and the scan's."""
        return [self._row(self.inner * TAPS), self._row(self.inner * STATE_SIZE)]

    @property
    def _logits(self) -> int:
        return self._row(self.padded_vocab)

    def _row(self, elements: int, length: int = 1) -> int:
        """Bytes of [B, length, elements] in the model's dtype."""
        return self.workload.batch * length * elements * self.dtype.itemsize

    def _capture(self, made: Allocations) -> None:
        made.put(input_ids=self.workload.batch * TOKEN_BYTES, position_ids=self.workload.batch * TOKEN_BYTES)
        with made.on(WARM_UP):
            for first in (True, False):  # the first logits stay until there are the second
                self._forward(made, None, new_state=False, first=first)
        made.empty_cache()
        made.rename("logits", "logits of the warm-up")
        with made.on(GRAPH):
            self._forward(made, None, new_state=False)
        made.drop("logits of the warm-up", "sampled")
        made.rename("logits", "logits of the graph")

    def _forward(self, made: Allocations, tokens: int | None, new_state: bool, first: bool = False) -> None:
        """A prompt of ``tokens`` tokens; None: a decode step. The logits stay.

        first: of the process. Then the Triton kernel of the norms is autotuned.
        """
        batch, length, size = self.workload.batch, tokens or 1, self.dtype.itemsize
        row, single = self._row(self.width, length), self._row(self.width, length) // size * SINGLE
        made.put(hidden=row)
        for layer in range(self.layers):
            made.put(normed=row, added=single, rstd=batch * length * SINGLE)
            if first and layer < AUTOTUNED_LAYERS:
                made.put(autotuning=AUTOTUNING_BYTES)
                made.drop("autotuning")
            made.drop("rstd")
            made.workspace()  # the projections' matrix products come next
            if new_state:
                made.keep(STATE, self._state)
            self._prompt(made, length) if tokens else self._step(made)
            made.drop(*self.TEMPORARIES, "normed")
            made.rename("out", "hidden")
            made.rename("added", "residual")
        made.put(normed=row, added=single, rstd=batch * length * SINGLE)
        made.drop("added", "rstd", "hidden", "residual")
        made.put(logits=self._logits)
        made.drop("normed")

    def _prompt(self, made: Allocations, length: int) -> None:
        inner, wide = self.inner, self._row(self.inner, length)
        made.put(xz=2 * wide)
        self._decay(made)
        made.put(padded=self._row(TAPS * inner))
        made.drop("padded")
        made.put(x=wide)
        made.put(x_dbl=self._row(self.projected, length))
        made.put(dt=wide)
        small = self._row(STATE_SIZE, length)
        made.put(b=small, c=small, bias=inner * SINGLE)
        chunks = self.workload.batch * inner * math.ceil(length / CHUNK) * 2 * STATE_SIZE * SINGLE
        made.put(y=wide, ungated=wide, chunks=chunks)
        made.drop("ungated", "bias")
        made.put(out=self._row(self.width, length))

    def _step(self, made: Allocations) -> None:
        wide = self._row(self.inner)
        made.put(xz=2 * wide)
        made.put(x=wide)
        made.put(x_dbl=self._row(self.projected))
        made.put(dt=wide)
        self._decay(made)
        made.put(y=wide)
        made.put(out=self._row(self.width))

    def _decay(self, made: Allocations) -> None:
        """A = −exp(A_log), in float32."""
        exponentials = self.inner * STATE_SIZE * SINGLE
        made.put(exponentials=exponentials)
        made.put(a=exponentials)
        made.drop("exponentials")
