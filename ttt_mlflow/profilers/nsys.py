"""Runs NVIDIA Nsight Systems around a separate process, and makes its report and tables.

The profiled process decides what is recorded: from ``torch.cuda.profiler.start()`` to ``stop()``, with its own NVTX
ranges. nsys is not always on the PATH. It is also part of Nsight Compute and of the CUDA toolkit.
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
from ttt_mlflow.redaction import environment_without_secrets, without_secrets

REPORT = "report.nsys-rep"
RECORDING = "report.qdstrm"  # the raw recording, before nsys's importer makes a report of it
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
    # Nsight Compute contains a copy
    "/opt/nvidia/nsight-compute*/*/host/target-linux-*/nsys",
    "/usr/local/cuda*/nsight-compute*/host/target-linux-*/nsys",
    "/usr/lib/nsight-compute/host/target-linux-*/nsys",
)
# The options of `nsys profile` that a run needs, each with all its spellings. An option from nsys_args replaces the one
# of the same name. CPU sampling and context switches are off: with them, a report has gigabytes instead of kilobytes.
# The kernels of a CUDA graph are traced one by one; by default, nsys shows a graph as one item.
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
OWN_OPTIONS = ("-o", "--output")  # this tool sets where the report goes
TABLES = ("cuda_gpu_kern_sum", "cuda_api_sum", "nvtx_sum")
EXPORT = "report.sqlite"
TABLE_START = "Time (%),"
PACKAGES = {"libdw.so.1": "libdw1", "libelf.so.1": "libelf1", "libxkbcommon.so.0": "libxkbcommon0"}  # Debian's
ANSWER_S = 30.0  # time limit for printing its version
STATS_S = 120.0


@dataclass(frozen=True)
class Nsys:
    """An nsys that runs on this machine."""

    path: Path
    version: str


@dataclass(frozen=True)
class NsysOptions:
    """``args``: passed on to `nsys profile`. ``export``: whether to keep the SQLite export."""

    args: tuple[str, ...] = ()
    export: bool = False

    @classmethod
    def parse(cls, nsys_args: str | None, export: bool) -> "NsysOptions":
        """Parse options as written on a command line. Raises :class:`BadInput` for what cannot be passed on."""
        try:
            words = tuple(shlex.split(nsys_args or ""))
        except ValueError as error:
            raise BadInput(f"nsys_args={nsys_args}: cannot be read ({error}); give options of `nsys profile`") from None
        if stray := _stray(words):
            raise BadInput(f"nsys_args={nsys_args}: {stray} is not an option; give options of `nsys profile`")
        if _names(words) & set(OWN_OPTIONS):
            raise BadInput(f"nsys_args={nsys_args}: the tool sets where the report goes; leave out {OWN_OPTIONS[0]}")
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
    """The names of the options: ``-t`` and ``--sample`` for ``-tcuda --sample=none``."""
    return {word.partition("=")[0] if word.startswith("--") else word[:2] for word in words if word.startswith("-")}


def _stray(words: Sequence[str]) -> str | None:
    """The first word that is neither an option nor an option's value. nsys would run it as the program."""
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
    """Find nsys in $TTT_NSYS, on the PATH, or where NVIDIA's packages install it, the newest version first.

    Raises :class:`BadInput` if there is none, if it does not run, or if it does not print its version within
    ``answer_s``.
    """
    named = os.environ.get(VARIABLE)
    if named:
        program = shutil.which(os.path.expanduser(named))
        if program is None:
            raise BadInput(f"profile=nsys: {VARIABLE}={named} is not an executable program; set it to the path of nsys")
        return _asked_for_its_version(Path(program), answer_s)
    on_path = shutil.which("nsys")
    installed = [found for pattern in INSTALLED for found in sorted(glob(pattern), key=_numbers, reverse=True)]
    found = [on_path] if on_path else [path for path in installed if os.access(path, os.X_OK)]
    if not found:
        raise BadInput(
            "profile=nsys: nsys (NVIDIA Nsight Systems) was not found on the PATH or where Nsight Systems, Nsight "
            "Compute and the CUDA toolkit install it; install one of them (the package nsight-systems-cli is "
            f"enough), or set {VARIABLE} to the path of nsys"
        )
    return _asked_for_its_version(Path(found[0]), answer_s)


