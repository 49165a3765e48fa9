"""The tasks of a layer outside its inner net, and of the head: matrix products, norms, convolutions, gates.

Every copy of a task's inputs has weights of its own. A copy stands for another layer, whose weights no earlier launch
has brought into the L2.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from math import prod
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from ttt_mlflow.kernels.block import reference
from ttt_mlflow.kernels.block.reference import CONV_TAPS
from ttt_mlflow.kernels.inner_layers import LINEAR, MINI_BATCH
from ttt_mlflow.micro.task import LayerSizes, Source
from ttt_mlflow.models.ttt.config import padded

FIRST = MINI_BATCH - 2  # position of the first token: the check's tokens go on into the next mini-batch
CHECKED = 5  # tokens with a ring: each of its slots is written, and one of them twice


@dataclass(frozen=True)
class Operand:
    """A tensor among the arguments.

    kind: ``fed``: the tokens' values, others in each call; ``weight``; ``state``: changed by a call, read by the next.
    within: its columns are part of rows of this many, as the model's fused projection makes them. read: the share of
    its elements that a call needs.
    """

    kind: Literal["fed", "weight", "state"]
    shape: tuple[int, ...]
    std: float = 1.0
    mean: float = 0.0
    dtype: torch.dtype | None = None  # the task's
    within: int | None = None
    read: float = 1.0

    @property
    def allocated(self) -> tuple[int, ...]:
        return (*self.shape[:-1], self.within or self.shape[-1])


@dataclass(frozen=True)
class Result:
    shape: tuple[int, ...]
    dtype: torch.dtype


POSITION = None  # stands for the position's tensor among the arguments


@dataclass(frozen=True)
class LayerInputs:
    """One copy of the inputs. given: the arguments of each call, by name. starts: the position of each call's token."""

    given: list[dict[str, Any]]
    starts: tuple[int, ...]
    changed: tuple[str, ...]

    @property
    def device(self) -> torch.device:
        return next(value.device for value in self.given[0].values() if isinstance(value, Tensor))

    @property
    def calls(self) -> int:
        return len(self.given)

    @property
    def state(self) -> tuple[Tensor, ...]:
        return tuple(self.given[0][name] for name in self.changed)

    def arguments(self, call: int, positions: Sequence[Tensor]) -> tuple[Any, ...]:
        return tuple(self._at(call, positions).values())

    def read_only(self, call: int, positions: Sequence[Tensor]) -> Mapping[str, Tensor]:
        arguments = self._at(call, positions).items()
        return {name: value for name, value in arguments if isinstance(value, Tensor) and name not in self.changed}

    def _at(self, call: int, positions: Sequence[Tensor]) -> dict[str, Any]:
        now = positions[self.starts[call]]
        return {name: now if value is POSITION else value for name, value in self.given[call].items()}


