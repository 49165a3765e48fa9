"""A home folder that nobody may write to, and a full folder for temporary files."""

import errno
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from triton import knobs

from tests.small_disk import MB, fill, small_disk
from ttt_mlflow.config import MicroConfig, RunConfig
from ttt_mlflow.errors import BadInput, PublishFailed
from ttt_mlflow.kernels import launch
from ttt_mlflow.measurement.ceilings_cache import cache_folder
from ttt_mlflow.micro.plan import make_plan as make_micro_plan
from ttt_mlflow.names import ARTIFACT_CLOCKS
from ttt_mlflow.record.journal import Journal
from ttt_mlflow.run.caches import check_compiler_cache, choose_kernel_cache
from ttt_mlflow.run.lifecycle import conduct
from ttt_mlflow.run.plan import make_plan
from ttt_mlflow.run.recording import record_optional
from ttt_mlflow.run.reporter import Reporter
from ttt_mlflow.tracking.publisher import Limits, Publisher

NOWHERE = "/proc/nobody/may/write"


@pytest.fixture(autouse=True)
def _own_temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("TRITON_CACHE_DIR", "TORCHINDUCTOR_CACHE_DIR"):
        monkeypatch.setenv(name, "")  # so that what a test sets is forgotten
        monkeypatch.delenv(name)
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))


@pytest.fixture
def full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """TMPDIR, to the last byte."""
    with small_disk(tmp_path / "disk", MB) as disk:
        fill(disk)
        monkeypatch.setattr(tempfile, "tempdir", str(disk))
        yield disk


def with_home(folder: str, patch: pytest.MonkeyPatch) -> None:
    patch.setenv("TRITON_HOME", folder)


# Triton's kernels


def test_a_home_that_can_be_written_to_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with_home(str(tmp_path), monkeypatch)
    notices: list[str] = []
    choose_kernel_cache(notices)
    assert (notices, os.environ.get("TRITON_CACHE_DIR")) == ([], None)


