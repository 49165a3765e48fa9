"""Other people's packages: one that is broken is named with its package and its error, and everything else works."""

import io
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from click.testing import CliRunner
from rich.console import Console

from tests.installed import Install, installed
from tests.project import QUICK
from tests.runs import measured_in
from ttt_mlflow.app.listings import print_kernels, print_models
from ttt_mlflow.app.measure import measure
from ttt_mlflow.cli import cli
from ttt_mlflow.config import MicroConfig
from ttt_mlflow.errors import BadInput, Killed, RunFailed
from ttt_mlflow.micro.plan import make_plan as make_micro_plan
from ttt_mlflow.micro.registry import find_kernel
from ttt_mlflow.models.registry import find_model, models
from ttt_mlflow.plugins import Failed, Plugin, Trial, Wrong, answer_of, load_plugins
from ttt_mlflow.record.journal import Journal

__all__ = ["installed"]
GROUP = "ttt_mlflow.tests"
MODELS, KERNELS = "ttt_mlflow.models", "ttt_mlflow.kernels"
# what another package may do when it is imported or asked for its entries
BROKEN = {
    "import no_such_package": "ModuleNotFoundError: No module named 'no_such_package'",
    "x = 3": "AttributeError: module 'theirs' has no attribute 'entry'",
    "entry = 3": "TypeError: 3 is not a Thing",
    "entry = lambda: [3]": "TypeError: 3 is not a Thing",
    "def entry(): raise ValueError('no\\n  luck')": "ValueError: no luck",
    "import sys\nsys.exit(7)": "SystemExit: 7",
    "def entry():\n    import sys\n    sys.exit()": "SystemExit: ",
    "this is no Python": "SyntaxError: invalid syntax (theirs.py, line 1)",
    "from tests.test_plugins import Thing\nentry = Thing('ours')": "ValueError: thing 'ours' is registered already",
    "from tests.test_plugins import Thing\nentry = [Thing('a'), Thing('a')]": "ValueError: thing 'a' is registered",
}


@dataclass(frozen=True)
class Thing:
    name: str


def loaded() -> list[Plugin[Thing]]:
    return list(load_plugins(GROUP, "thing", Thing, ["ours"]))


@pytest.mark.parametrize(("code", "why"), BROKEN.items())
def test_a_broken_package_is_named_and_the_others_stay(code: str, why: str, installed: Install) -> None:
    installed(GROUP, "before", "from tests.test_plugins import Thing\nentry = Thing('first')", "one = before:entry")
    installed(GROUP, "theirs", code, "mine = theirs:entry")
    installed(GROUP, "zuletzt", "from tests.test_plugins import Thing\nentry = Thing('last')", "one = zuletzt:entry")
    found = {plugin.package: plugin for plugin in loaded()}
    fault = found["theirs 1.0"].fault
    assert fault
    assert fault.startswith(f"theirs 1.0: its things ({GROUP}: mine = theirs:entry) cannot be loaded ({why}")
    assert len(fault.splitlines()) == 1
    assert found["theirs 1.0"].entries == ()
    assert [found[name].entries for name in ("before 1.0", "zuletzt 1.0")] == [(Thing("first"),), (Thing("last"),)]


def test_what_a_package_prints_is_no_output_of_a_command(installed: Install, capsys: pytest.CaptureFixture) -> None:
    code = "from tests.test_plugins import Thing\nprint('hello')\nentry = Thing('a')"
    installed(GROUP, "theirs", code, "mine = theirs:entry")
    assert loaded()[0].entries == (Thing("a"),)
    said = capsys.readouterr()
    assert (said.out, said.err) == ("", "hello\n")


def test_a_signal_is_no_fault_of_a_package(installed: Install) -> None:
    installed(GROUP, "theirs", "from ttt_mlflow.errors import Killed\nraise Killed(15)", "mine = theirs:entry")
    with pytest.raises(Killed):
        loaded()


