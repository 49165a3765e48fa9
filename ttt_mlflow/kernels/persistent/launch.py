"""Prepares and launches the whole step: buffers, the table of addresses, and whether a machine can do it."""

from dataclasses import dataclass

import torch
import triton
from torch import Tensor

from ttt_mlflow.kernels.arithmetic import NORM_EPS
from ttt_mlflow.kernels.inner_layers import MINI_BATCH, MLP
from ttt_mlflow.kernels.launch import TENSOR_CORES
from ttt_mlflow.kernels.persistent.grid import PATIENCE
from ttt_mlflow.kernels.persistent.products import LANE_COLUMNS, ROWS
from ttt_mlflow.kernels.persistent.step import WEIGHTS, persistent_step_kernel
from ttt_mlflow.kernels.persistent.tensors import LayerTensors, StepTensors

LARGEST_BATCH = 16
WARPS = 8
LARGEST_GROUP = 4  # heads of TTT-Linear that a program has in its registers at once
CHUNK = 32  # hidden units of TTT-MLP that are folded at a time
LARGEST_MLP_HEAD = 64  # the matrices of a larger one do not fit into a program's registers
assert LayerTensors._fields[:-2] == WEIGHTS


@dataclass(frozen=True)
class Tuning:
    """What changes the time of a step, and nothing else.

    redundant: every program computes all norms for itself. span, span_down: columns of a weight's tile; the down
    projection's rows are the longest. early: tiles, two or four, that a program requests before it waits for others.
    """

    redundant: bool
    span: int
    span_down: int
    early: int

    @classmethod
    def of(cls, batch: int) -> "Tuning":
        """The choice for this batch."""
        return cls(redundant=batch <= 2, span=512, span_down=512, early=4)


class Stuck(RuntimeError):
    """The programs of a launch have waited for each other in vain. All results of the state are void."""


@dataclass(frozen=True)
class Timeline:
    """When each program came to each meeting, and when it went on: [meetings, programs, 2] int64, nanoseconds."""

    times: Tensor
    stages: tuple[str, ...]  # what ends with each meeting


@dataclass(frozen=True)
class StepShape:
    """Sizes of a step, in elements: of a token's values, of the feed-forward, of a head, and rows of the weights."""

    width: int
    intermediate: int
    head_dim: int
    projected: int
    embedding: int
    is_mlp: bool


