"""The memory of a TTT model on a GPU: weights, state, and what a decode step and a prompt allocate on the way.

The allocations follow :meth:`ttt_mlflow.models.ttt.model.Layer.step` and ``prefill``: a variable there has the same
name here. A compiled step frees some rows a little earlier.
"""

from dataclasses import dataclass
from functools import cached_property
from math import prod

import torch
from torch import Tensor

from ttt_mlflow.kernels.block.reference import CONV_TAPS
from ttt_mlflow.kernels.inner_layers import MINI_BATCH
from ttt_mlflow.models.allocations import STATE, TEMPORARIES, WEIGHTS, Allocations, add_decoder, recorded, storage_bytes
from ttt_mlflow.models.decoder import tensors_in
from ttt_mlflow.models.ttt.config import TTTConfig
from ttt_mlflow.models.ttt.inner_nets import INNER_NETS, InnerNet
from ttt_mlflow.models.ttt.model import PREFILL_TOKENS, TTTModel, padded
from ttt_mlflow.models.ttt.state import allocate
from ttt_mlflow.models.ttt.whole_step import buffer_bytes
from ttt_mlflow.workload import TOKEN_BYTES, Workload

SINGLE = 4  # bytes of a float32
L2_BYTES = 60 << 20  # the L2 cache of an H200, which the compiler clears while it benchmarks its kernels
META = torch.device("meta")
PYTORCH = {net.layer.name: net for net in INNER_NETS.values() if not net.triton}
TENSOR_CORES_HEAD_DIM = 64


