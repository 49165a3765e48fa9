"""Turns a kernel's launch into one operator that torch.compile does not change.

By default, the compiler launches a Triton kernel in its own way. The last bits of the result can then change, and with
them greedy tokens. On an H200, a compiled TTT-MLP kernel produced only 90 % of the tokens of eager decoding. The cause
was not traced; other assumptions about alignment, and hence another order of summation, are likely. With an operator,
the compiled step launches exactly what the eager step launches.
"""

from collections.abc import Callable, Sequence
from functools import wraps
from typing import TypeVar, cast

import torch

Function = TypeVar("Function", bound=Callable[..., object])


def opaque(*, mutates: Sequence[str] = (), shapes: Callable[..., object]) -> Callable[[Function], Function]:
    """Decorate ``function``. Under torch.compile, it is the operator ``ttt_mlflow::<name>``; otherwise, it is itself.

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
