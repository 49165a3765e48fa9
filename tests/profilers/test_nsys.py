"""nsys as it may be found and as it may end, played by a shell script."""

import csv
import errno
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import psutil
import pytest
from pydantic import BaseModel

from tests.profilers.fake_nsys import RECORD, STATS, FakeNsys, python
from tests.project import ROOT, wait_until
from ttt_mlflow.config import MicroConfig, RunConfig
from ttt_mlflow.errors import BadInput, RunFailed
from ttt_mlflow.micro import nsys_child as micro_nsys_child
from ttt_mlflow.micro.nsys_child import Order
from ttt_mlflow.profilers import nsys as nsys_module
from ttt_mlflow.profilers.nsys import INSTALLED, TABLES, VARIABLE, NsysOptions, find_nsys, profile
from ttt_mlflow.profilers.process import RUN_PID
from ttt_mlflow.run import nsys_child

TABLE_FILES = ("cuda_gpu_kern_sum.csv", "cuda_api_sum.csv", "nvtx_sum.csv")
HELLO = python("print('hello from the program')")


@pytest.fixture
def nowhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A machine without nsys; the folder in which it looks for installations."""
    root = tmp_path / "machine"
    monkeypatch.delenv(VARIABLE, raising=False)
    monkeypatch.setenv("PATH", "/bin")
    monkeypatch.setattr(nsys_module, "INSTALLED", tuple(f"{root}{pattern}" for pattern in INSTALLED))
    monkeypatch.setattr("shutil.which", lambda name: None)
    return root


def files(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


# Finding it


def test_a_missing_nsys_says_how_to_get_it(nowhere: Path) -> None:
    with pytest.raises(BadInput) as refused:
        find_nsys()
    message = str(refused.value)
    assert message.startswith("profile=nsys: nsys (NVIDIA Nsight Systems) was not found")
    assert "nsight-systems-cli" in message
    assert VARIABLE in message
    assert len(message.splitlines()) == 1


def test_it_is_found_where_the_variable_says(tmp_path: Path) -> None:
    fake = FakeNsys(tmp_path)
    found = fake.find()
    assert (found.path, found.version) == (fake.path, "2025.3.1.90-253135822126v0")


def test_a_variable_that_names_no_program(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for path in (tmp_path / "nothing", tmp_path):
        monkeypatch.setenv(VARIABLE, str(path))
        with pytest.raises(BadInput, match=f"{VARIABLE}={path} is not an executable program"):
            find_nsys()


@pytest.mark.parametrize("how", ["./host/nsys", "host/nsys", "~/host/nsys", "nsys", "PATH=host", "PATH="])
def test_a_relative_path_is_one_from_here(how: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The profile runs in another folder."""
    fake, host = FakeNsys(tmp_path / "nsight"), tmp_path / "host"
    host.mkdir()
    (host / "nsys").symlink_to(fake.path)
    folder, path = (host if how == "PATH=" else tmp_path), os.environ["PATH"]
    monkeypatch.chdir(folder)
    monkeypatch.setenv("HOME", str(tmp_path))
    first = how.removeprefix("PATH=") if how.startswith("PATH=") else str(host) if how == "nsys" else "/nowhere"
    monkeypatch.setenv("PATH", f"{first}{os.pathsep}{path}")
    if not how.startswith("PATH="):
        monkeypatch.setenv(VARIABLE, how)
    found = find_nsys()
    assert found.path == host / "nsys", "where it is, and not what it is a link to"
    profile(found, HELLO, tmp_path / "out", limit_s=60)
    assert (tmp_path / "out/report.nsys-rep").exists()