@dataclass(frozen=True)
class LayerTask:
    """One operation for one token of ``batch`` sequences. numbers among the operands: arguments that are no tensors."""

    mode: ClassVar[str] = "decode"
    promptlen: ClassVar[int | None] = None
    calls: ClassVar[tuple[int, ...]] = (1,)  # it costs the same at every position
    most_copies: ClassVar[int] = 16_384  # each has one launch; a norm's few kilobytes need many to make four L2 sizes

    batch: int
    dtype: torch.dtype
    operands: dict[str, Operand | float | None]
    returned: dict[str, Result]
    twin: Callable[..., Any]
    flops: float = 0.0

    @property
    def wording(self) -> tuple[str, str, str]:
        state = [name for name, operand in self._tensors.items() if operand.kind == "state"]
        return "a call", " and ".join(self.returned), f"only {', '.join(state)}" if state else "no argument"

    @property
    def _tensors(self) -> dict[str, Operand]:
        return {name: operand for name, operand in self.operands.items() if isinstance(operand, Operand)}

    @property
    def checked_calls(self) -> tuple[int, ...]:
        return (1,) * (CHECKED if any(one.kind == "state" for one in self._tensors.values()) else 1)

    @property
    def floor_bytes(self) -> float:
        """Every argument once and every result once. Of a ring, three slots are read and one is written."""
        read = sum(prod(one.shape) * one.read * self._dtype(one).itemsize for one in self._tensors.values())
        return read + sum(prod(one.shape) * one.dtype.itemsize for one in self.returned.values())

    @property
    def copy_bytes(self) -> int:
        return sum(prod(one.allocated) * self._dtype(one).itemsize for one in self._tensors.values())

    @property
    def results(self) -> Mapping[str, torch.dtype]:
        return {name: one.dtype for name, one in self.returned.items()}

    def _dtype(self, operand: Operand) -> torch.dtype:
        return operand.dtype or self.dtype

    def inputs(self, source: Source, calls: Sequence[int] | None = None) -> LayerInputs:
        lengths = calls or self.calls

        def tensor(one: Operand) -> Tensor:
            return source.normal(one.allocated, self._dtype(one), one.std, one.mean)[..., : one.shape[-1]]

        kept = {name: tensor(one) for name, one in self._tensors.items() if one.kind != "fed"}
        fed = [
            {name: tensor(one) for name, one in self._tensors.items() if one.kind == "fed"} for _ in lengths
        ]  # fmt: skip
        return LayerInputs(
            given=[{name: (kept | ours).get(name, value) for name, value in self.operands.items()} for ours in fed],
            starts=tuple((FIRST + tokens) % MINI_BATCH for tokens in accumulate(lengths[:-1], initial=0)),
            changed=tuple(name for name, one in self._tensors.items() if one.kind == "state"),
        )

    def exact(self, inputs: LayerInputs) -> LayerInputs:
        """In float64. What several calls share, they share here too."""
        wide: dict[int, Tensor] = {}

        def double(value: Any) -> Any:
            if not isinstance(value, Tensor):
                return value
            if id(value) not in wide:
                wide[id(value)] = value.double()
            return wide[id(value)]

        given = [{name: double(value) for name, value in call.items()} for call in inputs.given]
        return LayerInputs(given, inputs.starts, inputs.changed)

    def changes_state(self, inputs: LayerInputs, call: int) -> bool:
        return bool(inputs.changed)


# Matrix products


def _product(sizes: LayerSizes, batch: int, rows: int, columns: int) -> LayerTask:
    """y [B, rows] = x [B, columns] Wᵀ."""
    return LayerTask(
        batch,
        sizes.dtype,
        _product_operands(batch, rows, columns),
        {"out": Result((batch, rows), sizes.dtype)},
        torch.nn.functional.linear,
        flops=2 * batch * rows * columns,
    )


def _product_operands(batch: int, rows: int, columns: int) -> dict[str, Operand | float | None]:
    weight = Operand("weight", (rows, columns), std=columns**-0.5)  # so that the results are about 1
    return {"x": Operand("fed", (batch, columns)), "weight": weight}


def projected(sizes: LayerSizes) -> int:
    """Rows of the fused projection: Q/K, V, the gate, the learning rate's logits, and padding."""
    return padded(3 * sizes.width + sizes.heads)


def projection(sizes: LayerSizes, batch: int) -> LayerTask:
    return _product(sizes, batch, projected(sizes), sizes.width)


def o_proj(sizes: LayerSizes, batch: int) -> LayerTask:
    return _product(sizes, batch, sizes.width, sizes.width)


def down_proj(sizes: LayerSizes, batch: int) -> LayerTask:
    return _product(sizes, batch, sizes.width, sizes.intermediate)


def gate_up(sizes: LayerSizes, batch: int) -> LayerTask:
    """silu(gate) · up, [B, I], of x times W [2 I, D], the gate's rows first."""
    rows, columns = 2 * sizes.intermediate, sizes.width
    return LayerTask(
        batch,
        sizes.dtype,
        _product_operands(batch, rows, columns),
        {"out": Result((batch, sizes.intermediate), sizes.dtype)},
        lambda x, weight: reference.swiglu(torch.nn.functional.linear(x, weight)),
        flops=2 * batch * rows * columns,
    )


def head(sizes: LayerSizes, batch: int) -> LayerTask:
    """The logits [B, V] of the embedding's first V rows, and the largest of each sequence, by which it is found."""
    rows, columns = padded(sizes.vocab), sizes.width

    def twin(x: Tensor, weight: Tensor, vocab: int) -> tuple[Tensor, Tensor]:
        logits = torch.nn.functional.linear(x, weight)[:, :vocab]
        return logits, logits.amax(1)

    return LayerTask(
        batch,
        sizes.dtype,
        {**_product_operands(batch, rows, columns), "vocab": sizes.vocab},
        {"logits": Result((batch, sizes.vocab), sizes.dtype), "largest": Result((batch,), sizes.dtype)},
        twin,
        flops=2 * batch * rows * columns,
    )


