"""Makes a kernel's launch one operator that torch.compile leaves alone.

Left to itself, the compiler launches a Triton kernel in its own way, and the last bits of the result may change, and
with them greedy tokens: seen on an H200 with a TTT-MLP kernel, of whose tokens 90 % were those of eager decode. The
cause was not traced; probably other assumptions about alignment, hence another order of summation. As an operator, the
compiled step launches exactly what the eager step launches.
"""

from collections.abc import Callable, Sequence
from functools import wraps
from typing import TypeVar, cast

import torch

Function = TypeVar("Function", bound=Callable[..., object])


def opaque(*, mutates: Sequence[str] = (), shapes: Callable[..., object]) -> Callable[[Function], Function]:
    """Decorate ``function``: under torch.compile it is the operator ``ttt_mlflow::<name>``, otherwise itself.

    mutates: names of the arguments that it writes to. shapes: takes the same arguments and returns empty outputs.
    """

    def decorate(function: Function) -> Function:
        operator = torch.library.custom_op(
            f"ttt_mlflow::{function.__name__}", cast(Callable[..., object], function), mutates_args=mutates
        )
        operator.register_fake(shapes)

        @wraps(function)
        def call(*args: object, **kwargs: object) -> object:
            return (operator if torch.compiler.is_compiling() else function)(*args, **kwargs)

        return cast(Function, call)

    return decorate