def test_it_is_found_on_the_path(nowhere: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    fake = FakeNsys(tmp_path)
    monkeypatch.setattr("shutil.which", lambda name: str(fake.path) if name == "nsys" else None)
    assert find_nsys().path == fake.path


@pytest.mark.parametrize(
    "place",
    [
        "opt/nvidia/nsight-systems/2025.3.1/bin",
        "usr/local/cuda-13.0/bin",
        "usr/local/cuda-13.0/nsight-systems-2025.3/target-linux-x64",
        "opt/nvidia/nsight-compute/2025.3.0/host/target-linux-x64",
        "usr/local/cuda/nsight-compute-2025.3/host/target-linux-x64",
    ],
)
def test_it_is_found_where_nvidias_packages_put_it(place: str, nowhere: Path, tmp_path: Path) -> None:
    fake = FakeNsys(tmp_path)
    target = nowhere / place / "nsys"
    target.parent.mkdir(parents=True)
    fake.path.rename(target)
    assert find_nsys().path == target


def test_the_newest_installation_is_taken(nowhere: Path, tmp_path: Path) -> None:
    for version in ("2024.6.2", "2025.10.1", "2025.9.3"):
        fake = FakeNsys(tmp_path / version)
        target = nowhere / f"opt/nvidia/nsight-systems/{version}/bin/nsys"
        target.parent.mkdir(parents=True)
        fake.path.rename(target)
    assert "2025.10.1" in str(find_nsys().path)


@pytest.mark.parametrize(
    ("answer", "fault"),
    [("exit 1", "--version ended with exit code 1"), ("exec sleep 60", "--version did not end within 0.5 s")],
)
def test_one_that_does_not_run_is_refused(
    answer: str, fault: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = FakeNsys(tmp_path, answer=answer)
    monkeypatch.setenv(nsys_module.VARIABLE, str(fake.path))
    with pytest.raises(BadInput) as refused:
        find_nsys(answer_s=0.5)
    assert str(refused.value) == f"profile=nsys: {fake.path} does not run ({fault}); set {VARIABLE} to one that does"


def test_one_of_another_machine_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeNsys(tmp_path)
    fake.path.write_bytes(b"\x7fELF and no more")
    monkeypatch.setenv(nsys_module.VARIABLE, str(fake.path))
    with pytest.raises(BadInput, match=r"does not run \(Exec format error\)"):
        find_nsys()


# Profiling


def test_report_table_and_log(tmp_path: Path) -> None:
    out = tmp_path / "out"
    profile(FakeNsys(tmp_path).find(), HELLO, out, limit_s=60)
    assert files(out) == {"report.nsys-rep", *TABLE_FILES, "nsys.log"}
    with (out / "cuda_gpu_kern_sum.csv").open() as table:
        rows = list(csv.DictReader(table))
    assert [(row["Name"], row["Instances"]) for row in rows] == [("linear_decode(float *, int)", "2"), ("fill", "1")]
    for name, column in (("cuda_api_sum.csv", "Num Calls"), ("nvtx_sum.csv", "Range")):
        with (out / name).open() as table:
            assert column in next(csv.reader(table))
    log = (out / "nsys.log").read_text()
    assert "hello from the program" in log
    assert (
        "profile -s none --cpuctxsw=none -t cuda,nvtx --capture-range=cudaProfilerApi --capture-range-end=stop" in log
    )


def test_the_program_finds_this_package_from_its_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PYTHONPATH", raising=False)
    out = tmp_path / "out"
    profile(FakeNsys(tmp_path).find(), python("import ttt_mlflow as t; print(t.__file__)"), out, limit_s=60)
    assert str(Path(nsys_module.__file__).parents[1] / "__init__.py") in (out / "nsys.log").read_text()


def failure(fake: FakeNsys, out: Path, command: list[str] = HELLO, limit_s: float = 60) -> str:
    with pytest.raises(RunFailed) as failed:
        profile(fake.find(), command, out, limit_s)
    assert (out / "nsys.log").exists()
    assert len(str(failed.value).splitlines()) == 1
    return str(failed.value)


def test_a_program_that_crashes(tmp_path: Path) -> None:
    out = tmp_path / "out"
    message = failure(FakeNsys(tmp_path), out, python("raise SystemExit('no such kernel')"))
    assert message == "profile=nsys: ended with exit code 1 and left no report: no such kernel"
    assert files(out) == {"nsys.log"}


def test_a_program_that_crashes_after_it_was_recorded(tmp_path: Path) -> None:
    out = tmp_path / "out"
    message = failure(FakeNsys(tmp_path, profile='"$@"; echo a report > "$stem.nsys-rep"; exit 7'), out)
    assert message == "profile=nsys: ended with exit code 7: hello from the program"
    assert files(out) == {"report.nsys-rep", *TABLE_FILES, "nsys.log"}, "what there is stays"


def test_a_report_that_broke_off(tmp_path: Path) -> None:
    """As on a full disk: why it did is said before what follows from it."""
    fake = FakeNsys(tmp_path, '"$@"; echo half > "$stem.nsys-rep"; echo no space left; exit 1', "exit 1")
    assert failure(fake, tmp_path / "out").startswith(
        "profile=nsys: ended with exit code 1: no space left; `nsys stats` printed no table cuda_gpu_kern_sum"
    )


def test_a_report_that_is_not_there(tmp_path: Path) -> None:
    message = failure(FakeNsys(tmp_path, profile="echo nothing was captured"), tmp_path / "out")
    assert message == "profile=nsys: nsys left no report: nothing was captured"


def test_a_hanging_program_is_ended_with_all_that_it_started(tmp_path: Path) -> None:
    out = tmp_path / "out"
    pids = tmp_path / "pids"
    code = (
        "import subprocess, os, sys, time; child = subprocess.Popen(['sleep', '600'], start_new_session=True);"
        f"open({str(pids)!r}, 'w').write(f'{{os.getpid()}} {{child.pid}}'); time.sleep(600)"
    )
    message = failure(FakeNsys(tmp_path), out, python(code), limit_s=3)
    assert message == "profile=nsys: the profiled process did not end within 3 s and was stopped; see nsys.log"
    assert files(out) == {"nsys.log"}
    for pid in map(int, pids.read_text().split()):
        assert not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


def test_what_a_hanging_nsys_had_recorded_is_kept(tmp_path: Path) -> None:
    out = tmp_path / "out"
    message = failure(FakeNsys(tmp_path, profile='echo > "$stem.qdstrm"; sleep 600'), out, limit_s=1)
    assert message.endswith("was stopped; see nsys.log, report.qdstrm is kept")
    assert files(out) == {"report.qdstrm", "nsys.log"}


def test_an_interruption_ends_the_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from subprocess import Popen

    started: list[Popen[bytes]] = []

    def interrupted(process: Popen[bytes], timeout: float | None = None) -> int:
        started.append(process)
        monkeypatch.undo()
        raise KeyboardInterrupt

    nsys = FakeNsys(tmp_path).find()
    monkeypatch.setattr(Popen, "wait", interrupted)
    with pytest.raises(KeyboardInterrupt):
        profile(nsys, python("import time; time.sleep(600)"), tmp_path / "out", 60)
    assert started[0].poll() is not None


# Options


def options(text: str | None, export: bool = False) -> NsysOptions:
    return NsysOptions.parse(text, export)


def test_options_that_are_passed_on_take_the_place_of_ours(tmp_path: Path) -> None:
    ours = options(None).command
    assert options("--gpu-metrics-devices=all -y 2").command == [*ours, "--gpu-metrics-devices=all", "-y", "2"]
    sampled = options("--sample=process-tree -t 'cuda,nvtx,osrt'").command
    assert sampled[-3:] == ["--sample=process-tree", "-t", "cuda,nvtx,osrt"]
    assert sampled.count("-t") == 1
    assert "-s" not in sampled
    assert "--cuda-graph-trace=node" in sampled
    assert "cuda,nvtx" not in options("-tcuda").command, "nsys takes a value without a space, too"


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("-t 'cuda", "cannot be read (No closing quotation); give options of `nsys profile`"),
        ("cuda", "cuda is not an option; give options of `nsys profile`"),
        ("-t cuda python", "python is not an option; give options of `nsys profile`"),
        ("--trace=cuda python", "python is not an option; give options of `nsys profile`"),
        ("-t cuda --", "-- is not an option; give options of `nsys profile`"),
        ("-t cuda -o elsewhere", "the tool sets where the report goes; leave out -o"),
        ("-oelsewhere", "the tool sets where the report goes; leave out -o"),
        ("--output=elsewhere", "the tool sets where the report goes; leave out -o"),
    ],
)
def test_options_that_cannot_be_passed_on(text: str, fault: str) -> None:
    with pytest.raises(BadInput) as refused:
        options(text)
    assert str(refused.value) == f"nsys_args={text}: {fault}"


