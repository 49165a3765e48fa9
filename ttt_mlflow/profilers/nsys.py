"""NVIDIA Nsight Systems around a process of its own: its report, and a table of the GPU's kernels.

The profiled process says what is recorded: from ``torch.cuda.profiler.start()`` to ``stop()``, with NVTX ranges as it
likes. nsys is not always on the PATH: it comes inside Nsight Compute and the CUDA toolkit as well.
"""

import os
import re
import shlex
import shutil
import signal
import subprocess
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from glob import glob
from pathlib import Path

import psutil

from ttt_mlflow.errors import BadInput, RunFailed

REPORT = "report.nsys-rep"
RECORDING = "report.qdstrm"  # what nsys has before its importer makes a report of it
KERNELS = "cuda_gpu_kern_sum.csv"
LOG = "nsys.log"
VARIABLE = "TTT_NSYS"
INSTALLED = (
    "/opt/nvidia/nsight-systems*/*/bin/nsys",
    "/opt/nvidia/nsight-systems*/*/target-linux-*/nsys",
    "/usr/local/cuda*/bin/nsys",
    "/usr/local/cuda*/nsight-systems*/bin/nsys",
    "/usr/local/cuda*/nsight-systems*/target-linux-*/nsys",
    "/usr/lib/nsight-systems/bin/nsys",
    "/usr/lib/nsight-systems/target-linux-*/nsys",
    # Nsight Compute brings one along
    "/opt/nvidia/nsight-compute*/*/host/target-linux-*/nsys",
    "/usr/local/cuda*/nsight-compute*/host/target-linux-*/nsys",
    "/usr/lib/nsight-compute/host/target-linux-*/nsys",
)
# No CPU samples and context switches: with them a report of the same program has gigabytes instead of kilobytes.
PROFILE = (
    *("profile", "-s", "none", "--cpuctxsw=none", "-t", "cuda,nvtx"),
    *("--capture-range=cudaProfilerApi", "--capture-range-end=stop", "--force-overwrite=true"),
)
STATS = ("stats", "-r", "cuda_gpu_kern_sum", "--format", "csv", "--force-export=true")
TABLE_START = "Time (%),"
PACKAGES = {"libdw.so.1": "libdw1", "libelf.so.1": "libelf1", "libxkbcommon.so.0": "libxkbcommon0"}  # Debian's
ANSWER_S = 30.0  # for its version
STATS_S = 120.0
GRACE_S = 10.0  # between asking a process to end and ending it


@dataclass(frozen=True)
class Nsys:
    """An nsys that runs on this machine."""

    path: Path
    version: str


def find_nsys(answer_s: float = ANSWER_S) -> Nsys:
    """nsys from $TTT_NSYS, the PATH, or where NVIDIA's packages put it, the newest first.

    Raises :class:`BadInput` if there is none, or it does not run, or does not say its version within ``answer_s``.
    """
    named = os.environ.get(VARIABLE)
    if named:
        if not os.access(named, os.X_OK) or Path(named).is_dir():
            raise BadInput(f"profile=nsys: {VARIABLE}={named} is not a program that can be run; set it to nsys' path")
        return _asked_for_its_version(Path(named), answer_s)
    on_path = shutil.which("nsys")
    installed = [found for pattern in INSTALLED for found in sorted(glob(pattern), key=_numbers, reverse=True)]
    found = [on_path] if on_path else [path for path in installed if os.access(path, os.X_OK)]
    if not found:
        raise BadInput(
            "profile=nsys: nsys (NVIDIA Nsight Systems) is not found, neither on the PATH nor where Nsight Systems, "
            "Nsight Compute and the CUDA toolkit put it; install one of them (the package nsight-systems-cli is "
            f"enough), or set {VARIABLE} to its path"
        )
    return _asked_for_its_version(Path(found[0]), answer_s)


def profile(nsys: Nsys, command: Sequence[str], out_dir: Path, limit_s: float) -> None:
    """Run ``command`` under nsys for at most ``limit_s``; leave report, kernel table and log in ``out_dir``.

    Raises :class:`RunFailed`, in one line, if something of that is missing; what there is stays.
    """
    out_dir.mkdir(parents=True, exist_ok=True)
    # a name without a folder, so that what nsys prints names no folder of this host
    code = _run([str(nsys.path), *PROFILE, "-o", "report", *command], out_dir, limit_s)
    if code is None:
        raise RunFailed(f"profile=nsys: the profiled process did not end within {limit_s:g} s and was ended; see {LOG}")
    if (out_dir / REPORT).exists():
        _write_kernel_table(nsys, out_dir)
        if code:
            raise RunFailed(f"profile=nsys: ended with exit code {code}{_last_words(out_dir)}")
    elif (out_dir / RECORDING).exists():
        raise RunFailed(f"profile=nsys: {_why_not_imported(nsys)}")
    elif code:
        raise RunFailed(f"profile=nsys: ended with exit code {code} and left no report{_last_words(out_dir)}")
    else:
        raise RunFailed(f"profile=nsys: nsys left no report{_last_words(out_dir)}")


