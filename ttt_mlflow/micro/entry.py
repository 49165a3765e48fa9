"""What a kernel that can be timed has to say about itself."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ttt_mlflow.micro.operations import OPERATIONS, Operation

if TYPE_CHECKING:
    from ttt_mlflow.micro.task import LayerSizes, Task

NAME = re.compile(r"[A-Za-z0-9_.-]{1,100}")  # the name is part of metric names

# One call, with the signature of the operation's reference function: for inner nets, those in
# ttt_mlflow/kernels/*/reference.py; for the others, docs/adding-a-kernel.md.
Step = Callable[..., Any]


def as_returned(returned: Any, *arguments: Any) -> Any:
    """What most kernels return is their result."""
    return returned


@dataclass(frozen=True)
class KernelEntry:
    """A kernel that can be timed.

    layer_type: what it computes: an inner net (``linear``, ``mlp``), or another one of :data:`.operations.OPERATIONS`.
    It determines inputs, bytes and the correct result.
    form: what is kept between the tokens of a mini-batch: ``rank-1`` keeps the tokens' vectors, ``accumulating`` keeps
    sums of the state's size. What is no inner net keeps ``none``. load: imports and returns the step. overlaps: the
    step accepts ``overlap=True``. Its launch may then begin before the previous kernel has ended, provided that the
    previous kernel does not write this step's state. missing: what must be installed first on a device (``cpu``,
    ``cuda``), in one line, or None.
    mode: ``decode`` for a step of one token, ``prefill`` for a prompt of any length. A prompt leaves the vectors of its
    last mini-batch behind, so the form of a prefill kernel is ``rank-1``.
    largest_batch: on the GPU that there is; larger ones are left out. None: it takes any. dtypes: those that it takes;
    any if there are none.
    by_batch: its code depends on the batch, so that it is checked with every batch that is timed.
    finished: makes the operation's result of what the step returned and of its arguments, as the next kernel would.
    It is part of the check and is not timed.
    """

    name: str
    layer_type: str
    form: str
    load: Callable[[], Step]
    description: str
    needs_gpu: bool = False
    overlaps: bool = False
    missing: Callable[[str], str | None] = lambda device: None
    mode: str = "decode"
    largest_batch: Callable[[], int | None] = lambda: None
    dtypes: tuple[str, ...] = ()
    by_batch: bool = False
    finished: Callable[..., Any] = as_returned

    def __post_init__(self) -> None:
        if not NAME.fullmatch(self.name):
            raise ValueError(
                f"kernel {self.name!r}: a name consists of letters, digits and the characters _ . -; 100 at most"
            )
        self._demand(self.layer_type, tuple(OPERATIONS))
        self._demand(self.form, self.operation.forms)
        self._demand(self.mode, self.operation.modes)
        if self.mode == "prefill" and (self.form != "rank-1" or self.overlaps):
            raise ValueError(f"kernel {self.name!r}: a prefill kernel has the form rank-1 and no launches that overlap")

    def _demand(self, value: str, known: tuple[str, ...]) -> None:
        if value not in known:
            raise ValueError(f"kernel {self.name!r}: {value!r} is not one of {', '.join(known)}")

    @property
    def operation(self) -> Operation:
        return OPERATIONS[self.layer_type]

    def takes(self, batch: int) -> bool:
        largest = self.largest_batch()
        return largest is None or batch <= largest

    def task(self, sizes: "LayerSizes", batch: int) -> "Task":
        """What the kernel has to do for ``batch`` sequences."""
        return self.operation.task(sizes, batch, self.form, self.mode)

    def checkable(self, step: Step) -> Step:
        """``step`` as the check calls it: it returns the operation's result."""
        return lambda *arguments: self.finished(step(*arguments), *arguments)
