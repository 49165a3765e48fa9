"""The models of flash-linear-attention in the registry. It is imported when one is built."""

from types import ModuleType

import torch

from ttt_mlflow.models.allocations import STATE, WEIGHTS, Allocate, Allocations
from ttt_mlflow.models.entry import Execution, ModelEntry, ModelRequest
from ttt_mlflow.models.fla import gated_delta, rwkv7
from ttt_mlflow.models.fla.memory import MemoryOfGatedDelta, MemoryOfRwkv7
from ttt_mlflow.models.fla.package import missing
from ttt_mlflow.models.fla.sizes import GATED_DELTA, RWKV7, GatedDeltaSize, Rwkv7Size
from ttt_mlflow.models.fla.work import gated_delta_stages, rwkv7_stages
from ttt_mlflow.workload import Stage, Workload


def work(request: ModelRequest, workload: Workload) -> list[Stage]:
    """The bytes and operations of ``workload``."""
    if request.name in GATED_DELTA:
        return gated_delta_stages(GATED_DELTA[request.name], request.dtype, workload)
    return rwkv7_stages(RWKV7[request.name], request.dtype, workload)


def allocations(request: ModelRequest, workload: Workload, execution: Execution) -> Allocations:
    """What a run allocates on a GPU, in order."""
    return _memory(request.name, request.dtype, workload).allocations(execution.cuda_graph)


def _memory(name: str, dtype: torch.dtype, workload: Workload) -> MemoryOfGatedDelta | MemoryOfRwkv7:
    if name in GATED_DELTA:
        return MemoryOfGatedDelta(dtype, workload, GATED_DELTA[name])
    return MemoryOfRwkv7(dtype, workload, RWKV7[name])


def kept_bytes(request: ModelRequest, workload: Workload) -> int:
    """The bytes of the weights and of the state."""
    events = _memory(request.name, request.dtype, workload).allocations(cuda_graph=False).events
    return sum(one.size for one in events if isinstance(one, Allocate) and one.kind in (WEIGHTS, STATE))


def entries() -> list[ModelEntry]:
    def entry(name: str, module: ModuleType, description: str) -> ModelEntry:
        return ModelEntry(
            name,
            module.build,
            description,
            plain=module.build_plain,
            missing=missing,
            work=work,
            kept_bytes=kept_bytes,
            allocations=allocations,
        )

    through = "through flash-linear-attention"
    small = "2 layers of width 128 and 512 tokens, for trying things out on a CPU"
    sizes: dict[str, GatedDeltaSize | Rwkv7Size] = {**GATED_DELTA, **RWKV7}
    networks = {
        name: small if name.endswith("tiny") else f"width {size.width}, {size.layers} layers of {size.heads} heads"
        for name, size in sizes.items()
    }
    return [
        *(entry(name, gated_delta, f"gated delta network, {networks[name]}, {through}") for name in GATED_DELTA),
        *(entry(name, rwkv7, f"RWKV-7, {networks[name]}, {through}") for name in RWKV7),
    ]
