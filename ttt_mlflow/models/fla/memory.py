"""The memory of the models of flash-linear-attention on a GPU: weights, state, a decode step, and a prompt.

The decode steps follow ``step`` of our layers: a variable there has the same name here. A prompt follows the layers of
fla 0.6.0, with the tensors that have a row for each token; smaller ones are left out.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch

from ttt_mlflow.models.allocations import STATE, WEIGHTS, Allocations, add_decoder
from ttt_mlflow.models.fla.model import PREFILL_TOKENS, SIXTEEN_BITS
from ttt_mlflow.models.fla.sizes import VOCABULARY_MULTIPLE, GatedDeltaSize, Rwkv7Size, padded
from ttt_mlflow.models.fla.work import SINGLE, TAPS
from ttt_mlflow.workload import TOKEN_BYTES, Workload

CHUNK = 64  # tokens between two states that fla's kernels write for a prompt
FEWEST_FOR_CHUNKS = 65  # a shorter prompt goes through fla's recurrent kernel, which writes the last state alone
AUTOTUNING_BYTES = 256 << 20  # of Triton's `do_bench`, which clears the GPU's L2 cache with it


@dataclass(frozen=True)
class _Memory:
    """What both have. dtype: of the weights; the state of a sequence is float32."""

    dtype: torch.dtype
    workload: Workload

    def row(self, elements: int, length: int = 1) -> int:
        """Bytes of [B, length, elements] in the model's dtype."""
        return self.workload.batch * length * elements * self.dtype.itemsize

    def matrices(self, elements: int) -> int:
        return self.workload.batch * elements * SINGLE

    def parts_of_prompt(self) -> list[int]:
        """The lengths of the parts in which a prompt goes through the layers; a third one allocates nothing new."""
        at_once = max(PREFILL_TOKENS // self.workload.batch, 1)
        whole, rest = divmod(self.workload.promptlen, at_once)
        return [at_once] * min(whole, 2) + [rest] * (rest > 0)

    def sample(self, made: Allocations, vocab: int) -> None:
        made.put(logits=self.row(padded(vocab, VOCABULARY_MULTIPLE)))
        made.put(sampled=self.workload.batch * TOKEN_BYTES)
        made.drop("logits", "sampled")

    def run(
        self,
        weights: list[int],
        state: list[int],
        step: Callable[[Allocations], None],
        prompt: Callable[[Allocations], None],
        cuda_graph: bool,
    ) -> Allocations:
        """All that a run allocates. weights, state: bytes of each tensor."""
        made, tokens = Allocations(), self.workload.promptlen
        made.keep(WEIGHTS, weights)
        made.put(prompt=self.workload.batch * tokens * TOKEN_BYTES)
        made.keep(STATE, state)
        made.put(token=self.workload.batch * TOKEN_BYTES)
        at_once = tokens > 1 and self.dtype in SIXTEEN_BITS
        add_decoder(made, step, prompt if at_once else None, cuda_graph)
        return made


@dataclass(frozen=True)
class MemoryOfGatedDelta(_Memory):
    size: GatedDeltaSize

    def allocations(self, cuda_graph: bool) -> Allocations:
        size, width = self.size, self.size.width
        layer = [padded(size.projected) * width, 2 * size.intermediate * width]
        filters = [TAPS * size.keys, TAPS * size.keys, TAPS * size.values, TAPS * size.channels]
        layer += [width, *filters, size.value_dim, size.values * width, width, size.intermediate * width]
        table = padded(size.vocab, VOCABULARY_MULTIPLE) * width
        weights = [elements * self.dtype.itemsize for elements in (table, width, *layer * size.layers)]
        weights += [size.heads * SINGLE] * 2 * size.layers
        state = [self.row(TAPS * size.channels), self.matrices(size.keys * size.value_dim)] * size.layers
        return self.run(weights, [SINGLE, *state], self._step, self._prompt, cuda_graph)

    def _step(self, made: Allocations) -> None:
        size, row = self.size, self.row(self.size.width)
        made.put(hidden=row)
        made.put(delta=row)
        made.workspace()
        for _ in range(size.layers):
            made.put(own=row, x=row)  # the layer's own ``hidden``; that of its caller stays until it returns
            made.put(projected=self.row(padded(size.projected)))
            made.put(qkv=self.row(size.channels))
            made.put(x=self.row(size.values))
            made.put(x=self.row(size.values))
            made.put(x=row)
            made.put(own=row, x=row)
            made.put(gate_up=self.row(2 * size.intermediate))
            made.put(product=self.row(size.intermediate))
            made.drop("gate_up")
            made.put(down=row)
            made.drop("product", "x", "projected", "qkv")
            made.rename("own", "hidden")
            made.rename("down", "delta")
        made.put(own=row, x=row)
        self.sample(made, size.vocab)
        made.drop("hidden", "delta", "own", "x")

    def _prompt(self, made: Allocations) -> None:
        size = self.size
        made.workspace()
        for length in self.parts_of_prompt():
            row = self.row(size.width, length)
            made.put(hidden=row)
            for layer in range(size.layers):
                made.put(normed=row)
                if layer == 0:
                    made.put(autotuning=AUTOTUNING_BYTES)
                    made.drop("autotuning")
                for name, elements in (("q", size.keys), ("k", size.keys), ("v", size.values)):
                    made.put(**{name: self.row(elements, length)})
                    made.put(**{name: self.row(elements, length)})  # behind the convolution
                self._rule(made, length)
                made.put(gate=self.row(size.values, length))
                made.put(out=self.row(size.values, length))
                made.put(out=row)
                made.drop("q", "k", "v", "gate", "normed")
                made.put(normed=row, residual=row)
                made.put(gate=self.row(size.intermediate, length), up=self.row(size.intermediate, length))
                made.put(product=self.row(size.intermediate, length))
                made.put(out=row)
                made.drop("gate", "up", "product", "normed")
                made.put(hidden=row)
                made.drop("out", "residual")
            made.drop("hidden")
        self.sample(made, size.vocab)

    def _rule(self, made: Allocations, length: int) -> None:
        """fla's kernels of the gated delta rule: from q, k and v to ``out``."""
        size = self.size
        final = self.matrices(size.keys * size.value_dim)
        if length >= FEWEST_FOR_CHUNKS:
            chunks = -(-length // CHUNK)
            made.put(unit_q=self.row(size.keys, length), unit_k=self.row(size.keys, length))
            made.put(w=self.row(size.keys, length), u=self.row(size.values, length))
            made.put(inverse=self.row(size.heads * CHUNK, length))
            made.put(states=self.row(size.keys * size.value_dim, chunks), new=self.row(size.values, length))
        made.put(final=final)
        made.put(out=self.row(size.values, length))
        made.drop("unit_q", "unit_k", "w", "u", "inverse", "states", "new", "final")


@dataclass(frozen=True)
class MemoryOfRwkv7(_Memory):
    size: Rwkv7Size

    def allocations(self, cuda_graph: bool) -> Allocations:
        size, width = self.size, self.size.width
        low = 4 * size.rank * width
        layer = [3 * width**2, 6 * width, low, low, 4 * width, width**2]
        layer += [
            width
        ] * 10  # two norms with their biases, k_k, k_a, r_k, the group norm's two, the feed-forward's share
        layer += [size.intermediate * width] * 2
        table = padded(size.vocab, VOCABULARY_MULTIPLE) * width
        weights = [elements * self.dtype.itemsize for elements in (table, *[width] * 4, *layer * size.layers)]
        state = [self.row(width), self.row(width), self.matrices(width * size.head_dim)] * size.layers
        return self.run(weights, state, self._step, self._prompt, cuda_graph)

    def _step(self, made: Allocations) -> None:
        size, row = self.size, self.row(self.size.width)
        made.put(hidden=row)
        made.put(hidden=row)  # the norm of the embeddings
        made.put(delta=row)
        made.workspace()
        for layer in range(size.layers):
            made.put(own=row, mixed=6 * row)
            made.put(rkv=3 * row)
            made.put(low=self.row(4 * size.rank))
            made.put(low=4 * row)
            made.put(x=row)
            made.put(x=row)
            made.put(own=row, mixed=row)
            made.put(wide=self.row(size.intermediate))
            made.put(wide=self.row(size.intermediate))
            made.put(wide=self.row(size.intermediate))
            made.put(down=row)
            made.drop("wide", "x", "mixed", "low")
            # the first layer's value stays
            made.rename("rkv", "first") if layer == 0 else made.drop("rkv")
            made.rename("own", "hidden")
            made.rename("down", "delta")
        made.put(x=row)
        made.put(x=row)
        self.sample(made, size.vocab)
        made.drop("hidden", "delta", "x", "first")

    def _prompt(self, made: Allocations) -> None:
        size = self.size
        made.workspace()
        for length in self.parts_of_prompt():
            row = self.row(size.width, length)
            made.put(hidden=row)
            for layer in range(size.layers):
                made.put(normed=row)
                if layer == 0:
                    made.put(residual=row)
                    made.put(autotuning=AUTOTUNING_BYTES)
                    made.drop("autotuning")
                made.put(shifted=row)
                made.put(mixed=6 * row)
                made.put(vectors=8 * row)  # r, w, k, v, a, g, the removal key and its product with the rate
                self._rule(made, length)
                made.put(out=row)
                made.drop("vectors", "mixed", "shifted", "normed")
                made.put(normed=row, added=row, shifted=row)
                made.put(wide=self.row(size.intermediate, length))
                made.put(wide=self.row(size.intermediate, length))
                made.put(out=row)
                made.put(hidden=row)
                made.drop("out", "wide", "normed", "added", "shifted", "residual")
                if layer == 0:  # its value goes through all layers
                    made.put(first=row)
            made.drop("hidden", "first")
        self.sample(made, size.vocab)

    def _rule(self, made: Allocations, length: int) -> None:
        """fla's kernels of the generalized delta rule: from its vectors to ``out``."""
        size, row = self.size, self.row(self.size.width, length)
        if length >= FEWEST_FOR_CHUNKS - 1:
            single = row // self.dtype.itemsize * SINGLE
            squares = self.row(size.heads * CHUNK, length)
            made.put(sums=2 * single)
            made.put(squares=2 * squares + 2 * squares // self.dtype.itemsize * SINGLE, scaled=4 * row)
            made.put(w=row, u=row, states=self.row(size.width * size.head_dim, -(-length // CHUNK)), new=row)
        made.put(final=self.matrices(size.width * size.head_dim))
        made.put(out=row)
        made.drop("sums", "squares", "scaled", "w", "u", "states", "new", "final")
