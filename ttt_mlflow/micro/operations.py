"""The operations of a layer whose kernels can be timed: a table of their names, and what a kernel of each is given.

An operation makes a :class:`~ttt_mlflow.micro.task.Task` for each batch, which has inputs, bytes, operations and the
correct result. Nothing else depends on which operation a kernel computes. This module does not import torch, so that
listing the kernels is fast.
"""

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Protocol

from ttt_mlflow.kernels.inner_layers import INNER_LAYERS

if TYPE_CHECKING:
    from ttt_mlflow.micro.task import LayerSizes, Task

KEEPS_NOTHING = "none"  # the form of an operation other than an inner net


class MakeTask(Protocol):
    """Makes the task of one batch for a kernel with this form and mode."""

    def __call__(self, sizes: "LayerSizes", batch: int, form: str, mode: str) -> "Task": ...


@dataclass(frozen=True)
class Operation:
    """``name``: its public name, ``KernelEntry.layer_type``. ``title``: what a chart calls it. ``forms`` and ``modes``:
    those that a kernel of it can have."""

    name: str
    title: str
    forms: tuple[str, ...]
    modes: tuple[str, ...]
    task: MakeTask


def _inner_net(layer_type: str, sizes: "LayerSizes", batch: int, form: str, mode: str) -> "Task":
    from ttt_mlflow.micro.inputs import PromptShape, StepShape

    given = (layer_type, form, batch, sizes.heads, sizes.head_dim, sizes.dtype)
    return PromptShape(*given, sizes.promptlen) if mode == "prefill" else StepShape(*given)


def _of_a_layer(name: str, sizes: "LayerSizes", batch: int, form: str, mode: str) -> "Task":
    from ttt_mlflow.micro.layer_tasks import TASKS

    return TASKS[name](sizes, batch)


LAYER_TITLES = {
    "projection": "the projection",
    "o_proj": "the output projection",
    "gate_up": "gate, up and SwiGLU",
    "down_proj": "the down projection",
    "head": "the head",
    "conv_rms_norm": "norms and convolution",
    "qk_conv_rotary": "convolutions and rotation",
    "gated_layer_norm": "the gated norm",
    "add_rms_norm": "the sum and its norm",
    "swiglu": "SwiGLU",
}
OPERATIONS = {
    operation.name: operation
    for operation in (
        *(
            Operation(name, layer.title, ("rank-1", "accumulating"), ("decode", "prefill"), partial(_inner_net, name))
            for name, layer in INNER_LAYERS.items()
        ),
        *(
            Operation(name, title, (KEEPS_NOTHING,), ("decode",), partial(_of_a_layer, name))
            for name, title in LAYER_TITLES.items()
        ),
    )
}