@pytest.mark.parametrize("home", [NOWHERE, "/dev/null"])
def test_a_read_only_home_costs_only_time(home: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with_home(home, monkeypatch)
    notices: list[str] = []
    choose_kernel_cache(notices)
    chosen = f"{tempfile.gettempdir()}/ttt-mlflow-{os.getuid()}/triton"
    assert os.environ["TRITON_CACHE_DIR"] == knobs.cache.dir == chosen
    assert os.stat(Path(chosen).parent).st_mode & 0o077 == 0
    (notice,) = notices
    assert notice.startswith(f"Triton's cache {home}/.triton/cache is not writable (")
    assert notice.endswith(f"{chosen} is used instead; TRITON_CACHE_DIR names another one")
    choose_kernel_cache(notices)
    assert len(notices) == 1, "a second run of this process has it already"


def test_no_home_makes_no_folder_of_that_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with_home("~/", monkeypatch)  # what Triton has for a user without a home folder
    monkeypatch.chdir(tmp_path)
    notices: list[str] = []
    choose_kernel_cache(notices)
    (notice,) = notices
    assert notice.startswith(
        "Triton's cache ~/.triton/cache is in no folder, because this user has no home folder (HOME"
    )
    assert Path(os.environ["TRITON_CACHE_DIR"]).is_relative_to(tempfile.gettempdir())


def test_a_folder_that_somebody_else_has_made_is_not_trusted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with_home(NOWHERE, monkeypatch)
    (Path(tempfile.gettempdir()) / f"ttt-mlflow-{os.getuid()}").symlink_to(tmp_path)
    choose_kernel_cache([])
    chosen = Path(os.environ["TRITON_CACHE_DIR"])
    assert chosen.parent.name != f"ttt-mlflow-{os.getuid()}"
    assert chosen.parent.is_dir()


def test_a_folder_that_was_named_is_refused_before_anything_is_built(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITON_CACHE_DIR", NOWHERE)
    with pytest.raises(BadInput, match=rf"^TRITON_CACHE_DIR={NOWHERE}: it is not writable \(.*\); set it to a folder"):
        choose_kernel_cache([])


def test_no_folder_at_all(full: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with_home(NOWHERE, monkeypatch)
    with pytest.raises(BadInput, match=r"and there is no other folder .*No space left.*set TRITON_CACHE_DIR"):
        choose_kernel_cache([])


def test_both_kinds_of_runs_look_before_they_begin(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(launch, "_capability", lambda device: (9, 0))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: (9, 0))
    monkeypatch.setenv("TRITON_CACHE_DIR", NOWHERE)
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    asked: dict[str, Any] = {"model_name": "ttt-tiny", "use_compile": False}
    for plan in (lambda: make_plan(RunConfig.parse(asked)), lambda: make_micro_plan(MicroConfig.parse({}))):
        with pytest.raises(BadInput, match="TRITON_CACHE_DIR"):
            plan()


# Temporary files


def test_a_full_tmpdir_refuses_to_compile(full: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BadInput) as refused:
        check_compiler_cache()
    assert str(refused.value) == (
        f"use_compile=true: {full}, where the compiler writes, is not writable (No space left on device); free some "
        "space there, set TMPDIR to another folder, or use_compile to false"
    )
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", NOWHERE)
    with pytest.raises(BadInput, match="set TORCHINDUCTOR_CACHE_DIR to another folder"):
        check_compiler_cache()


def test_no_folder_for_temporary_files(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.setattr(tempfile, "_candidate_tempdir_list", lambda: [NOWHERE])
    with pytest.raises(BadInput, match="no folder for temporary files can be written to; set TMPDIR"):
        check_compiler_cache()


@pytest.mark.long
def test_a_full_tmpdir_stops_no_publication(full: Path) -> None:
    publisher = Publisher(Limits(60.0, 60.0))
    try:
        with pytest.raises(PublishFailed, match="unexpected error: KeyError") as failed:
            publisher.ask("nothing that it can do", Limits(60.0, 60.0))
        Path(str(failed.value).rpartition(" ")[2]).unlink()  # in one of the folders that Python tries after TMPDIR
    finally:
        publisher.close()


def test_a_picture_that_finds_no_folder_is_left_out(tmp_path: Path) -> None:
    """As matplotlib says it: without an error number."""
    record, reporter = Journal.create(tmp_path / "runs", {}), Reporter(Console(quiet=True))

    def make() -> bytes:
        raise OSError("Matplotlib requires access to a writable cache directory")

    record_optional(record, reporter, ARTIFACT_CLOCKS, make)
    assert reporter.left_out == [ARTIFACT_CLOCKS]


def test_a_run_that_cannot_write_beside_its_record_names_the_folder(tmp_path: Path, full: Path) -> None:
    class Compiling:
        plan = make_plan(RunConfig.parse({"model_name": "ttt-tiny", "device": "cpu"}))

        def measure(self, sampler: object) -> None:
            raise OSError(errno.ENOSPC, "No space left on device", f"{full}/compiled")

        def record_measured(self) -> None: ...
        def profile(self) -> None: ...
        def failure(self) -> None: ...

    record = Journal.create(tmp_path / "runs", {})
    run: Any = Compiling()
    failure = conduct(run, record, Reporter(Console(quiet=True)), lambda *_: "")
    assert str(failure) == f"{full}/compiled: No space left on device; free some space there, or set TMPDIR"
    assert record.status["status"] == "error"


# Ceilings


@pytest.mark.parametrize("home", ["", "relative"])
def test_a_user_without_a_home_keeps_ceilings_with_the_temporary_files(
    home: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(os.path, "expanduser", lambda path: f"{home}{path}")
    assert cache_folder() == Path(tempfile.gettempdir()) / "ttt_mlflow"
