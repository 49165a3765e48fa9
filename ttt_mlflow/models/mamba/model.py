"""Mamba for comparison: mamba-ssm's own model and its own generation code with its own CUDA graph.

The configurations are the published ones (config.json of state-spaces/mamba-*). They are written out here, so that
nothing is downloaded from a hub. Weights are random.
"""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from typing import Any

import torch
from torch import Tensor

from ttt_mlflow.models.allocations import Allocations
from ttt_mlflow.models.entry import Execution, ModelEntry, ModelRequest
from ttt_mlflow.models.mamba.installation import missing
from ttt_mlflow.models.mamba.memory import MemoryOfMamba
from ttt_mlflow.models.mamba.work import decode_stages, prefill_stages
from ttt_mlflow.models.named_calls import inside
from ttt_mlflow.models.tuning import forget_tuning
from ttt_mlflow.workload import (
    CONVOLUTION,
    HEAD,
    INNER,
    PROJECTIONS,
    SAMPLING,
    Stage,
    Workload,
    in_layer,
    in_part,
    recording,
)

# d_model, n_layer
SIZES = {
    "state-spaces/mamba-130m": (768, 24),
    "state-spaces/mamba-370m": (1024, 48),
    "state-spaces/mamba-790m": (1536, 48),
    "state-spaces/mamba-1.4b": (2048, 48),
    "state-spaces/mamba-2.8b": (2560, 64),
}
VOCAB_SIZE = 50277  # mamba-ssm pads it to 50280


@dataclass(frozen=True)
class BlockNames:
    """A block of mamba-ssm: its module, and the part of each function that it calls in a decode step or a prompt."""

    module: str
    functions: Mapping[str, str]


MAMBA = BlockNames(
    "mamba_simple",
    {
        "causal_conv1d_update": CONVOLUTION,
        "causal_conv1d_fn": CONVOLUTION,
        "selective_state_update": INNER,
        "selective_scan_fn": INNER,
    },
)


class MambaModel:
    """Offers :class:`MambaDecoder` through ``decoder``. State and step are mamba-ssm's own.

    names: what mamba-ssm's blocks look up, for profilers. steps_one_token: whether a prompt of one token is a decode
    step from a zero state instead of a prompt of mamba-ssm's.
    """

    def __init__(self, model: Any, names: BlockNames, steps_one_token: bool = True) -> None:
        self.model, self.names, self.steps_one_token = model, names, steps_one_token
        self.vocab_size = VOCAB_SIZE
        self._tuned_for: int | None = None  # batch

    def parameter_count(self) -> int:
        return sum(weight.numel() for weight in self.model.parameters())

    def state_dict(self) -> Mapping[str, Tensor]:
        return self.model.state_dict()

    def load_state_dict(self, weights: Mapping[str, Tensor]) -> None:
        self.model.load_state_dict(weights)

    def decoder(self, batch: int, max_length: int, cuda_graph: bool) -> "MambaDecoder":
        """A decoder whose kernels are autotuned for its batch, also where another run's were tuned in this process.

        Decoders of one batch share what was tuned: other configurations would round differently.
        """
        if self._tuned_for != batch:
            forget_tuning("mamba_ssm")
            self._tuned_for = batch
        return MambaDecoder(self.model, self.names, batch, max_length, cuda_graph, self.steps_one_token)


