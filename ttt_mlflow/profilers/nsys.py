"""NVIDIA Nsight Systems around a process of its own: its report, and tables of what is in it.

The profiled process says what is recorded: from ``torch.cuda.profiler.start()`` to ``stop()``, with NVTX ranges as it
likes. nsys is not always on the PATH: it comes inside Nsight Compute and the CUDA toolkit as well.
"""

import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from glob import glob
from itertools import takewhile
from pathlib import Path

from ttt_mlflow.errors import BadInput, RunFailed
from ttt_mlflow.profilers.process import RUN_PID, output, started

REPORT = "report.nsys-rep"
RECORDING = "report.qdstrm"  # what nsys has before its importer makes a report of it
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
# What the run needs of `nsys profile`, each under all its names; options that are passed on take the place of those of
# the same name. No CPU samples and context switches: with them a report of the same program has gigabytes instead of
# kilobytes. A CUDA graph kernel by kernel: left to itself nsys shows it as one.
PROFILE: tuple[tuple[tuple[str, ...], tuple[str, ...]], ...] = (
    (("-s", "--sample"), ("-s", "none")),
    (("--cpuctxsw",), ("--cpuctxsw=none",)),
    (("-t", "--trace"), ("-t", "cuda,nvtx")),
    (("-c", "--capture-range"), ("--capture-range=cudaProfilerApi",)),
    (("--capture-range-end",), ("--capture-range-end=stop",)),
    (("--cuda-graph-trace",), ("--cuda-graph-trace=node",)),
    (("-f", "--force-overwrite"), ("--force-overwrite=true",)),
)
TRACE_OPTIONS = ("-t", "--trace")
OWN_OPTIONS = ("-o", "--output")  # where the report goes is settled
TABLES = ("cuda_gpu_kern_sum", "cuda_api_sum", "nvtx_sum")
EXPORT = "report.sqlite"
TABLE_START = "Time (%),"
PACKAGES = {"libdw.so.1": "libdw1", "libelf.so.1": "libelf1", "libxkbcommon.so.0": "libxkbcommon0"}  # Debian's
ANSWER_S = 30.0  # for its version
STATS_S = 120.0


@dataclass(frozen=True)
class Nsys:
    """An nsys that runs on this machine."""

    path: Path
    version: str


@dataclass(frozen=True)
class NsysOptions:
    """``args`` are passed on to `nsys profile`; ``export``: keep the SQLite export."""

    args: tuple[str, ...] = ()
    export: bool = False

    @classmethod
    def parse(cls, nsys_args: str | None, export: bool) -> "NsysOptions":
        """Options as they would be written on a command line; raise :class:`BadInput` for what cannot be passed on."""
        try:
            words = tuple(shlex.split(nsys_args or ""))
        except ValueError as error:
            raise BadInput(f"nsys_args={nsys_args}: cannot be read ({error}); give options of `nsys profile`") from None
        if stray := _stray(words):
            raise BadInput(f"nsys_args={nsys_args}: {stray} is no option; give options of `nsys profile`")
        if _names(words) & set(OWN_OPTIONS):
            raise BadInput(f"nsys_args={nsys_args}: where the report goes is settled; leave {OWN_OPTIONS[0]} out")
        return cls(words, export)

    @property
    def command(self) -> list[str]:
        """All options of `nsys profile`."""
        given = _names(self.args)
        own = [word for names, words in PROFILE if not given & set(names) for word in words]
        return [*own, *self.args]

    @property
    def chooses_what_is_traced(self) -> bool:
        return bool(_names(self.args) & set(TRACE_OPTIONS))


def _names(words: Sequence[str]) -> set[str]:
    """``-t`` and ``--sample`` of ``-tcuda --sample=none``."""
    return {word.partition("=")[0] if word.startswith("--") else word[:2] for word in words if word.startswith("-")}


def _stray(words: Sequence[str]) -> str | None:
    """The first word that is neither an option nor the value of one: nsys would run it as the program."""
    awaits_value = False
    for word in words:
        if word.strip("-") and word.startswith("-"):
            awaits_value = "=" not in word and (word.startswith("--") or len(word) == 2)
        elif awaits_value and not word.startswith("-"):
            awaits_value = False
        else:
            return word
    return None


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