def unsupported(shape: StepShape, batch: int, dtype: torch.dtype, device: torch.device) -> str | None:
    """Why a step of this shape cannot run as one kernel, or as kernels that overlap; or None."""
    if not 1 <= batch <= LARGEST_BATCH:
        return f"batch={batch}: it takes 1 to {LARGEST_BATCH} sequences"
    if dtype not in (torch.float16, torch.bfloat16):
        return f"dtype={str(dtype).removeprefix('torch.')}: it takes float16 and bfloat16"
    if device.type == "cuda" and (capability := torch.cuda.get_device_capability(device)) < TENSOR_CORES:
        return f"the GPU has compute capability {capability[0]}.{capability[1]}; it needs {TENSOR_CORES[0]}.0"
    if shape.head_dim < ROWS or shape.head_dim & (shape.head_dim - 1):
        return f"heads of {shape.head_dim}: it takes powers of two from {ROWS} on"
    if shape.is_mlp and shape.head_dim > LARGEST_MLP_HEAD:
        return f"TTT-MLP with heads of {shape.head_dim}: it takes up to {LARGEST_MLP_HEAD}"
    for what, rows in (("hidden size", shape.width), ("projection", shape.projected), ("vocabulary", shape.embedding)):
        if rows % ROWS:
            return f"{what} of {rows}: it takes multiples of {ROWS}"
    if shape.intermediate % (ROWS // 2):
        return f"feed-forward of {shape.intermediate}: it takes multiples of {ROWS // 2}"
    return None


def shape_of(tensors: StepTensors) -> StepShape:
    """The sizes of a step."""
    one, embedding = tensors.layers[0], tensors.embedding
    width, intermediate, projected = one.o_proj.shape[0], one.down_proj.shape[1], one.projection.shape[0]
    sizes = (width, intermediate, one.norm_weight.shape[1], projected, embedding.shape[0])
    return StepShape(*sizes, tensors.inner_layer is MLP)


def reason_against(tensors: StepTensors, batch: int) -> str | None:
    """Why this step is :func:`unsupported`, or None."""
    return unsupported(shape_of(tensors), batch, tensors.embedding.dtype, tensors.embedding.device)


def check_shape(tensors: StepTensors, batch: int) -> StepShape:
    """The sizes of a step. Raises ValueError for one that is :func:`unsupported`."""
    if reason := reason_against(tensors, batch):
        raise ValueError(f"a whole step: {reason}")
    return shape_of(tensors)


class PersistentStep:
    """A decode step of ``batch`` sequences as one kernel. Twin: :func:`.reference.persistent_step`.

    Raises ValueError for what it cannot do (:func:`unsupported`).
    """

    def __init__(
        self, tensors: StepTensors, batch: int, *, timeline: bool = False, tuning: Tuning | None = None
    ) -> None:
        """timeline: record when each program comes to each meeting. tuning: another choice than that for the batch."""
        tuning = tuning or Tuning.of(batch)
        self.tensors, self.batch = tensors, batch
        shape, embedding = check_shape(tensors, batch), tensors.embedding
        self.device, dtype = embedding.device, embedding.dtype
        width, intermediate, dim, projected = shape.width, shape.intermediate, shape.head_dim, shape.projected
        heads = tensors.layers[0].norm_weight.shape[0]
        cuda = self.device.type == "cuda"
        # Triton's interpreter runs one program after the other, so that there none may wait for another one
        self.programs = torch.cuda.get_device_properties(self.device).multi_processor_count if cuda else 1
        self.padded = 8 if batch <= 8 else 16
        redundant = tuning.redundant
        together = 1 if tensors.inner_layer is MLP else heads_together(batch * heads, heads, self.programs)

        addresses = [[tensor.data_ptr() for tensor in layer.flat()] for layer in tensors.layers]
        self.table = torch.tensor(addresses, dtype=torch.int64).to(self.device)
        rows = self.programs * self.padded if redundant else batch

        def empty(*shape: int, dtype: torch.dtype = dtype) -> Tensor:
            return torch.empty(shape, dtype=dtype, device=self.device)

        self.logits = empty(batch, tensors.vocab)
        self.best = empty(self.programs, self.padded, dtype=torch.int64)
        self.buffers = [
            *(empty(batch, width) for _ in range(3)), empty(rows, width), empty(batch, projected),
            empty(batch, width), empty(batch, intermediate), self.logits, self.best,
        ]  # fmt: skip
        self.arrived = torch.zeros(1, dtype=torch.int32, device=self.device)
        # in the host's memory, so that looking at it waits for nothing
        self.failed = torch.zeros(1, dtype=torch.int32, pin_memory=cuda)
        self._failed = self.failed.numpy()
        meetings_of_a_layer = 5 if redundant else 8
        meetings = len(tensors.layers) * meetings_of_a_layer + (2 if redundant else 3)
        self.times = empty(meetings if timeline else 1, self.programs, 2, dtype=torch.int64)
        self.constants = {
            "LAYERS": len(tensors.layers), "COLUMNS": self.table.shape[1], "WIDTH": width,
            "INTERMEDIATE": intermediate, "HEADS": heads, "HEAD_DIM": dim, "PROJECTED": projected,
            "VOCAB": tensors.vocab, "PADDED_VOCAB": embedding.shape[0], "BATCH": self.padded,
            "BLOCK": triton.next_power_of_2(width), "SPAN": _columns(width, tuning.span),
            "SPAN_DOWN": _columns(intermediate, tuning.span_down), "WARPS": WARPS,
            "PROGRAMS": triton.next_power_of_2(self.programs), "REDUNDANT": redundant,
            "MLP": tensors.inner_layer is MLP, "CHUNK": CHUNK, "SLOTS": MINI_BATCH,
            "SEQUENCES": batch if redundant else triton.cdiv(batch, self.programs),
            "TOGETHER": together, "ROUNDS": triton.cdiv(batch * heads, self.programs * together),
            "EPS": NORM_EPS, "PATIENCE": PATIENCE, "TIMELINE": timeline,
            "EARLY": tuning.early, "GRID": self.programs,
        }  # fmt: skip

    def __call__(self, tokens: Tensor, next_tokens: Tensor) -> Tensor:
        """Feed tokens [B] int64; the next ones go to ``next_tokens`` [B] int64, which may be the same tensor.

        Returns logits [B, V], which the next call overwrites. Raises :class:`Stuck` after a call that has failed, and
        ValueError if ``next_tokens`` is not contiguous.
        """
        self.check()
        if not next_tokens.is_contiguous():
            raise ValueError("next_tokens: the kernel writes one after the other, and this tensor has gaps")
        tokens = tokens.contiguous()
        shared = self.tensors
        self.arrived.zero_()
        persistent_step_kernel[(self.programs,)](
            self.table, tokens, shared.position, shared.embedding, shared.last_norm, shared.cos, shared.sin,
            shared.inner_layer.base_lr, self.batch, *self.buffers, next_tokens, self.arrived, self.failed, self.times,
            **self.constants, num_warps=WARPS, launch_cooperative_grid=True,
        )  # fmt: skip
        return self.logits

    def check(self) -> None:
        """Raise :class:`Stuck` if a program of an earlier launch has given up waiting. Does not wait for the GPU."""
        if self._failed[0]:
            raise Stuck(
                "the programs of a decode step waited for each other in vain, for over a second; what was decoded "
                "since is void. decode_path=launches decodes without such waits"
            )

    def timeline(self) -> Timeline:
        """Of the last call."""
        layer = ("norms and convolution", "projection", "inner net", "gate and norm", "output projection", "norm",
                 "gate and up projections", "down projection")  # fmt: skip
        if self.constants["REDUNDANT"]:
            layer = ("projection", "inner net", "output projection", "gate and up projections", "down projection")
        last = ("head",) if self.constants["REDUNDANT"] else ("norm", "head")
        return Timeline(self.times.cpu(), ("embedding", *(layer * len(self.tensors.layers)), *last))


def heads_together(units: int, heads: int, programs: int) -> int:
    """Heads of TTT-Linear that a program has at once: a power of two that divides ``heads``, those of a sequence.

    No more than are needed for all ``units``, the heads of all sequences, at once, and than LARGEST_GROUP.
    """
    together = min(triton.next_power_of_2(triton.cdiv(units, programs)), LARGEST_GROUP)
    while heads % together:
        together //= 2
    return together


def _columns(width: int, most: int) -> int:
    return max(min(most, triton.next_power_of_2(width)), WARPS * LANE_COLUMNS)
