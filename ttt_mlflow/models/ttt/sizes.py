"""The standard TTT models and their registration."""

import torch

from ttt_mlflow.errors import BadInput
from ttt_mlflow.kernels.inner_layers import MINI_BATCH, MLP
from ttt_mlflow.models.allocations import Allocations
from ttt_mlflow.models.decoder import tensors_in
from ttt_mlflow.models.entry import Execution, ModelEntry, ModelRequest
from ttt_mlflow.models.ttt.checkpoint import check_fit, config_of_weights, load_checkpoint, published_shapes
from ttt_mlflow.models.ttt.config import DECODE_PATHS, LAUNCHES, TTTConfig, padded
from ttt_mlflow.models.ttt.initialization import initialize
from ttt_mlflow.models.ttt.inner_nets import INNER_NETS
from ttt_mlflow.models.ttt.memory import MemoryOfTTT
from ttt_mlflow.models.ttt.model import TTTModel
from ttt_mlflow.models.ttt.state import allocate
from ttt_mlflow.models.ttt.whole_step import check_path, compiles, path_by_default, staged_products
from ttt_mlflow.models.ttt.work import decode_stages, prefill_stages
from ttt_mlflow.workload import Stage, Workload

# hidden, intermediate, layers, heads: the widths of the paper
SIZES = {
    "ttt-125m": (768, 2048, 12, 12),
    "ttt-350m": (1024, 2736, 24, 16),
    "ttt-760m": (1536, 4096, 24, 16),
    "ttt-1b": (2048, 5504, 24, 32),
    "ttt-profile": (2048, 5504, 4, 32),
    "ttt-tiny": (128, 352, 2, 2),
}
DESCRIPTIONS = {
    "ttt-profile": "the 1b widths with 4 layers, for profiling",
    "ttt-tiny": "2 layers of width 128 and 512 tokens, for trying things out on a CPU",
}
VOCABULARIES = {"ttt-tiny": 512}


def config_of(name: str, layer_type: str, checkpoint: str | None = None) -> TTTConfig:
    """The widths of the standard model ``name`` with a ``linear`` or ``mlp`` inner net.

    A checkpoint has sizes of its own. Raises BadInput for one whose sizes cannot be.
    """
    config = TTTConfig(layer_type, *SIZES[name])
    if name in VOCABULARIES:
        config = TTTConfig(layer_type, *SIZES[name], vocab_size=VOCABULARIES[name])
    return config_of_weights(checkpoint, config) if checkpoint else config


def build(request: ModelRequest) -> TTTModel:
    """Build ``request.name`` with random weights from the seed, or with the weights of a checkpoint."""
    if request.inner_net is None:
        raise BadInput(f"inner_net: {request.name} needs one of {', '.join(INNER_NETS)}")
    net, decode_path = INNER_NETS[request.inner_net], request.decode_path or LAUNCHES
    config = config_of(request.name, net.layer_type, request.checkpoint)
    model = TTTModel(config, net, request.dtype, request.device, decode_path=decode_path)
    if request.checkpoint:
        load_checkpoint(model, request.checkpoint)
    else:
        initialize(model, request.seed)
    return model.eval()


def build_plain(request: ModelRequest) -> TTTModel:
    """The same model from plain PyTorch operations. Its weights are not initialized."""
    assert request.inner_net is not None
    net = INNER_NETS[request.inner_net.removesuffix("_triton")]
    config = config_of(request.name, net.layer_type, request.checkpoint)
    return TTTModel(config, net, request.dtype, request.device, is_plain=True).eval()


def check(request: ModelRequest) -> None:
    """Raise BadInput unless the requested checkpoint, if any, fits, and the step can run as requested.

    Of a checkpoint, only the header is read.
    """
    if request.checkpoint and request.inner_net:
        net = INNER_NETS[request.inner_net]
        empty = TTTModel(
            config_of(request.name, net.layer_type, request.checkpoint), net, request.dtype, torch.device("meta")
        )
        check_fit(request.checkpoint, published_shapes(empty), f"{request.name} {request.inner_net}")
    check_path(request, _reason_against_overlapping)


def usual_path(request: ModelRequest) -> str:
    """The decode path of a run that asks for none."""
    return path_by_default(request, _reason_against_overlapping)


def _reason_against_overlapping(request: ModelRequest) -> str | None:
    """Why the decode step cannot run as kernels that overlap, or None."""
    from ttt_mlflow.kernels.launch import no_overlap
    from ttt_mlflow.kernels.overlapped.shape import StepShape, unsupported

    assert request.inner_net is not None
    net = INNER_NETS[request.inner_net]
    if not net.triton:
        return f"inner_net={net.name} is PyTorch; it takes {net.name}_triton"
    config = config_of(request.name, net.layer_type, request.checkpoint)
    projected = padded(3 * config.hidden_size + config.num_heads)
    shape = StepShape(
        config.hidden_size, config.intermediate_size, config.head_dim, projected, padded(config.vocab_size),
        "ttt_mlp" if net.layer is MLP else "ttt_linear",
    )  # fmt: skip
    batch = request.workload.batch if request.workload else 1
    return unsupported(shape, batch, request.dtype, request.device) or no_overlap(request.device)


def work(request: ModelRequest, workload: Workload) -> list[Stage]:
    """The bytes and operations of ``workload``."""
    assert request.inner_net is not None
    config = config_of(request.name, INNER_NETS[request.inner_net].layer_type, request.checkpoint)
    if workload.mode == "prefill":
        return prefill_stages(config, request.dtype, workload.batch, workload.promptlen)
    return decode_stages(config, request.dtype, workload.batch)


def kept_bytes(request: ModelRequest, workload: Workload) -> int:
    """The bytes of the weights and of the state."""
    assert request.inner_net is not None
    net, nowhere = INNER_NETS[request.inner_net], torch.device("meta")
    config = config_of(request.name, net.layer_type, request.checkpoint)
    weights = TTTModel(config, net, request.dtype, nowhere).parameter_count() * request.dtype.itemsize
    state = allocate(config, net, workload.batch, request.dtype, nowhere)
    return weights + sum(tensor.nbytes for tensor in tensors_in(state))


def allocations(request: ModelRequest, workload: Workload, execution: Execution) -> Allocations:
    """What a run allocates on a GPU, in order."""
    assert request.inner_net is not None
    net = INNER_NETS[request.inner_net]
    config = config_of(request.name, net.layer_type, request.checkpoint)
    staged = staged_products(request)
    return MemoryOfTTT(config, net, request.dtype, workload, execution.compiled, staged).allocations(
        execution.cuda_graph
    )


def entries() -> list[ModelEntry]:
    return [
        ModelEntry(
            name,
            build,
            DESCRIPTIONS.get(name, f"TTT, width {width}, {layers} layers of {heads} heads"),
            inner_nets=tuple(INNER_NETS),
            decode_paths=DECODE_PATHS,
            takes_checkpoint=True,
            period=MINI_BATCH,
            check=check,
            usual_path=usual_path,
            compiles=compiles,
            work=work,
            kept_bytes=kept_bytes,
            allocations=allocations,
            plain=build_plain,
        )
        for name, (width, _, layers, heads) in SIZES.items()
    ]