def test_the_export_is_kept_if_asked_for(tmp_path: Path) -> None:
    out = tmp_path / "out"
    profile(FakeNsys(tmp_path).find(), HELLO, out, 60, options("-t cuda", export=True))
    assert files(out) == {"report.nsys-rep", *TABLE_FILES, "report.sqlite", "nsys.log"}
    assert "-t cuda -o report" in (out / "nsys.log").read_text()


def test_a_table_of_what_was_not_traced_is_not_missed(tmp_path: Path) -> None:
    no_ranges = STATS.replace("nvtx_sum) table=", "nvtx_sum) echo SKIPPED; exit 0; table=")
    fake = FakeNsys(tmp_path, stats=no_ranges)
    out = tmp_path / "out"
    profile(fake.find(), HELLO, out, 60, options("-t cuda"))
    assert files(out) == {"report.nsys-rep", "cuda_gpu_kern_sum.csv", "cuda_api_sum.csv", "nsys.log"}
    assert "printed no table nvtx_sum;" in failure(fake, tmp_path / "again")


# The importer, without a library


def importer(fake: FakeNsys, needs: str) -> Path:
    """A program that the loader cannot start, told by a stand-in for ldd."""
    path = fake.path.parents[1] / "linux-desktop-glibc_2_11_3-x64" / "QdstrmImporter"
    path.parent.mkdir()
    path.write_text(needs)
    return path


