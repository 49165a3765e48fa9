"""The house: what each room may import, how large a file may be, and where the tests of a file stand."""

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests.project import ROOT

PACKAGE = ROOT / "ttt_mlflow"
CONTRACTS = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
MOST_LINES = 400
# kernels are one long function; the catalog is a table
LARGE = ("kernels/", "names.py")
FILES = sorted(str(path.relative_to(PACKAGE)) for path in PACKAGE.rglob("*.py"))
# files without a test file of their own name, and what tests them
TESTED_ELSEWHERE = {
    "__main__.py": "every test of the command line as a process",
    "app/ab/parent.py": "app/ab/test_command.py",
    "app/neighbors/cases.py": "app/neighbors/test_answer.py",
    "app/sweep/check.py": "app/sweep/test_command.py",
    "app/sweep/executors/inline.py": "app/sweep/test_command.py",
    "app/sweep/measured.py": "app/sweep/test_command.py, app/sweep/test_board.py",
    "app/sweep/parent.py": "app/sweep/test_command.py",
    "app/sweep/publication.py": "app/sweep/test_command.py",
    "app/sweep/results.py": "app/sweep/test_command.py",
    "app/sweep/task.py": "app/sweep/test_command.py, app/sweep/executors/test_process.py",
    "cli/sweeping.py": "app/sweep/test_command.py",
    "tracking/at_work.py": "app/sweep/test_others.py",
    "tracking/sweeps.py": "app/sweep/test_command.py, test_mlflow_run_sweep.py",
    "app/arguments.py": "test_cli.py, app/ab/test_command.py",
    "app/job.py": "test_cli.py, test_mlflow_run.py",
    "app/listings.py": "test_cli.py, test_cli_micro.py, models/test_trial.py, micro/test_trial.py",
    "app/records.py": "test_cli.py, run/test_profile.py, tracking/test_sync.py",
    "app/folder_rows.py": "app/test_table.py, app/test_report.py",
    "app/report_sets.py": "app/test_report.py",
    "app/prune.py": "app/test_record_commands.py",
    "cli/cleaning.py": "app/test_janitor.py",
    "cli/keeping.py": "app/test_record_commands.py",
    "cli/measuring.py": "test_cli.py, test_cli_micro.py, app/test_doctor.py",
    "cli/options.py": "test_cli.py",
    "cli/reporting.py": "app/test_report.py",
    "cli/reading.py": "test_cli.py, run/test_profile.py",
    "app/doctor/command.py": "app/test_doctor.py",
    "app/doctor/diagnosis.py": "app/test_doctor.py",
    "app/doctor/finding.py": "app/test_doctor.py",
    "app/doctor/gpu.py": "app/test_doctor.py",
    "app/doctor/software.py": "app/test_doctor.py",
    "app/doctor/store.py": "app/test_doctor.py",
    "config/run.py": "config/test_base.py",
    "config/micro.py": "config/test_base.py",
    "config/compare.py": "config/test_base.py",
    "config/numbers.py": "config/test_base.py, test_numerals.py",
    "config/values.py": "config/test_base.py",
    "measurement/method.py": "run/test_model_run.py",
    "report/comparison_export.py": "report/test_comparison_text.py",
    "report/comparison_page.py": "report/test_comparison_text.py",
    "report/measured.py": "report/test_comparison.py, report/test_conditions.py",
    "tracking/query.py": "app/test_sides.py",
    "tracking/still_there.py": "app/test_record_commands.py",
    "cli/again.py": "app/ab/test_command.py, app/test_rerun.py",
    "cli/comparing.py": "app/test_compare.py",
    "measurement/budget.py": "measurement/test_loop.py",
    "measurement/ceilings.py": "gpu/test_doctor_gpu.py: it measures a GPU",
    "models/entry.py": "models/test_registry.py",
    "models/transformer/config.py": "models/transformer/test_sizes.py",
    "models/transformer/state.py": "models/transformer/test_model.py",
    "models/installation.py": "models/mamba/test_installation.py, models/fla/test_package.py",
    "models/named_calls.py": "models/mamba/test_model.py, models/fla/test_model.py",
    "models/fla/entries.py": "models/fla/test_package.py, models/fla/test_work.py, models/fla/test_memory.py",
    "models/fla/gated_delta.py": "models/fla/test_models.py",
    "models/fla/rwkv7.py": "models/fla/test_models.py",
    "models/fla/sizes.py": "models/fla/test_work.py, models/fla/test_models.py",
    "micro/entry.py": "micro/test_registry.py, micro/test_layer_entries.py",
    "micro/operations.py": "micro/test_registry.py, micro/test_layer_tasks.py",
    "micro/task.py": "micro/test_inputs.py, micro/test_layer_tasks.py",
    "models/ttt/config.py": "models/ttt/test_model.py",
    "models/ttt/inner_nets.py": "models/ttt/test_model.py",
    "models/ttt/sizes.py": "models/test_registry.py, models/ttt/test_checkpoint.py",
    "models/ttt/state.py": "models/ttt/test_model.py",
    "record/checked.py": "record/test_journal.py, app/test_damaged_records.py",
    "record/finding.py": "app/test_damaged_records.py, record/test_journal.py",
    "record/journal_reader.py": "record/test_journal.py, app/test_damaged_records.py",
    "record/register.py": "record/test_checksums.py",
    "record/verify.py": "record/test_checksums.py, app/test_damaged_records.py",
    "record/derived.py": "record/test_run_row.py, tracking/test_derived.py",
    "record/recorded_run.py": "tracking/test_find_run.py",
    "report/page.py": "report/test_timeline_page.py, report/test_memory_report.py",
    "report/results.py": "report/test_results_grids.py",
    "report/results_quantities.py": "report/test_results_table.py",
    "report/style.py": "the tests of the charts",
    "report/columns.py": "report/test_table.py",
    "run/lifecycle.py": "run/test_model_run.py, micro/test_micro_run.py, app/test_measure.py",
    "run/machine.py": "run/test_plan.py",
    "run/nsys_child.py": "profilers/test_nsys.py",
    "run/reporter.py": "run/test_model_run.py",
    "telemetry/readings.py": "telemetry/test_sampler.py",
    "tracking/background.py": "tracking/test_publisher.py, app/test_publishing.py",
    "tracking/keep_killed.py": "app/test_signals.py",
}