def _asked_for_its_version(path: Path, answer_s: float) -> Nsys:
    try:
        done = subprocess.run([path, "--version"], capture_output=True, text=True, timeout=answer_s, check=True)
    except (OSError, subprocess.SubprocessError) as error:
        said = " ".join(str(error).split())
        raise BadInput(f"profile=nsys: {path} does not run ({said}); set {VARIABLE} to one that does") from None
    version = re.search(r"\d+(?:\.\d+)+\S*", done.stdout)
    return Nsys(path, version[0] if version else done.stdout.strip())


def _numbers(path: str) -> list[int]:
    """The version in a path, as numbers to sort by."""
    return [int(number) for number in re.findall(r"\d+", path)]


def _run(command: Sequence[str], folder: Path, limit_s: float) -> int | None:
    """Run in ``folder``, output to the log; the exit code, or None if it had to be ended."""
    with (folder / LOG).open("a") as log:
        log.write(f"$ {shlex.join(command)}\n")
        log.flush()
        process = subprocess.Popen(
            command,
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env={**os.environ, "PYTHONPATH": _python_path()},
            start_new_session=True,
        )
        try:
            return process.wait(limit_s)
        except subprocess.TimeoutExpired:
            return None
        finally:
            _end(process)


def _python_path() -> str:
    """This package's place before what was set: the profiled process runs in another folder."""
    package = str(Path(__file__).resolve().parents[2])
    return os.pathsep.join(filter(None, [package, os.environ.get("PYTHONPATH")]))


def _end(process: "subprocess.Popen[bytes]") -> None:
    """End the process and all that it has started, if it has not ended."""
    if process.poll() is not None:
        return
    parent = psutil.Process(process.pid)
    family = [parent, *parent.children(recursive=True)]
    for signum in (signal.SIGTERM, signal.SIGKILL):
        for member in family:
            with suppress(psutil.NoSuchProcess):
                member.send_signal(signum)
        _, family = psutil.wait_procs(family, GRACE_S)
    process.wait()


def _write_kernel_table(nsys: Nsys, out_dir: Path) -> None:
    """The kernels' sums as CSV, out of what ``nsys stats`` prints."""
    command = [str(nsys.path), *STATS, REPORT]
    try:
        done = subprocess.run(command, cwd=out_dir, capture_output=True, text=True, timeout=STATS_S)
    except subprocess.TimeoutExpired:
        raise RunFailed(f"profile=nsys: `nsys stats` did not end within {STATS_S:g} s; the report is kept") from None
    finally:
        (out_dir / REPORT).with_suffix(".sqlite").unlink(missing_ok=True)  # its copy of the report
    with (out_dir / LOG).open("a") as log:
        log.write(f"$ {shlex.join(command)}\n{done.stdout}{done.stderr}")
    lines = done.stdout.splitlines()
    starts = [index for index, line in enumerate(lines) if line.startswith(TABLE_START)]
    if done.returncode or not starts:
        raise RunFailed(
            f"profile=nsys: `nsys stats` printed no table of kernels (exit code {done.returncode}); the report is "
            f"kept, {LOG} has what it printed"
        )
    table = []
    for line in lines[starts[0] :]:
        if not line.strip():
            break
        table.append(line)
    (out_dir / KERNELS).write_text("\n".join(table) + "\n")


def _why_not_imported(nsys: Nsys) -> str:
    """Why a recording stayed without a report: most often a library that nsys' importer needs."""
    kept = f"what was recorded is kept as {RECORDING}"
    importer = _importer(nsys.path)
    if importer is None:
        return f"nsys made no report of what it recorded, see {LOG}; {kept}"
    missing = _missing_libraries(importer)
    finish = f"`{shlex.quote(str(importer))} -i {RECORDING}` makes the report"
    if not missing:
        return f"nsys made no report of what it recorded, see {LOG}; {kept}, and {finish}"
    named = f"{', '.join(missing)}{_packages(missing)}"
    return f"nsys' importer does not run without {named}; {kept}; once that is there, {finish}"


def importer_fault(nsys: Nsys) -> str | None:
    """Why no report could be made of a recording, and what to do; None where nothing stands in the way."""
    importer = _importer(nsys.path)
    missing = _missing_libraries(importer) if importer else []
    return f"its importer does not run without {', '.join(missing)}{_packages(missing)}" if missing else None


def _packages(libraries: Sequence[str]) -> str:
    """How to install ``libraries``, as far as it is known."""
    packages = [PACKAGES[name] for name in libraries if name in PACKAGES]
    return f" (on Debian and Ubuntu: apt-get install {' '.join(packages)})" if packages else ""


def _importer(nsys: Path) -> Path | None:
    """The program of the same installation that makes a report of a recording."""
    for root in list(nsys.resolve().parents)[1:4]:
        for pattern in ("QdstrmImporter", "*/QdstrmImporter", "*/*/QdstrmImporter"):
            for found in sorted(root.glob(pattern)):
                return found
    return None


def _missing_libraries(program: Path) -> list[str]:
    try:
        done = subprocess.run(["ldd", program], capture_output=True, text=True, timeout=ANSWER_S)
    except (OSError, subprocess.SubprocessError):
        return []
    return list(dict.fromkeys(re.findall(r"^\s*(\S+) => not found", done.stdout, re.MULTILINE)))


def _last_words(out_dir: Path) -> str:
    """The last line of the log, for a message."""
    lines = [line.strip() for line in (out_dir / LOG).read_text(errors="replace").splitlines() if line.strip()]
    return f": {lines[-1][:300]}" if len(lines) > 1 else f"; see {LOG}"
