"""Where compilers keep what they compile: folders that can be written to, found before anything is built."""

import os
import tempfile
from pathlib import Path

from ttt_mlflow.errors import BadInput

WRITTEN_BYTES = 1 << 20
KERNELS = "TRITON_CACHE_DIR"
COMPILED = "TORCHINDUCTOR_CACHE_DIR"


def existing(folder: Path) -> Path:
    """``folder``, or its nearest parent that exists."""
    absolute = folder.absolute()
    return next(path for path in (absolute, *absolute.parents) if path.exists())


def write_fault(folder: Path) -> str | None:
    """Why ``folder`` is not writable, or None if it is. The check writes a file and removes it at once."""
    try:
        with tempfile.TemporaryFile(dir=existing(folder)) as file:
            file.write(bytes(WRITTEN_BYTES))
            file.flush()
    except OSError as error:
        return f"is not writable ({error.strerror or error})"
    return None


def kernel_cache_fault(folder: Path) -> str | None:
    """Why Triton's cache ``folder`` cannot be used, or None if it can."""
    if str(folder).startswith("~"):  # Triton would make a folder of this name where the program was started
        return "is in no folder, because this user has no home folder (HOME is not set)"
    return write_fault(folder)


def choose_kernel_cache(notices: list[str]) -> None:
    """Let Triton, in this process and those that it starts, keep its kernels where it may write.

    In some containers a user has no home folder, or one that is read-only. Raises BadInput if there is no other folder.
    """
    import triton

    folder = Path(triton.knobs.cache.dir)
    fault = kernel_cache_fault(folder)
    if fault is None:
        return
    if os.environ.get(KERNELS):
        raise BadInput(f"{KERNELS}={folder}: it {fault}; set it to a folder with free space")
    try:
        other = Path(tempfile.gettempdir()) / f"ttt-mlflow-{os.getuid()}" / "triton"
        other.parent.mkdir(mode=0o700, exist_ok=True)
        if other.parent.is_symlink() or other.parent.stat().st_uid != os.getuid():
            other = Path(tempfile.mkdtemp(prefix="ttt-mlflow-")) / "triton"
        if fault_of_other := write_fault(other):
            raise OSError(None, f"{other} {fault_of_other}")
    except OSError as error:
        raise BadInput(
            f"Triton's cache {folder} {fault}, and there is no other folder ({error.strerror or error}); set {KERNELS} "
            "to a folder with free space"
        ) from None
    os.environ[KERNELS] = str(other)
    notices.append(f"Triton's cache {folder} {fault}; {other} is used instead; {KERNELS} names another one")


def check_compiler_cache() -> None:
    """Raise BadInput if torch.compile cannot write what it compiles."""
    named = os.environ.get(COMPILED)
    try:
        folder = Path(named or tempfile.gettempdir())
    except OSError:  # Python has tried all that there are
        raise BadInput(
            "use_compile=true: no folder for temporary files can be written to; set TMPDIR to one with free space, or "
            "use_compile to false"
        ) from None
    if fault := write_fault(folder):
        variable = COMPILED if named else "TMPDIR"
        raise BadInput(
            f"use_compile=true: {folder}, where the compiler writes, {fault}; free some space there, set {variable} to "
            "another folder, or use_compile to false"
        )