def profile(
    nsys: Nsys, command: Sequence[str], out_dir: Path, limit_s: float, options: NsysOptions | None = None
) -> None:
    """Run ``command`` under nsys for at most ``limit_s``; leave report, tables and log in ``out_dir``.

    Raises :class:`RunFailed`, in one line, if something of that is missing; what there is stays.
    """
    options = options or NsysOptions()
    out_dir.mkdir(parents=True, exist_ok=True)
    # a name without a folder, so that what nsys prints names no folder of this host
    code = _run([str(nsys.path), "profile", *options.command, "-o", "report", *command], out_dir, limit_s)
    if code is None:
        kept = "".join(f", {name} is kept" for name in (REPORT, RECORDING) if (out_dir / name).exists())
        raise RunFailed(
            f"profile=nsys: the profiled process did not end within {limit_s:g} s and was ended; see {LOG}{kept}"
        )
    if (out_dir / REPORT).exists():
        ended = f"ended with exit code {code}{_last_words(out_dir)}" if code else None
        missing = _write_tables(nsys, out_dir, options)
        if ended or missing:
            raise RunFailed(f"profile=nsys: {'; '.join(filter(None, [ended, missing]))}")
    elif (out_dir / RECORDING).exists():
        raise RunFailed(f"profile=nsys: {_why_not_imported(nsys)}")
    elif code:
        raise RunFailed(f"profile=nsys: ended with exit code {code} and left no report{_last_words(out_dir)}")
    else:
        raise RunFailed(f"profile=nsys: nsys left no report{_last_words(out_dir)}")


def _asked_for_its_version(path: Path, answer_s: float) -> Nsys:
    try:
        done = output([str(path), "--version"], answer_s)
        fault = f"--version ended with exit code {done.returncode}" if done.returncode else None
    except subprocess.TimeoutExpired:
        fault = f"--version did not end within {answer_s:.3g} s"
    except OSError as error:
        fault = str(error.strerror)
    if fault:
        raise BadInput(f"profile=nsys: {path} does not run ({fault}); set {VARIABLE} to one that does")
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
        environment = {**os.environ, "PYTHONPATH": _python_path(), RUN_PID: str(os.getpid())}
        with started(command, cwd=folder, stdout=log, stderr=subprocess.STDOUT, env=environment) as process:
            try:
                return int(process.wait(limit_s))
            except subprocess.TimeoutExpired:
                return None


def _python_path() -> str:
    """This package's place before what was set: the profiled process runs in another folder."""
    package = str(Path(__file__).resolve().parents[2])
    return os.pathsep.join(filter(None, [package, os.environ.get("PYTHONPATH")]))


def _write_tables(nsys: Nsys, out_dir: Path, options: NsysOptions) -> str | None:
    """Kernels, calls of the CUDA API and named ranges as CSV, out of what ``nsys stats`` prints; what is missing."""
    missing = []
    try:
        for name in TABLES:
            table = _table(nsys, out_dir, name)
            if table:
                _write(out_dir / f"{name}.csv", table)
            else:
                missing.append(name)
        if options.export and not (out_dir / EXPORT).exists():
            return f"`nsys stats` left no {EXPORT}; the report is kept, see {LOG}"
    except subprocess.TimeoutExpired:
        return f"`nsys stats` did not end within {STATS_S:g} s; the report is kept"
    finally:
        if not options.export:
            (out_dir / EXPORT).unlink(missing_ok=True)
    if not missing or options.chooses_what_is_traced:
        return None
    return (
        f"`nsys stats` printed no table {' and no table '.join(missing)}; the report is kept, {LOG} has what it printed"
    )


def _write(path: Path, text: str) -> None:
    """The whole file, or none of it: where the disk is full, a beginning would pass for a table."""
    try:
        path.write_text(text)
    except OSError:
        path.unlink(missing_ok=True)
        raise


def _table(nsys: Nsys, out_dir: Path, name: str) -> str | None:
    """One table, or None where nsys printed none. The first makes the export of the report that the others read."""
    # named itself: asked for the report, nsys looks whether its export is older, and went wrong over files made at once
    read = [EXPORT] if (out_dir / EXPORT).exists() else ["--force-export=true", REPORT]
    command = [str(nsys.path), "stats", "-r", name, "--format", "csv", *read]
    done = output(command, STATS_S, cwd=out_dir)
    with (out_dir / LOG).open("a") as log:
        log.write(f"$ {shlex.join(command)}\n{done.stdout}{done.stderr}(exit code {done.returncode})\n")
    lines = done.stdout.splitlines()
    starts = [index for index, line in enumerate(lines) if line.startswith(TABLE_START)]
    if done.returncode or not starts:
        return None
    return "".join(f"{line}\n" for line in takewhile(str.strip, lines[starts[0] :]))


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
