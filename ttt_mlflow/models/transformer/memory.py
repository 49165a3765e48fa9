"""The memory of a transformer on a GPU: weights, cache, and what a decode step and a prompt allocate on the way.

The allocations follow :meth:`ttt_mlflow.models.transformer.model.Layer.step` and ``prefill``: a variable there has the
same name here. Kernels that overlap keep their buffers beside the cache. The attention of a prompt is one that keeps no
scores. What the choice of the attentions allocates at set-up is less than the prompt and the step do.
"""

from dataclasses import dataclass

import torch

from ttt_mlflow.models.allocations import STATE, TEMPORARIES, WEIGHTS, Allocations, add_decoder, storage_bytes
from ttt_mlflow.models.decoder import tensors_in
from ttt_mlflow.models.transformer.config import PREFILL_TOKENS, TransformerConfig
from ttt_mlflow.models.transformer.model import TransformerModel
from ttt_mlflow.models.transformer.state import allocate
from ttt_mlflow.models.ttt.model import padded
from ttt_mlflow.models.ttt.whole_step import buffer_bytes
from ttt_mlflow.workload import TOKEN_BYTES, Workload

META = torch.device("meta")
SINGLE = 4  # bytes of a float32


@dataclass(frozen=True)
class MemoryOfTransformer:
    """staged: of a step of kernels that overlap, whether its products go through shared memory; None: of launches."""

    config: TransformerConfig
    dtype: torch.dtype
    workload: Workload
    staged: bool | None = None

    def allocations(self, cuda_graph: bool) -> Allocations:
        """All that a run allocates on a GPU."""
        made, batch, tokens = Allocations(), self.workload.batch, self.workload.promptlen
        model = TransformerModel(self.config, self.dtype, META)
        made.keep(WEIGHTS, storage_bytes([*model.parameters(), *model.buffers()]))
        made.put(prompt=batch * tokens * TOKEN_BYTES)
        cache = allocate(self.config, batch, self.workload.max_length(), self.dtype, META)
        made.keep(STATE, storage_bytes(tensors_in(cache)))
        step = self._step
        if self.staged is not None:
            made.keep(TEMPORARIES, buffer_bytes(model.step_tensors(cache), batch, self.staged))
            step = self._step_of_kernels
        made.put(token=batch * TOKEN_BYTES)
        add_decoder(made, step, self._prompt if tokens > 1 else None, cuda_graph)
        return made

    def _bytes(self, rows: int, elements: int) -> int:
        """Of [rows, elements] in the model's dtype."""
        return rows * elements * self.dtype.itemsize

    def _step(self, made: Allocations) -> None:
        """One token of each sequence, with the cache of a head as one part: several parts are small."""
        config, batch = self.config, self.workload.batch
        row = self._bytes(batch, config.hidden_size)
        made.put(hidden=row)
        made.put(delta=row)
        made.workspace()
        for _ in range(config.num_layers):
            made.put(own=row, x=row)  # the layer's own ``hidden``; that of its caller stays until it returns
            made.put(x=self._bytes(batch, config.projected))
            made.put(x=row)  # attended
            made.put(x=row)  # the output projection
            made.put(own=row, x=row)
            made.put(gate_up=self._bytes(batch, 2 * config.intermediate_size))
            made.put(product=self._bytes(batch, config.intermediate_size))
            made.drop("gate_up")
            made.put(down=row)
            made.drop("product", "x")
            made.rename("own", "hidden")
            made.rename("down", "delta")
        made.put(own=row, x=row)
        self._sample(made)

    def _step_of_kernels(self, made: Allocations) -> None:
        """The same of kernels that overlap: all else is in their buffers."""
        for _ in range(self.config.num_layers):
            made.put(attended=self._bytes(self.workload.batch, self.config.hidden_size))
            made.drop("attended")

    def _prompt(self, made: Allocations) -> None:
        """The prompts, in the groups of sequences in which the model processes them."""
        batch, length = self.workload.batch, self.workload.promptlen
        at_once = max(PREFILL_TOKENS // length, 1)
        whole, rest = divmod(batch, at_once)
        groups = [at_once] * min(whole, 2) + [rest] * (rest > 0)  # a third group allocates nothing new but its rows
        made.workspace()
        if more := batch - sum(groups):
            made.put(more=self._bytes(more, self.config.hidden_size))
        for group, count in enumerate(groups):
            made.put(hidden=self._bytes(count * length, self.config.hidden_size))
            for _ in range(self.config.num_layers - 1):
                self._layer_of_prompt(made, count, length, length)
            self._layer_of_prompt(made, count, length, 1)
            made.rename("hidden", f"row {group}")
        rows = self._bytes(batch, self.config.hidden_size)
        made.put(rows=rows)
        made.put(x=rows)
        made.drop("rows")
        self._sample(made)
        made.drop("more", *(f"row {group}" for group in range(len(groups))))

    def _layer_of_prompt(self, made: Allocations, count: int, length: int, after: int) -> None:
        """after: tokens of each sequence that pass the attention."""
        config, rows, later = self.config, count * length, count * after
        width = config.hidden_size
        made.put(x=self._bytes(rows, width))  # normed
        made.put(x=self._bytes(rows, config.projected))
        made.put(q=self._bytes(rows, width))
        if after < length:
            made.put(own=self._bytes(later, width))  # the caller's ``hidden`` stays until it returns
        lse = count * config.num_heads * after * SINGLE  # of each query's sum of exponentials
        made.put(x=self._bytes(later, width), lse=lse)
        made.drop("lse", "q")
        made.put(x=self._bytes(later, width))  # normed
        made.put(x=self._bytes(later, 2 * config.intermediate_size))
        made.put(x=self._bytes(later, config.intermediate_size))
        made.drop("x")
        if after < length:
            made.rename("own", "hidden")

    def _sample(self, made: Allocations) -> None:
        made.put(logits=self._bytes(self.workload.batch, padded(self.config.vocab_size)))
        made.put(sampled=self.workload.batch * TOKEN_BYTES)
        made.drop("hidden", "delta", "own", "x", "logits", "sampled")
