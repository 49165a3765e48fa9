"""Compile a kernel for a GPU that is not here, and read its registers and spills off the machine code."""

import os
import re
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from triton.experimental.gluon._runtime import GluonASTSource

TRITON_BIN = Path(triton.__file__).parent / "backends/nvidia/bin"
CONSTANTS = {"HEADS": 32, "EPS": 1e-6, "SLOTS": 16, "TOKENS": 16}
OTHER_TYPES = {
    **dict.fromkeys(("lr", "eta", "out_lr", "cos", "sin", "partial_out", "partial_lse"), "*fp32"),
    **dict.fromkeys(("state", "a_log", "dt_bias"), "*fp32"),  # of the peers
    "position": "*i32",
    **dict.fromkeys(("table", "fed", "best", "next_tokens"), "*i64"),
}
SCALARS = {
    **{"total_heads": "i32", "base_lr": "fp32", "length": "i32", "count": "i32"},
    **{"splits": "i32", "scale": "fp32", "tokens": "i32", "batch": "i32", "words": "i32", "zero": "i32"},
}


@dataclass(frozen=True)
class Resources:
    """Registers a thread, local memory (stack and spills) a thread, shared memory a program; both in bytes."""

    registers: int
    local_bytes: int
    shared_bytes: int


def cross_compile(
    kernel: Any,
    dtype: str,
    capability: int,
    constants: Mapping[str, object],
    types: Mapping[str, str] | None = None,
    **options: Any,
) -> Any:
    """Compile for sm_<capability> with tensors of ``dtype`` (fp16, bf16, fp32), 16-byte aligned, as PyTorch's are.

    types: of arguments that have another type than those of this name otherwise.
    """
    names = kernel.arg_names
    constants = {name: value for name, value in {**CONSTANTS, **constants}.items() if name in names}
    given, types = types or {}, {}
    for name in names:
        if name in constants:
            types[name] = "constexpr"
        elif name.endswith("_stride"):
            types[name] = "i32"
        else:
            types[name] = given.get(name) or SCALARS.get(name) or OTHER_TYPES.get(name, f"*{dtype}")
    divisible = [["tt.divisibility", 16]]
    aligned = {
        (i,): divisible
        for i, name in enumerate(names)
        if types[name].startswith("*") or name.endswith("_stride") or name == "zero"
    }
    source = GluonASTSource if kernel.is_gluon() else ASTSource
    values = {(names.index(name),): value for name, value in constants.items()}
    return triton.compile(source(kernel, types, values, aligned), GPUTarget("cuda", capability, 32), options)


def machine_code(compiled: Any) -> list[str]:
    """The names of its instructions, in order."""
    return re.findall(r"/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\d+\s+)?([A-Z][\w.]*)", _read_off(compiled, "-sass"))


def _read_off(compiled: Any, option: str) -> str:
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(compiled.asm["cubin"])
        file.flush()
        return subprocess.run(
            [TRITON_BIN / "cuobjdump", option, file.name],
            capture_output=True,
            text=True,
            check=True,
            env={**os.environ, "PATH": f"{TRITON_BIN}:{os.environ['PATH']}"},
        ).stdout


def resources(compiled: Any) -> Resources:
    """What the machine code asks for."""
    text = _read_off(compiled, "-res-usage")
    found = {name: int(value) for name, value in re.findall(r"(REG|STACK|LOCAL):(\d+)", text)}
    return Resources(found["REG"], found["STACK"] + found["LOCAL"], compiled.metadata.shared)