def profile(
    nsys: Nsys, command: Sequence[str], out_dir: Path, limit_s: float, options: NsysOptions | None = None
) -> None:
    """Run ``command`` under nsys for at most ``limit_s``. Report, tables and log go to ``out_dir``.

    Raises :class:`RunFailed`, in one line, if one of them is missing. The others are kept.
    """
    options = options or NsysOptions()
    out_dir.mkdir(parents=True, exist_ok=True)
    # a relative name, so that nsys's output does not contain a folder of this host
    code = _run([str(nsys.path), "profile", *options.command, "-o", "report", *command], out_dir, limit_s)
    if code is None:
        kept = "".join(f", {name} is kept" for name in (REPORT, RECORDING) if (out_dir / name).exists())
        raise RunFailed(
            f"profile=nsys: the profiled process did not end within {limit_s:g} s and was stopped; see {LOG}{kept}"
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
    path = path.absolute()  # it is run in another folder; links stay, because nsys looks for its parts beside its name
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
    """The numbers in a path, for sorting by version."""
    return [int(number) for number in re.findall(r"\d+", path)]


def _run(command: Sequence[str], folder: Path, limit_s: float) -> int | None:
    """Run in ``folder`` with output to the log. Returns the exit code, or None after a timeout."""
    with (folder / LOG).open("a") as log:
        log.write(f"$ {without_secrets(shlex.join(command))}\n")
        log.flush()
        # a report holds the environment of the process that it shows
        environment = {**environment_without_secrets(), "PYTHONPATH": _python_path(), RUN_PID: str(os.getpid())}
        with started(command, cwd=folder, stdout=log, stderr=subprocess.STDOUT, env=environment) as process:
            try:
                return int(process.wait(limit_s))
            except subprocess.TimeoutExpired:
                return None


def _python_path() -> str:
    """PYTHONPATH with this package first, because the profiled process runs in another folder."""
    package = str(Path(__file__).resolve().parents[2])
    return os.pathsep.join(filter(None, [package, os.environ.get("PYTHONPATH")]))


def _write_tables(nsys: Nsys, out_dir: Path, options: NsysOptions) -> str | None:
    """Write kernels, CUDA API calls and named ranges as CSV, from ``nsys stats``. Returns what is missing, or None."""
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
    return f"`nsys stats` printed no table {' and no table '.join(missing)}; the report is kept, {LOG} has its output"


def _write(path: Path, text: str) -> None:
    """Write the whole file or none of it. On a full disk, a truncated file could be mistaken for a table."""
    try:
        path.write_text(text)
    except OSError:
        path.unlink(missing_ok=True)
        raise


def _table(nsys: Nsys, out_dir: Path, name: str) -> str | None:
    """One table, or None if nsys printed none. The first call makes the export that the others read."""
    # The export is named explicitly. Given the report, nsys checks whether its export is older, and that check failed
    # for files that were made at the same time.
    read = [EXPORT] if (out_dir / EXPORT).exists() else ["--force-export=true", REPORT]
    command = [str(nsys.path), "stats", "-r", name, "--format", "csv", *read]
    done = output(command, STATS_S, cwd=out_dir)
    with (out_dir / LOG).open("a") as log:
        said = f"{done.stdout}{done.stderr}(exit code {done.returncode})"
        log.write(without_secrets(f"$ {shlex.join(command)}\n{said}\n"))
    lines = done.stdout.splitlines()
    starts = [index for index, line in enumerate(lines) if line.startswith(TABLE_START)]
    if done.returncode or not starts:
        return None
    return "".join(f"{line}\n" for line in takewhile(str.strip, lines[starts[0] :]))


def _why_not_imported(nsys: Nsys) -> str:
    """Why there is no report of a recording. Most often, a library of nsys's importer is missing."""
    kept = f"the recording is kept as {RECORDING}"
    importer = _importer(nsys.path)
    if importer is None:
        return f"nsys made no report of its recording, see {LOG}; {kept}"
    missing = _missing_libraries(importer)
    finish = f"`{shlex.quote(str(importer))} -i {RECORDING}` makes the report"
    if not missing:
        return f"nsys made no report of its recording, see {LOG}; {kept}, and {finish}"
    named = f"{', '.join(missing)}{_packages(missing)}"
    return f"nsys's importer needs {named}; {kept}; once that is installed, {finish}"


def importer_fault(nsys: Nsys) -> str | None:
    """Why no report can be made of a recording, and what to do; None if reports can be made."""
    importer = _importer(nsys.path)
    missing = _missing_libraries(importer) if importer else []
    return f"its importer needs {', '.join(missing)}{_packages(missing)}" if missing else None


def _packages(libraries: Sequence[str]) -> str:
    """How to install ``libraries``, if that is known."""
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
