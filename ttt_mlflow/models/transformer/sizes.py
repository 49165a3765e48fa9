"""The standard transformers and their registration.

Both large ones have 1,317,318,656 parameters: what the smaller projections of shared KV heads save, the feed-forward
has. ttt-1b has 1,323,070,592.
"""

import torch

from ttt_mlflow.models.allocations import Allocations
from ttt_mlflow.models.decoder import tensors_in
from ttt_mlflow.models.entry import Execution, ModelEntry, ModelRequest
from ttt_mlflow.models.transformer.attention import NAMES, SPLIT_KV, asked_for, check_on
from ttt_mlflow.models.transformer.config import TransformerConfig
from ttt_mlflow.models.transformer.memory import MemoryOfTransformer
from ttt_mlflow.models.transformer.model import TransformerModel, initialize
from ttt_mlflow.models.transformer.state import allocate
from ttt_mlflow.models.transformer.work import decode_stages, prefill_stages
from ttt_mlflow.models.ttt.config import DECODE_PATHS, LAUNCHES, padded
from ttt_mlflow.models.ttt.whole_step import check_path, compiles, path_by_default, staged_products
from ttt_mlflow.workload import Stage, Workload

SIZES = {
    "transformer-1b": TransformerConfig(2048, 5504, 24, 16, 16),
    "transformer-1b-gqa4": TransformerConfig(2048, 6528, 24, 16, 4),
    "transformer-tiny": TransformerConfig(128, 352, 2, 4, 2, vocab_size=512),
}
DESCRIPTIONS = {"transformer-tiny": "a transformer of 2 layers and width 128, for trying things out on a CPU"}


def build(request: ModelRequest) -> TransformerModel:
    """Build ``request.name`` with random weights from the seed."""
    config = SIZES[request.name]
    model = TransformerModel(
        config,
        request.dtype,
        request.device,
        request.attn_impl,
        request.workload,
        decode_path=request.decode_path or LAUNCHES,
    )
    initialize(model, request.seed)
    return model.eval()


def build_plain(request: ModelRequest) -> TransformerModel:
    """The same model from plain PyTorch operations. Its weights are not initialized."""
    return TransformerModel(SIZES[request.name], request.dtype, request.device, is_plain=True).eval()


def check(request: ModelRequest) -> None:
    """Raise BadInput for an attention that there is not, or not on this device, and for a step that cannot overlap."""
    check_on(request.device, request.attn_impl)
    check_path(request, _reason_against_overlapping)


def usual_path(request: ModelRequest) -> str:
    """The decode path of a run that asks for none."""
    return path_by_default(request, _reason_against_overlapping)


def _reason_against_overlapping(request: ModelRequest) -> str | None:
    """Why the decode step cannot run as kernels that overlap, or None."""
    from ttt_mlflow.kernels.launch import no_overlap
    from ttt_mlflow.kernels.overlapped.shape import StepShape, transformer_of, unsupported

    if request.device.type != "cuda" and asked_for(request.attn_impl).step != SPLIT_KV:
        return f"on a CPU, the step is PyTorch, but with attn_impl={SPLIT_KV}"
    config = SIZES[request.name]
    rows = padded(config.vocab_size)
    shape = StepShape(
        config.hidden_size,
        config.intermediate_size,
        config.head_dim,
        config.projected,
        rows,
        transformer_of(config.hidden_size, config.projected),
    )
    batch = request.workload.batch if request.workload else 1
    return unsupported(shape, batch, request.dtype, request.device) or no_overlap(request.device)


def work(request: ModelRequest, workload: Workload) -> list[Stage]:
    """The bytes and operations of ``workload``."""
    config = SIZES[request.name]
    if workload.mode == "prefill":
        return prefill_stages(config, request.dtype, workload.batch, workload.promptlen)
    return decode_stages(config, request.dtype, workload.batch, workload.mean_position)


def kept_bytes(request: ModelRequest, workload: Workload) -> int:
    """The bytes of the weights and of the cache."""
    config = SIZES[request.name]
    cache = allocate(config, workload.batch, workload.max_length(), request.dtype, torch.device("meta"))
    return config.parameters * request.dtype.itemsize + sum(tensor.nbytes for tensor in tensors_in(cache))


def allocations(request: ModelRequest, workload: Workload, execution: Execution) -> Allocations:
    """What a run allocates on a GPU, in order."""
    memory = MemoryOfTransformer(SIZES[request.name], request.dtype, workload, staged_products(request))
    return memory.allocations(execution.cuda_graph)


def entries() -> list[ModelEntry]:
    return [
        ModelEntry(
            name,
            build,  # type: ignore[arg-type]
            DESCRIPTIONS.get(
                name,
                f"transformer, width {config.hidden_size}, {config.num_layers} layers of {config.num_heads} heads, "
                f"{config.num_kv_heads} KV heads",
            ),
            attn_impls=NAMES,
            decode_paths=DECODE_PATHS,
            check=check,
            usual_path=usual_path,
            compiles=compiles,
            work=work,
            kept_bytes=kept_bytes,
            allocations=allocations,
            plain=build_plain,  # type: ignore[arg-type]
            cost_grows=True,
        )
        for name, config in SIZES.items()
    ]