def test_no_import_breaks_a_rule_of_the_house() -> None:
    """import-linter reads the contracts of pyproject.toml."""
    command = [str(Path(sys.executable).with_name("lint-imports")), "--no-cache"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_no_contract_makes_an_exception() -> None:
    assert not [contract["name"] for contract in CONTRACTS if "ignore_imports" in contract]


def test_every_room_is_in_the_contracts() -> None:
    (layers,) = (contract for contract in CONTRACTS if contract["type"] == "layers")
    placed = {room.strip() for floor in layers["layers"] for room in floor.split("|")}
    there = {path.stem for path in PACKAGE.iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()}
    assert placed == there - {"__init__"}
    for contract in CONTRACTS:
        if contract["type"] == "forbidden":
            assert {name.removeprefix("ttt_mlflow.") for name in contract["source_modules"]} <= placed


@pytest.mark.parametrize("file", [file for file in FILES if not file.startswith(LARGE)])
def test_no_file_is_too_long(file: str) -> None:
    assert len((PACKAGE / file).read_text().splitlines()) <= MOST_LINES


def has_tests(file: str) -> bool:
    path = Path(file)
    mirrored = ROOT / "tests" / path.parent / f"test_{path.name}"
    # a kernel's twin and launch are tested together, one file for all inner layers
    return mirrored.exists() or file.startswith("kernels/") or path.name == "__init__.py"


@pytest.mark.parametrize("file", FILES)
def test_tests_mirror_the_package(file: str) -> None:
    assert has_tests(file) != (file in TESTED_ELSEWHERE), "tests/<room>/test_<file>.py, or an entry of TESTED_ELSEWHERE"
