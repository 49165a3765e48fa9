"""Mamba-2 for comparison: mamba-ssm's own model and its own generation code with its own CUDA graph.

Source: Dao and Gu 2024, arXiv 2405.21060. The configurations are the published ones (config.json of
state-spaces/mamba2-*). They are written out here, so that nothing is downloaded from a hub. Weights are random.
"""

import torch

from ttt_mlflow.models.allocations import Allocations
from ttt_mlflow.models.entry import Execution, ModelEntry, ModelRequest
from ttt_mlflow.models.mamba.installation import missing
from ttt_mlflow.models.mamba.model import VOCAB_SIZE, BlockNames, MambaModel, steps_one_token
from ttt_mlflow.models.mamba2.memory import MemoryOfMamba2
from ttt_mlflow.models.mamba2.work import VOCABULARY_MULTIPLE, stages
from ttt_mlflow.workload import CONVOLUTION, INNER, Stage, Workload

# d_model, n_layer
SIZES = {
    "state-spaces/mamba2-130m": (768, 24),
    "state-spaces/mamba2-370m": (1024, 48),
    "state-spaces/mamba2-780m": (1536, 48),
    "state-spaces/mamba2-1.3b": (2048, 48),
    "state-spaces/mamba2-2.7b": (2560, 64),
}
MAMBA2 = BlockNames(
    "mamba2",
    {
        "causal_conv1d_update": CONVOLUTION,
        "causal_conv1d_fn": CONVOLUTION,
        "selective_state_update": INNER,
        "mamba_chunk_scan_combined": INNER,
    },
)


def build(request: ModelRequest) -> MambaModel:
    """Build ``request.name`` with random weights from the seed."""
    from mamba_ssm.models.config_mamba import MambaConfig
    from mamba_ssm.models.mixer_seq_simple import MambaLMHeadModel

    d_model, n_layer = SIZES[request.name]
    torch.manual_seed(request.seed)
    config = MambaConfig(
        d_model=d_model,
        n_layer=n_layer,
        vocab_size=VOCAB_SIZE,
        ssm_cfg={"layer": "Mamba2"},
        pad_vocab_size_multiple=VOCABULARY_MULTIPLE,
    )
    model = MambaLMHeadModel(config, device=request.device, dtype=request.dtype)
    return MambaModel(model.eval().requires_grad_(False), MAMBA2, steps_one_token(request))


def work(request: ModelRequest, workload: Workload) -> list[Stage]:
    """The bytes and operations of ``workload``."""
    width, layers = SIZES[request.name]
    return stages(width, layers, VOCAB_SIZE, request.dtype, workload)


def allocations(request: ModelRequest, workload: Workload, execution: Execution) -> Allocations:
    """What a run allocates on a GPU, in order."""
    width, layers = SIZES[request.name]
    return MemoryOfMamba2(width, layers, VOCAB_SIZE, request.dtype, workload).allocations(execution.cuda_graph)


def entries() -> list[ModelEntry]:
    return [
        ModelEntry(
            name,
            build,  # type: ignore[arg-type]
            f"Mamba-2, width {d_model}, {n_layer} layers, through mamba-ssm",
            needs_cuda=True,
            own_generation=True,
            missing=missing,
            work=work,
            allocations=allocations,
        )
        for name, (d_model, n_layer) in SIZES.items()
    ]