class MambaDecoder:
    """The loop of mamba_ssm.utils.generation.decode, divided into prefill and step so that steps can be timed.

    See :class:`ttt_mlflow.models.entry.Decoder`.
    """

    def __init__(
        self,
        model: Any,
        names: BlockNames,
        batch: int,
        max_length: int,
        cuda_graph: bool,
        steps_one_token: bool = True,
    ) -> None:
        from mamba_ssm.utils.generation import InferenceParams, update_graph_cache

        self.model, self.names, self.batch, self.cuda_graph = model, names, batch, cuda_graph
        self.steps_one_token = steps_one_token
        self.device = next(model.parameters()).device
        if cuda_graph:
            # as in generate(cg=True): one cache, created once, whose graphs are reused by every generation
            cache = update_graph_cache(model, getattr(model, "_decoding_cache", None), batch, 1, max_length)
            model._decoding_cache = cache
            self.parameters = cache.inference_params
        else:
            self.parameters = InferenceParams(max_seqlen=max_length, max_batch_size=batch)
        self.token = torch.empty(batch, dtype=torch.int64, device=self.device)

    @torch.inference_mode()
    def prefill(self, prompt: Tensor) -> Tensor:
        """Process the prompt [B, P]. Returns the first token [B]."""
        return self._sample(self._process(prompt))

    def _process(self, prompt: Tensor) -> Tensor:
        """Start again with the prompt [B, P]. Returns its logits."""
        parameters = self.parameters
        parameters.reset(parameters.max_seqlen, self.batch)
        if self.steps_one_token and prompt.shape[1] == 1:
            self._clear_state()
            self.token.copy_(prompt[:, 0])
            return self._advance()
        logits = self._forward(prompt)
        parameters.seqlen_offset += prompt.shape[1]
        return logits

    def _clear_state(self) -> None:
        """A prompt overwrites the state of the sequence before it, a step continues it. mamba-ssm makes it of zeros."""
        for states in self.parameters.key_value_memory_dict.values():
            for state in states:
                state.zero_()

    @torch.inference_mode()
    def start(self, prompt: Tensor) -> Tensor:
        """As ``prefill``, without a graph. Returns the logits [B, V] from which the first token follows."""
        with self.eagerly():
            return self._process(prompt)[:, :VOCAB_SIZE]

    @torch.inference_mode()
    def feed(self, tokens: Tensor) -> Tensor:
        """As ``step``, with ``tokens`` [B] instead of its own and without a graph. Returns the logits [B, V]."""
        self.token.copy_(tokens)
        with self.eagerly():
            return self._advance()[:, :VOCAB_SIZE]

    @torch.inference_mode()
    def step(self) -> Tensor:
        """Feed the last token. Returns the next one [B]."""
        return self._sample(self._advance())

    def _advance(self) -> Tensor:
        """Feed the last token. Returns its logits."""
        parameters, fed = self.parameters, self.parameters.seqlen_offset
        tokens = self.token.unsqueeze(1)
        position = torch.full((self.batch, 1), fed, dtype=torch.long, device=self.device)
        if self.cuda_graph:
            logits = self.model._decoding_cache.run(tokens, position, fed).squeeze(1)
        else:
            # a block of mamba-ssm steps if this is above zero, and uses it for nothing else
            parameters.seqlen_offset = max(fed, 1)
            logits = self._forward(tokens, position_ids=position)
        parameters.seqlen_offset = fed + 1
        return logits

    @contextmanager
    def eagerly(self) -> Iterator[None]:
        """Do not use the graph until the block ends, so that profilers see layer and part names."""
        cuda_graph, self.cuda_graph = self.cuda_graph, False
        try:
            yield
        finally:
            self.cuda_graph = cuda_graph

    def _forward(self, tokens: Tensor, **arguments: Any) -> Tensor:
        """The logits of the last token."""
        with named_parts(self.model, self.names):
            output = self.model(tokens, inference_params=self.parameters, num_last_tokens=1, **arguments)
        return output.logits.squeeze(1)

    def _sample(self, logits: Tensor) -> Tensor:
        with in_part(SAMPLING):
            return self.token.copy_(logits[:, :VOCAB_SIZE].argmax(-1))

    def memory_parts(self) -> dict[str, list[Tensor]]:
        """The weights, and the two states (convolution and SSM) of each layer."""
        layers = self.parameters.key_value_memory_dict.values()
        weights = [*self.model.parameters(), *self.model.buffers()]
        return {"weights": weights, "state": [tensor for states in layers for tensor in states]}

    def close(self) -> None:
        """Release the graph's memory."""
        self.model._decoding_cache = None


@contextmanager
def named_parts(model: Any, names: BlockNames) -> Iterator[None]:
    """Name the layers and parts of mamba-ssm's model while a profiler uses names. Otherwise, do nothing.

    The work of a layer counts as its projections, except for the convolution and the scan. mamba-ssm's block looks up
    these two functions in its own module, where they are replaced until the block ends. Work outside the layers counts
    as embeddings and head.
    """
    if not recording():
        yield
        return
    block = import_module(f"mamba_ssm.modules.{names.module}")
    with ExitStack() as stack:
        for name, part in names.functions.items():
            if getattr(block, name, None) is not None:
                stack.enter_context(inside(block, name, partial(in_part, part)))
        stack.enter_context(inside(model, "forward", partial(in_part, HEAD)))
        for index, layer in enumerate(model.backbone.layers):
            stack.enter_context(inside(layer, "forward", partial(_in_layer_projections, index)))
        yield


@contextmanager
def _in_layer_projections(index: int) -> Iterator[None]:
    with in_layer(index), in_part(PROJECTIONS):
        yield


def steps_one_token(request: ModelRequest) -> bool:
    """Whether a prompt of one token is a decode step. Not where the prompt is what is timed."""
    return request.workload is None or request.workload.mode != "prefill"


def build(request: ModelRequest) -> MambaModel:
    """Build ``request.name`` with random weights from the seed."""
    from mamba_ssm.models.config_mamba import MambaConfig
    from mamba_ssm.models.mixer_seq_simple import MambaLMHeadModel

    d_model, n_layer = SIZES[request.name]
    torch.manual_seed(request.seed)
    config = MambaConfig(d_model=d_model, n_layer=n_layer, vocab_size=VOCAB_SIZE)
    model = MambaLMHeadModel(config, device=request.device, dtype=request.dtype)
    return MambaModel(model.eval().requires_grad_(False), MAMBA, steps_one_token(request))


def work(request: ModelRequest, workload: Workload) -> list[Stage]:
    """The bytes and operations of ``workload``."""
    width, layers = SIZES[request.name]
    if workload.mode == "prefill":
        return prefill_stages(width, layers, VOCAB_SIZE, request.dtype, workload.batch, workload.promptlen)
    return decode_stages(width, layers, VOCAB_SIZE, request.dtype, workload.batch)


def allocations(request: ModelRequest, workload: Workload, execution: Execution) -> Allocations:
    """What a run allocates on a GPU, in order."""
    width, layers = SIZES[request.name]
    return MemoryOfMamba(width, layers, VOCAB_SIZE, request.dtype, workload).allocations(execution.cuda_graph)


def entries() -> list[ModelEntry]:
    return [
        ModelEntry(
            name,
            build,  # type: ignore[arg-type]
            f"Mamba, width {d_model}, {n_layer} layers, through mamba-ssm",
            needs_cuda=True,
            own_generation=True,
            missing=missing,
            work=work,
            allocations=allocations,
        )
        for name, (d_model, n_layer) in SIZES.items()
    ]