def with_ldd(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """ldd that prints the file that it is asked about."""
    ldd = folder / "bin" / "ldd"
    ldd.parent.mkdir()
    ldd.write_text('#!/bin/sh\nexec cat "$1"\n')
    ldd.chmod(0o755)
    monkeypatch.setenv("PATH", f"{ldd.parent}{os.pathsep}{os.environ['PATH']}")


RECORDING_ONLY = '"$@"; echo a recording > "$stem.qdstrm"; exit 0'


def test_a_missing_library_is_named_with_what_finishes_the_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_ldd(tmp_path, monkeypatch)
    fake = FakeNsys(tmp_path, profile=RECORDING_ONLY)
    program = importer(fake, "\tlibdw.so.1 => not found\n\tlibc.so.6 => /lib/libc.so.6 (0x1)\n")
    out = tmp_path / "out"
    assert failure(fake, out) == (
        "profile=nsys: nsys's importer needs libdw.so.1 (on Debian and Ubuntu: apt-get install libdw1); "
        f"the recording is kept as report.qdstrm; once that is installed, `{program} -i report.qdstrm` makes the report"
    )
    assert files(out) == {"report.qdstrm", "nsys.log"}


def test_an_importer_that_fails_for_another_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with_ldd(tmp_path, monkeypatch)
    fake = FakeNsys(tmp_path, profile=RECORDING_ONLY)
    program = importer(fake, "\tlibc.so.6 => /lib/libc.so.6 (0x1)\n")
    message = failure(fake, tmp_path / "out")
    assert "see nsys.log" in message
    assert f"`{program} -i report.qdstrm` makes the report" in message


def test_no_importer_at_all(tmp_path: Path) -> None:
    # deep, for the importer is looked for in the folders around nsys, and other tests put one beside theirs
    message = failure(FakeNsys(tmp_path / "a" / "b", profile=RECORDING_ONLY), tmp_path / "out")
    assert message == (
        "profile=nsys: nsys made no report of its recording, see nsys.log; the recording is kept as report.qdstrm"
    )


# The table


def test_an_export_that_looks_older_than_its_report(tmp_path: Path) -> None:
    """Seen on a GPU host: nsys then printed the first table alone."""
    later = f'{RECORD}; touch -t 209901010000 "$stem.nsys-rep"'
    out = tmp_path / "out"
    profile(FakeNsys(tmp_path, profile=later).find(), HELLO, out, 60)
    assert {f"{name}.csv" for name in TABLES} <= files(out)


@pytest.mark.parametrize("stats", ["echo 'does not contain CUDA kernel data'", "echo broken >&2; exit 1"])
def test_a_report_without_kernels_is_kept_and_said(stats: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    message = failure(FakeNsys(tmp_path, stats=stats), out)
    assert message.startswith("profile=nsys: `nsys stats` printed no table cuda_gpu_kern_sum and no table cuda_api_sum")
    assert files(out) == {"report.nsys-rep", "nsys.log"}
    assert "CUDA kernel data" in (out / "nsys.log").read_text() or "broken" in (out / "nsys.log").read_text()


def test_stats_that_hang(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nsys_module, "STATS_S", 0.5)
    out = tmp_path / "out"
    message = failure(FakeNsys(tmp_path, stats="exec sleep 60"), out)
    assert message == "profile=nsys: `nsys stats` did not end within 0.5 s; the report is kept"
    assert files(out) == {"report.nsys-rep", "nsys.log"}


def test_half_a_table_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The disk is full while the second one is written."""
    write = Path.write_text

    def write_text(path: Path, text: str) -> int:
        if path.name == TABLE_FILES[1]:
            write(path, text[:10])
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(path, text)

    fake, out = FakeNsys(tmp_path), tmp_path / "out"
    monkeypatch.setattr(Path, "write_text", write_text)
    with pytest.raises(OSError, match="No space left"):
        profile(fake.find(), HELLO, out, 60)
    assert files(out) == {"report.nsys-rep", TABLE_FILES[0], "nsys.log"}


def test_what_is_profiled_ends_with_a_run_that_is_killed_outright(tmp_path: Path) -> None:
    """Which can end nothing itself: neither nsys nor what it records, which holds the GPU's memory."""
    fake, ids = FakeNsys(tmp_path), tmp_path / "ids"
    waits = f"""import os, time
from ttt_mlflow.profilers.process import end_with_the_run
end_with_the_run()
open({str(ids)!r}, 'w').write(f'{{os.getpid()}} {{os.getppid()}}\\n')
time.sleep(600)"""
    run = f"""from pathlib import Path
from ttt_mlflow.profilers.nsys import Nsys, profile
profile(Nsys(Path({str(fake.path)!r}), ''), {python(waits)!r}, Path({str(tmp_path / "out")!r}), 600)"""
    killed = subprocess.Popen(python(run))
    try:
        wait_until(lambda: ids.exists() and ids.read_text().endswith("\n"))
        profiled = [psutil.Process(int(pid)) for pid in ids.read_text().split()]
        assert all(one.is_running() for one in profiled)
    finally:
        killed.kill()
        killed.wait()
    _, left = psutil.wait_procs(profiled, timeout=60)
    for one in left:
        one.kill()
    assert left == []


MICRO = MicroConfig.parse({"kernels": "mlp_1_dual", "batches": "1", "device": "cpu", "dtype": "float32"})


@pytest.mark.parametrize(
    ("module", "asked"),
    [
        (nsys_child, RunConfig.parse({"model_name": "ttt-tiny", "device": "cpu", "batch": 1, "genlen": 1})),
        pytest.param(micro_nsys_child, Order(config=MICRO, cells=[("mlp_1_dual", 1)]), marks=pytest.mark.long),
    ],
    ids=["a run's", "the micro-benchmark's"],
)
def test_each_process_that_nsys_records_looks_after_its_run(module: ModuleType, asked: BaseModel) -> None:
    """One that belongs to none goes on to its end; one whose run has ended does not."""
    ended = subprocess.Popen(["true"])
    ended.wait()
    command = [sys.executable, "-m", module.__name__, asked.model_dump_json()]
    for run, code in (({}, 0), ({RUN_PID: str(ended.pid)}, 1)):
        done = subprocess.run(command, env={**os.environ, **run}, capture_output=True, text=True, cwd=ROOT)
        assert (done.returncode, done.stdout.startswith("ran ")) == (code, code == 0), done.stderr