def test_our_models_and_kernels_import_no_other_package(installed: Install) -> None:
    installed(MODELS, "slow_models", "raise AssertionError('nobody asked')", "mine = slow_models:entry")
    installed(KERNELS, "slow_kernels", "raise AssertionError('nobody asked')", "mine = slow_kernels:entry")
    assert find_model("ttt-tiny").name == "ttt-tiny"
    assert find_kernel("mlp_1_dual").name == "mlp_1_dual"
    assert not {"slow_models", "slow_kernels"} & set(sys.modules)


def test_lists_go_on_beside_a_broken_package(installed: Install, capsys: pytest.CaptureFixture) -> None:
    installed(MODELS, "their_models", "import sys\nsys.exit(1)", "mine = their_models:entry")
    installed(KERNELS, "their_kernels", "import sys\nsys.exit(1)", "mine = their_kernels:entry")
    print_models()
    print_kernels()
    said = capsys.readouterr()
    assert "ttt-1b: " in said.out
    assert "mlp_1_dual " in said.out
    assert [line.split(": ")[:2] for line in said.err.splitlines()] == [
        ["Not available", "their-models 1.0"],
        ["Not available", "their-kernels 1.0"],
    ]
    for find, name in ((find_model, "theirs"), (find_kernel, "theirs")):
        with pytest.raises(BadInput, match=r"theirs: no such [^\n]*\ntheir-(models|kernels) 1\.0: its "):
            find(name)


MODEL = """
from ttt_mlflow.models import ModelEntry
def build(request):
    {build}
entry = ModelEntry("theirs", build, "a model", {more})
"""


THEIR_TINY = """
import dataclasses
from ttt_mlflow.models.registry import find_model
tiny = find_model("ttt-tiny")
def build(request):
    return tiny.factory(dataclasses.replace(request, name="ttt-tiny", inner_net="mlp_1_dual"))
more = dict(inner_nets=(), decode_paths=(), kept_bytes=None)
entry = dataclasses.replace(tiny, name="theirs", factory=build, **more, **MODEL)
"""


@pytest.mark.parametrize(
    ("build", "more", "said"),
    [
        ("raise ValueError('too\\n bad')", "", "their-models 1.0: ValueError: too bad"),
        ("import sys; sys.exit(3)", "", "their-models 1.0: SystemExit: 3"),
        ("return 3", "", "their-models 1.0: AttributeError: 'int' object has no attribute 'vocab_size'"),
    ],
)
def test_a_model_that_breaks_is_recorded_with_its_package(
    build: str, more: str, said: str, installed: Install, tmp_path: Path
) -> None:
    installed(MODELS, "their_models", MODEL.format(build=build, more=more), "mine = their_models:entry")
    measured = measured_in(tmp_path / "runs", {**QUICK, "model_name": "theirs"})
    assert type(measured.failure) is RunFailed
    assert str(measured.failure) == said
    assert measured.journal.status["message"] == said


@pytest.mark.parametrize("member", ["missing", "check", "compiles", "usual_path"])
def test_a_model_that_cannot_be_asked_is_refused(member: str, installed: Install, tmp_path: Path) -> None:
    more = f"{member}=lambda *request: 1 / 0, decode_paths=('a', 'b')"
    installed(MODELS, "their_models", MODEL.format(build="pass", more=more), "mine = their_models:entry")
    said = (
        "model_name=theirs: their-models 1.0 cannot answer (ZeroDivisionError: division by zero); "
        "repair or uninstall it"
    )
    done = CliRunner().invoke(cli, ["run", "--model-name=theirs", "--device=cpu", f"--logdir={tmp_path / 'runs'}"])
    assert (done.exit_code, done.stderr.splitlines()) == (2, [f"Error: {said}"])
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("work", "why"),
    [
        ("1 / 0", "ZeroDivisionError: division by zero"),
        ("[Stage('sampling', float('nan'), 1, 1)]", "ValueError: stage 'sampling': weight_bytes=nan: not a finite"),
        ("[Stage('sampling', 1, -5, 1)]", "ValueError: stage 'sampling': state_bytes=-5: not a finite number from 0"),
        ("[Stage('sampling', 1, 1, 1, count=-1)]", "ValueError: stage 'sampling': count=-1: not a finite number"),
        ("2 * [Stage('sampling', 1e308, 1, 1)]", "ValueError: the bytes or operations of all stages together"),
        ("[3]", "TypeError: work returns int in its list, not Stage"),
        ("3", "TypeError: work returns int, not a list of Stage"),
    ],
)
def test_work_that_is_no_number_costs_the_roofline_alone(
    work: str, why: str, installed: Install, tmp_path: Path
) -> None:
    code = f"from ttt_mlflow.workload import Stage\nMODEL = dict(work=lambda request, workload: {work})\n{THEIR_TINY}"
    installed(MODELS, "their_models", code, "mine = their_models:entry")
    said = io.StringIO()
    config = {**QUICK, "model_name": "theirs", "inner_net": None}
    measured = measure(config, logdir=tmp_path / "runs", console=Console(file=said, width=1000))
    assert measured.failure is None
    assert f"Note: the roofline is not recorded: their-models 1.0 cannot answer ({why}" in said.getvalue()
    assert not {"min_bytes_per_step", "flops_per_step"} & set(measured.metrics)