@dataclass(frozen=True)
class MemoryOfTTT:
    """A model with one inner net, and what it is asked to do.

    compiled: whether the step is. staged: :func:`ttt_mlflow.models.ttt.whole_step.staged_products`.
    """

    config: TTTConfig
    net: InnerNet
    dtype: torch.dtype
    workload: Workload
    compiled: bool
    staged: bool | None = None

    def allocations(self, cuda_graph: bool) -> Allocations:
        """All that a run allocates on a GPU."""
        made, batch, tokens = Allocations(), self.workload.batch, self.workload.promptlen
        model = TTTModel(self.config, self.net, self.dtype, META)
        made.keep(WEIGHTS, storage_bytes([*model.parameters(), *model.buffers()]))
        made.put(prompt=batch * tokens * TOKEN_BYTES)
        state = allocate(self.config, self.net, batch, self.dtype, META)
        made.keep(STATE, storage_bytes(tensors_in(state)))
        step = self._step
        if self.staged is not None:
            own = [self._row(self.config.hidden_size)]  # the output of an inner net that is one kernel
            made.keep(TEMPORARIES, buffer_bytes(model.step_tensors(state), batch, self.staged) + own)
            step = self._step_of_kernels
        made.put(token=batch * TOKEN_BYTES)
        add_decoder(made, step, self._prompt if tokens > 1 else None, cuda_graph)
        return made

    def _row(self, elements: int, length: int = 1) -> int:
        """Bytes of [B, length, elements] in the model's dtype."""
        return self.workload.batch * length * elements * self.dtype.itemsize

    @property
    def _projected(self) -> int:
        """Width of the fused projection of Q/K, V, gate and learning-rate logits."""
        return padded(3 * self.config.hidden_size + self.config.num_heads)

    def _step(self, made: Allocations) -> None:
        """One token of each sequence."""
        config, row = self.config, self._row(self.config.hidden_size)
        made.put(hidden=row)
        made.put(delta=row)
        made.workspace()
        for _ in range(config.num_layers):
            made.put(own=row, x=row)  # the layer's own ``hidden``; that of its caller stays until it returns
            made.put(projected=self._row(self._projected))
            made.put(q=row, k=row, lr=self.workload.batch * config.num_heads * SINGLE)
            made.put(output=row)  # of the inner net
            made.add(self._inner_step)
            made.rename("output", "x")
            made.put(x=row)  # gated
            made.put(x=row)  # the output projection
            made.put(own=row, x=row)
            made.put(gate_up=self._row(2 * config.intermediate_size))
            made.put(product=self._row(config.intermediate_size))
            made.drop("gate_up")
            made.put(down=row)
            made.drop("product", "x", "projected", "q", "k", "lr")
            made.rename("own", "hidden")
            made.rename("down", "delta")
        made.put(own=row, x=row)
        self._sample(made)

    def _step_of_kernels(self, made: Allocations) -> None:
        """The same of kernels that overlap, which take most from their buffers. An inner net that is one kernel takes
        nothing else."""
        row = self._row(self.config.hidden_size)
        for _ in range(self.config.num_layers):
            made.put(q=row, k=row, lr=self.workload.batch * self.config.num_heads * SINGLE)
            made.put(output=row)
            made.drop("q", "k", "lr", "output")

    def _prompt(self, made: Allocations) -> None:
        """The prompt, in the parts in which the model processes it."""
        tokens, at_once = self.workload.promptlen, max(PREFILL_TOKENS // self.workload.batch, 1)
        whole, rest = divmod(tokens, at_once)
        made.workspace()
        for length in [at_once] * min(whole, 2) + [rest] * (rest > 0):  # a third part allocates nothing new
            made.put(hidden=self._row(self.config.hidden_size, length))
            for _ in range(self.config.num_layers):
                self._layer_of_prompt(made, length)
        made.put(x=self._row(self.config.hidden_size))
        self._sample(made)

    def _layer_of_prompt(self, made: Allocations, length: int) -> None:
        config, row = self.config, self._row(self.config.hidden_size, length)
        ring = self._row(CONV_TAPS * config.hidden_size)
        made.put(own=row, x=row, ring=ring)
        made.drop("ring")
        made.put(projected=self._row(self._projected, length))
        lr = self.workload.batch * config.num_heads * length * SINGLE
        made.put(q=row, k=row, ring=ring, lr=lr)
        made.drop("ring")
        made.put(output=row)  # of the inner net
        made.add(self._inner_prompt)
        made.rename("output", "x")
        made.put(x=row)  # gated
        made.put(normed=row)
        made.put(gate_up=self._row(2 * config.intermediate_size, length))
        made.drop("normed")
        made.put(x=self._row(config.intermediate_size, length))
        made.drop("gate_up", "x", "projected", "q", "k", "lr")
        made.rename("own", "hidden")

    def _sample(self, made: Allocations) -> None:
        made.put(logits=self._row(padded(self.config.vocab_size)))
        made.put(sampled=self.workload.batch * TOKEN_BYTES)
        made.drop("hidden", "delta", "own", "x", "logits", "sampled")

    @cached_property
    def _inner_step(self) -> Allocations:
        """What the inner net allocates beside its output. A Triton kernel allocates nothing."""
        if self.net.triton:
            return Allocations()
        if self.compiled:
            return self._compiled_inner_step()
        inputs = self._inputs(torch.empty(1, dtype=torch.int32, device=META))
        return recorded(lambda: self.net.decode(*inputs))

    def _compiled_inner_step(self) -> Allocations:
        """At the peak of a compiled step, as fitted to three runs on an H200 with PyTorch 2.11.

        In float32: one copy of a matrix more than there are matrices, as a product with k and one with q each have
        their own, and the vectors between two layers. With them the buffer of the compiler's benchmarks.
        """
        dim, heads = self.config.head_dim, self.workload.batch * self.config.num_heads
        matrices = [prod(shape) for shape in self.net.layer.state_shapes(dim) if len(shape) == 2]
        between = MINI_BATCH * sum(width for width in self.net.layer.slot_widths(dim) if width > dim)
        made = Allocations()
        sizes = {f"matrix {number}": heads * size * SINGLE for number, size in enumerate([*matrices, max(matrices)])}
        if between:
            sizes["vectors"] = heads * between * SINGLE
        made.put(**sizes, benchmark=L2_BYTES)
        made.drop(*sizes, "benchmark")
        return made

    @cached_property
    def _inner_prompt(self) -> Allocations:
        """The same for a prompt. PyTorch's operations process it by mini-batches, which all allocate the same."""
        on_tensor_cores = self.dtype != torch.float32 and self.config.head_dim == TENSOR_CORES_HEAD_DIM
        if self.net.triton and on_tensor_cores:
            return Allocations()
        length = min(self.workload.promptlen, 2 * MINI_BATCH + self.workload.promptlen % MINI_BATCH)
        inputs = self._inputs(torch.zeros(1, dtype=torch.int32), length)  # the position's value is read
        return recorded(lambda: PYTORCH[self.net.layer.name].prefill(*inputs))

    def _inputs(self, position: Tensor, *length: int) -> list[Tensor]:
        """The arguments of an inner net, without memory. length: none for a decode step."""
        batch, heads, dim = self.workload.batch, self.config.num_heads, self.config.head_dim

        def empty(*shape: int, dtype: torch.dtype = self.dtype) -> Tensor:
            return torch.empty(shape, dtype=dtype, device=META)

        q, k, v = (empty(batch, *length, heads * dim) for _ in range(3))
        lr, eta = empty(batch, heads, *length, dtype=torch.float32), empty(MINI_BATCH, dtype=torch.float32)
        state = [empty(batch, heads, *shape) for shape in self.net.layer.state_shapes(dim)]
        slots = [empty(batch, heads, MINI_BATCH, width) for width in self.net.layer.slot_widths(dim)]
        return [q, k, v, lr, eta, position, empty(heads, dim), empty(heads, dim), *state, *slots]
