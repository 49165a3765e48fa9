"""Compile a kernel for a GPU that is not here, and read its registers and spills off the machine code."""

import os
import re
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

TRITON_BIN = Path(triton.__file__).parent / "backends/nvidia/bin"


@dataclass(frozen=True)
class Resources:
    registers: int
    local_bytes: int  # stack and spills
    shared_bytes: int


def cross_compile(kernel, signature: dict[str, str], constants: dict[str, object], capability: int, **options):
    """Compile for sm_<capability>; returns the compiled kernel. Pointers are taken to be 16-byte aligned."""
    names = kernel.arg_names
    types = {name: "constexpr" if name in constants else signature[name] for name in names}
    aligned = {(i,): [["tt.divisibility", 16]] for i, name in enumerate(names) if types[name].startswith("*")}
    aligned |= {(i,): [["tt.divisibility", 16]] for i, name in enumerate(names) if name.endswith("_stride")}
    constexprs = {(names.index(name),): value for name, value in constants.items()}
    source = ASTSource(kernel, types, constexprs, aligned)
    return triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)


def resources(compiled) -> Resources:
    """Registers a thread, local memory a thread and shared memory a program."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(compiled.asm["cubin"])
        file.flush()
        text = subprocess.run(
            [TRITON_BIN / "cuobjdump", "-res-usage", file.name],
            capture_output=True, text=True, check=True, env={**os.environ, "PATH": f"{TRITON_BIN}:{os.environ['PATH']}"},
        ).stdout  # fmt: skip
    found = {name: int(value) for name, value in re.findall(r"(REG|STACK|LOCAL|SHARED):(\d+)", text)}
    return Resources(found["REG"], found["STACK"] + found["LOCAL"], compiled.metadata.shared)