def test_a_kernel_that_cannot_be_asked_is_refused(installed: Install) -> None:
    code = (
        "from ttt_mlflow.micro import KernelEntry\n"
        "entry = KernelEntry('theirs', 'linear', 'rank-1', lambda: 3, '', largest_batch=lambda: 1 / 0)"
    )
    installed(KERNELS, "their_kernels", code, "mine = their_kernels:entry")
    with pytest.raises(BadInput, match=r"^kernels=theirs: the largest batch that it takes: their-kernels 1\.0 cannot"):
        make_micro_plan(MicroConfig.parse({"kernels": "theirs", "device": "cpu"}))


def test_a_model_that_raises_what_ctrl_c_does_leaves_no_run_behind(installed: Install, tmp_path: Path) -> None:
    build = "raise KeyboardInterrupt"
    installed(MODELS, "their_models", MODEL.format(build=build, more=""), "mine = their_models:entry")
    words = ["--model-name=theirs", "--device=cpu", f"--logdir={tmp_path / 'runs'}", "--tracking-uri=postgresql://:1/x"]
    done = CliRunner().invoke(cli, ["run", *words])
    assert done.exit_code == 130
    assert "Stopped by SIGINT; what was measured is recorded." in done.stderr
    (record,) = (tmp_path / "runs").iterdir()
    assert Journal(record).status["status"] == "killed"


def test_a_fault_of_ours_is_not_told_as_another_packages() -> None:
    with pytest.raises(ZeroDivisionError):
        answer_of(None, "x", lambda: 1 / 0)
    with pytest.raises(BadInput, match="as it says"):
        answer_of("theirs 1.0", "x", lambda: _raise(BadInput("as it says")))


def _raise(error: BaseException) -> None:
    raise error


# Trying


@pytest.fixture
def trial() -> tuple[Trial, list[str]]:
    lines: list[str] = []
    return Trial(lines.append), lines


@pytest.mark.parametrize(
    ("action", "said"),
    [
        (lambda: _raise(Wrong("it is 7")), "FAILED   works: it is 7 ("),
        (lambda: _raise(ValueError("no\nluck")), "FAILED   works: ValueError: no luck ("),
        (lambda: _raise(SystemExit(3)), "FAILED   works: SystemExit: 3 ("),
        (lambda: print("a", "b"), "FAILED   works: it prints: a b ("),
    ],
)
def test_a_check_that_fails(action: Callable[[], None], said: str, trial: tuple[Trial, list[str]]) -> None:
    checks, lines = trial
    with pytest.raises(Failed):
        checks.check("works", action)
    assert lines[0].startswith(said)
    assert checks.failures == 1


def test_a_check_that_holds(trial: tuple[Trial, list[str]]) -> None:
    checks, lines = trial
    assert checks.check("works", lambda: 7) == 7
    assert checks.check("may print", lambda: print("x"), may_print=True) is None
    checks.skip("the rest", "no GPU")
    told = [line.partition(" (")[0] for line in lines]
    assert told == ["ok       works", "ok       may print", "skipped  the rest: no GPU"]
    assert checks.failures == 0
    assert "theirs" not in models()