# Norms, convolutions and gates. Their arguments are those of ttt_mlflow/kernels/block/reference.py.


def _row(sizes: LayerSizes, batch: int, columns: int | None = None, within: int | None = None) -> Operand:
    return Operand("fed", (batch, columns or sizes.width), within=within)


def _norm_weight(sizes: LayerSizes) -> Operand:
    return Operand("weight", (sizes.width,), std=0.3, mean=1.0)


def _bias(columns: int) -> Operand:
    return Operand("weight", (columns,), std=0.3)


def _taps(sizes: LayerSizes) -> Operand:
    return Operand("weight", (CONV_TAPS, sizes.width), std=0.5)


def _ring(sizes: LayerSizes, batch: int) -> Operand:
    return Operand("state", (batch, CONV_TAPS, sizes.width))


def _rows_of(sizes: LayerSizes, batch: int, *names: str) -> dict[str, Result]:
    return {name: Result((batch, sizes.width), sizes.dtype) for name in names}


def conv_rms_norm(sizes: LayerSizes, batch: int) -> LayerTask:
    operands: dict[str, Operand | float | None] = {
        "hidden": _row(sizes, batch),
        "delta": _row(sizes, batch),
        "ring": _ring(sizes, batch),
        "position": POSITION,
        "conv_norm_weight": _norm_weight(sizes),
        "conv_weight": _taps(sizes),
        "conv_bias": _bias(sizes.width),
        "norm_weight": _norm_weight(sizes),
    }
    return LayerTask(
        batch, sizes.dtype, operands, _rows_of(sizes, batch, "hidden", "normed"), reference.conv_rms_norm
    )  # fmt: skip


def qk_conv_rotary(sizes: LayerSizes, batch: int) -> LayerTask:
    angles = Operand("weight", (MINI_BATCH, sizes.head_dim // 2), dtype=torch.float32, read=1 / MINI_BATCH)
    operands: dict[str, Operand | float | None] = {
        "x": _row(sizes, batch, within=projected(sizes)),
        "lr_logits": _row(sizes, batch, sizes.heads, within=projected(sizes)),
        "ring": _ring(sizes, batch),
        "position": POSITION,
        "q_weight": _taps(sizes),
        "q_bias": _bias(sizes.width),
        "k_weight": _taps(sizes),
        "k_bias": _bias(sizes.width),
        "lr_bias": _bias(sizes.heads),
        "cos": angles,
        "sin": angles,
        "base_lr": LINEAR.base_lr,
    }
    lr = Result((batch, sizes.heads), torch.float32)
    return LayerTask(
        batch, sizes.dtype, operands, {**_rows_of(sizes, batch, "q", "k"), "lr": lr}, reference.qk_conv_rotary
    )  # fmt: skip


def gated_layer_norm(sizes: LayerSizes, batch: int) -> LayerTask:
    operands: dict[str, Operand | float | None] = {
        "x": _row(sizes, batch),
        "gate": _row(sizes, batch, within=projected(sizes)),
        "weight": _norm_weight(sizes),
        "bias": _bias(sizes.width),
    }
    return LayerTask(batch, sizes.dtype, operands, _rows_of(sizes, batch, "out"), reference.gated_layer_norm)


def add_rms_norm(sizes: LayerSizes, batch: int) -> LayerTask:
    operands: dict[str, Operand | float | None] = {
        "hidden": _row(sizes, batch),
        "delta": _row(sizes, batch),
        "weight": _norm_weight(sizes),
    }
    return LayerTask(batch, sizes.dtype, operands, _rows_of(sizes, batch, "hidden", "normed"), reference.add_rms_norm)


def swiglu(sizes: LayerSizes, batch: int) -> LayerTask:
    operands: dict[str, Operand | float | None] = {"gate_up": _row(sizes, batch, 2 * sizes.intermediate)}
    out = Result((batch, sizes.intermediate), sizes.dtype)
    return LayerTask(batch, sizes.dtype, operands, {"out": out}, reference.swiglu)


TASKS: dict[str, Callable[[LayerSizes, int], LayerTask]] = {
    make.__name__: make
    for make in (
        *(projection, o_proj, gate_up, down_proj, head),
        *(conv_rms_norm, qk_conv_rotary, gated_layer_norm, add_rms_norm, swiglu),
    )
}
