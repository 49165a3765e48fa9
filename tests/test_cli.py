"""The command line in this process: bad input, the seed's flags, and what happens around a measurement."""

import ctypes
import json
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import click
import pytest
import torch
from click import shell_completion
from click.testing import CliRunner, Result
from hypothesis import given
from hypothesis import strategies as st
from mlflow import MlflowClient
from mlflow.entities import Run
from safetensors.torch import save_file

from tests.catalog import metrics
from tests.inline import InlinePublisher
from tests.project import ROOT, free_port, made_by_mlflow_run, new_store
from ttt_mlflow.app import arguments, measure, publishing
from ttt_mlflow.cli import cli
from ttt_mlflow.cli.options import switches_of, with_values
from ttt_mlflow.config import Configuration, MicroConfig, RunConfig
from ttt_mlflow.errors import OutOfMemory, RunFailed, TTTError
from ttt_mlflow.models.fla import package as fla_package
from ttt_mlflow.models.mamba import installation as mamba_installation
from ttt_mlflow.names import IMPORTS_S
from ttt_mlflow.record.journal import Journal
from ttt_mlflow.run.model_run import ModelRun
from ttt_mlflow.run.reporter import Reporter

FIELDS = ", ".join(RunConfig.model_fields)
MODELS = "ttt-125m, ttt-350m, ttt-760m, ttt-1b, ttt-profile, ttt-tiny"
TINY = ["--model-name", "ttt-tiny", "--device", "cpu"]


@dataclass
class FakeRunner:
    """Stands where ``conduct`` does: notes what would be measured, and ends as it is told."""

    measured: list[RunConfig] = field(default_factory=list)
    failure: TTTError | None = None

    def conduct(self, run: ModelRun, journal: Journal, reporter: Reporter, *_: object) -> TTTError | None:
        assert reporter.phases[IMPORTS_S] > 0
        self.measured.append(run.used)
        journal.set_used(run.used.model_dump(mode="json"))
        journal.update_params(run.used.model_dump())
        journal.update_metrics(metrics({"decode_tokens_per_s": 123.0}))
        status = {OutOfMemory: "oom", RunFailed: "error"}.get(type(self.failure), "ok")  # type: ignore[arg-type]
        journal.set_status(status, str(self.failure) if self.failure else None, 0)
        return self.failure


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> FakeRunner:
    fake = FakeRunner()
    monkeypatch.setattr(measure, "conduct", fake.conduct)
    return fake


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> str:
    return new_store(tmp_path_factory.mktemp("store"))


@pytest.fixture
def invoke(tmp_path: Path, store: str, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    for name in ("MLFLOW_RUN_ID", "MLFLOW_EXPERIMENT_ID", "MLFLOW_EXPERIMENT_NAME", "TRITON_INTERPRET"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store)
    monkeypatch.setattr(publishing, "Publisher", InlinePublisher)
    monkeypatch.chdir(tmp_path)
    return lambda *arguments: CliRunner().invoke(cli, arguments)


def refused(result: Result, fake: FakeRunner) -> str:
    """The message of bad input: on stderr, exit code 2, nothing measured, nothing recorded."""
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    assert fake.measured == []
    assert not Path("ttt_runs").exists()
    return result.stderr.strip()


# Bad input


@pytest.mark.parametrize(
    ("name", "value", "takes"),
    [
        ("batch", "0", "a whole number of at least 1"),
        ("batch", "-1", "a whole number of at least 1"),
        ("batch", "1.5", "a whole number of at least 1"),
        ("batch", "abc", "a whole number of at least 1"),
        ("promptlen", "0", "a whole number of at least 1"),
        ("genlen", "0", "a whole number of at least 1"),
        ("mode", "encode", "decode or prefill"),
        ("dtype", "int8", "auto, float16, bfloat16 or float32"),
        ("profile", "vtune", "none, or any of torch, nsys, memory, accuracy, comma-separated"),
        ("use_compile", "perhaps", "auto, true or false"),
        ("cuda_graph", "perhaps", "auto, true or false"),
        ("device", "tpu", "auto, cpu or cuda"),
        ("warmup", "-1", "auto, or a whole number of at least 0"),
        ("repeats", "0", "auto, or a whole number of at least 1"),
        ("precision_pct", "0", "a percentage above 0"),
        ("max_seconds", "nan", "a number of seconds above 0"),
        ("seed", "-3", "a whole number of at least 0"),
    ],
)
def test_bad_value(name: str, value: str, takes: str, invoke: Callable[..., Result], fake: FakeRunner) -> None:
    message = refused(invoke("run", f"--{name}", value), fake)
    assert message.startswith(f"Error: {name}={value}: not allowed; {name} takes {takes}")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--foo", "1"], f"Error: foo=1: no such parameter; the parameters are {FIELDS}"),
        (["--foo=1"], f"Error: foo=1: no such parameter; the parameters are {FIELDS}"),
        (["--batch-size", "1"], f"Error: batch_size=1: no such parameter; the parameters are {FIELDS}"),
        (["--foo"], f"Error: foo: no such parameter; the parameters are {FIELDS}"),
        (["batch=3"], "Error: batch=3: not an option; give a parameter as --name value"),
        (["--no_cg", "maybe"], "Error: no_cg=maybe: not allowed; no_cg takes true or false"),
        (
            ["--no_cg", "--cuda_graph", "true"],
            "Error: no_cg=true: it contradicts cuda_graph=true; give one of the two",
        ),
    ],
)
def test_bad_argument(arguments: list[str], message: str, invoke: Callable[..., Result], fake: FakeRunner) -> None:
    assert refused(invoke("run", *arguments), fake) == message


def test_all_faults_are_named_at_once(invoke: Callable[..., Result], fake: FakeRunner) -> None:
    lines = refused(invoke("run", "--foo", "1", "--batch", "0", "--genlen", "x"), fake).splitlines()
    assert [line.split(":")[1].strip() for line in lines] == ["foo=1", "batch=0", "genlen=x"]


@pytest.mark.skipif(torch.cuda.is_available(), reason="a machine without a GPU is what is tested")
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model-name", "gpt-5"], f"Error: model_name=gpt-5: no such model; the models are {MODELS}"),
        (["--inner-net", "abc"], "Error: inner_net=abc: no such inner net; ttt-1b has mlp_1_dual, mlp_2_dual"),
        (["--device", "cuda"], "Error: device=cuda: PyTorch finds no GPU on this machine"),
        (["--inner_net", "mlp_1_dual_triton"], "Error: inner_net=mlp_1_dual_triton: Triton needs a GPU"),
        (["--cuda_graph", "true"], "Error: cuda_graph=true: there are no CUDA graphs on a CPU"),
        (["--profile", "nsys"], "Error: profile=nsys: it records GPU activity, but the device is cpu"),
        (["--model-name", "state-spaces/mamba-130m"], "Error: model_name=state-spaces/mamba-130m: "),
        (["--checkpoint", "/nowhere/weights"], "Error: checkpoint=/nowhere/weights: "),
    ],
)
def test_refused_on_this_machine(
    arguments: list[str], message: str, invoke: Callable[..., Result], fake: FakeRunner
) -> None:
    lines = refused(invoke("run", *arguments), fake).splitlines()
    assert len(lines) == 1
    assert lines[0].startswith(message)


def test_inner_net_with_mamba(invoke: Callable[..., Result], fake: FakeRunner, monkeypatch: pytest.MonkeyPatch) -> None:
    """Refused for the inner net, wherever mamba-ssm and a GPU are to be had."""
    from ttt_mlflow.models import registry
    from ttt_mlflow.models.entry import ModelEntry
    from ttt_mlflow.run import plan

    entry = registry.find_model("state-spaces/mamba-130m")
    here = ModelEntry(entry.name, entry.factory, entry.description, own_generation=True)
    monkeypatch.setattr(plan, "find_model", lambda name: here)
    message = refused(invoke("run", "--model-name", entry.name, "--inner-net", "mlp_1_dual"), fake)
    assert message.startswith("Error: inner_net=mlp_1_dual: state-spaces/mamba-130m has no inner net")


def test_checkpoint_that_is_not_safetensors(invoke: Callable[..., Result], fake: FakeRunner, tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    path.write_bytes(b"no weights at all")
    message = refused(invoke("run", *TINY, "--checkpoint", str(path)), fake)
    assert message.startswith(f"Error: checkpoint={path}: ")


def test_checkpoint_that_does_not_fit(invoke: Callable[..., Result], fake: FakeRunner, tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    save_file({"model.unknown.weight": torch.zeros(2)}, path)
    message = refused(invoke("run", *TINY, "--checkpoint", str(path)), fake)
    assert "model.unknown.weight" in message


def test_folder_that_cannot_be_written(invoke: Callable[..., Result], fake: FakeRunner, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    message = refused(invoke("run", *TINY, "--logdir", str(tmp_path / "file")), fake)
    assert message.startswith(f"Error: logdir={tmp_path / 'file'}: not writable")


@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=12))
def test_any_text_as_a_batch_is_a_number_or_one_line(text: str) -> None:
    result = CliRunner().invoke(cli, ["run", f"--batch={text}", "--mode=neither"])
    assert result.exit_code == 2
    assert "Traceback" not in result.output
    assert "Error: mode=neither: not allowed" in result.stderr


def test_help_and_bad_input_are_quick_because_torch_is_not_imported() -> None:
    code = (
        "import sys; from click.testing import CliRunner; from ttt_mlflow.cli import cli;"
        "CliRunner().invoke(cli, ['run', '--help']); CliRunner().invoke(cli, ['run', '--batch', '0']);"
        "print([name for name in ('torch', 'mlflow', 'triton') if name in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


# The seed's flags


def test_the_seeds_profile_command(invoke: Callable[..., Result], fake: FakeRunner, tmp_path: Path) -> None:
    line = (
        "run --model-name ttt-profile --mode decode --batch 32 --promptlen 1 --genlen 4 --inner_net mlp_2_dual "
        "--no_cg --profile --logdir ./exp/m2_profile"
    )
    result = invoke(*line.split())
    assert result.exit_code == 0, result.output
    (used,) = fake.measured
    assert (used.model_name, used.batch, used.genlen, used.inner_net) == ("ttt-profile", 32, 4, "mlp_2_dual")
    assert (used.cuda_graph, used.profile) == (False, ("torch",))
    (journal,) = (tmp_path / "exp/m2_profile").iterdir()
    assert json.loads((journal / "config.json").read_text())["asked"]["cuda_graph"] is False


@pytest.mark.parametrize("flag", [["--use_compile"], ["--use-compile", "true"], ["--use_compile=yes"]])
def test_bare_use_compile_is_true(flag: list[str], invoke: Callable[..., Result], fake: FakeRunner) -> None:
    result = invoke("run", *TINY, *flag, "--batch", "3")
    assert result.exit_code == 0, result.output
    assert fake.measured[0].use_compile is True
    assert fake.measured[0].batch == 3


def test_both_spellings_and_no_cg_false(invoke: Callable[..., Result], fake: FakeRunner) -> None:
    result = invoke("run", "--model_name", "ttt-tiny", "--inner-net", "mlp_2_dual", "--no-cg", "false")
    assert result.exit_code == 0, result.output
    assert fake.measured[0].inner_net == "mlp_2_dual"


def test_help_names_every_parameter_and_gives_examples(invoke: Callable[..., Result]) -> None:
    text = invoke("run", "--help").output
    for name in RunConfig.model_fields:
        assert f"--{name}" in text
        assert f"--{name.replace('_', '-')}" in text
    assert "Examples:" in text


# Around the measurement


def test_summary_record_and_ui_are_shown(invoke: Callable[..., Result], fake: FakeRunner, store: str) -> None:
    result = invoke("run", *TINY)
    assert result.exit_code == 0, result.output
    assert "123 tokens/s" in result.stdout
    assert f"mlflow ui --backend-store-uri {store}" in result.stdout


@pytest.mark.parametrize(("failure", "code"), [(OutOfMemory("too big"), 3), (RunFailed("broke"), 1)])
def test_failure_is_published_and_has_its_exit_code(
    failure: TTTError, code: int, invoke: Callable[..., Result], fake: FakeRunner, store: str
) -> None:
    fake.failure = failure
    result = invoke("run", *TINY, "--experiment-name", str(failure))
    assert result.exit_code == code
    assert result.stderr.strip() == f"Error: {failure}"
    client = MlflowClient(store)
    experiment = client.get_experiment_by_name(str(failure))
    assert experiment is not None
    (found,) = client.search_runs([experiment.experiment_id])
    assert found.info.status == "FAILED"
    assert found.data.tags["ttt.message"] == str(failure)


def test_unreachable_server_costs_no_measurement(
    invoke: Callable[..., Result], fake: FakeRunner, tmp_path: Path, store: str
) -> None:
    uri = f"http://127.0.0.1:{free_port()}"
    result = invoke("run", *TINY, "--tracking-uri", uri, "--experiment-name", "later")
    assert result.exit_code == 4, result.output
    (journal,) = (tmp_path / "ttt_runs").iterdir()
    assert f"Warning: tracking_uri={uri}: cannot be reached" in result.stderr
    later = f"`ttt-mlflow sync {journal} --tracking-uri {uri}` publishes it later"
    assert f"Warning: the measurement is kept in {journal}; {later}" in result.stderr
    assert "Traceback" not in result.stderr
    assert "123 tokens/s" in result.stdout

    sent = invoke("sync", str(tmp_path / "ttt_runs"))  # now with MLFLOW_TRACKING_URI
    assert (sent.exit_code, sent.stdout) == (0, f"{journal.name}: published\n")
    again = invoke("sync")
    assert (again.exit_code, again.stdout) == (0, f"{journal.name}: already published\n")
    client = MlflowClient(store)
    experiment = client.get_experiment_by_name("later")
    assert experiment is not None
    (found,) = client.search_runs([experiment.experiment_id])
    assert found.data.metrics["decode_tokens_per_s"] == 123.0


def test_sync_that_fails_has_an_exit_code(invoke: Callable[..., Result], fake: FakeRunner, tmp_path: Path) -> None:
    uri = f"http://127.0.0.1:{free_port()}"
    assert invoke("run", *TINY, "--tracking-uri", uri).exit_code == 4
    result = invoke("sync", ".", "--tracking-uri", uri)
    assert (result.exit_code, result.stdout) == (0, "No records in ..\n")
    result = invoke("sync", "ttt_runs", "--tracking-uri", uri)
    assert result.exit_code == 4
    assert uri in result.stderr


def test_sync_of_no_folder(invoke: Callable[..., Result]) -> None:
    result = invoke("sync", "nowhere")
    assert (result.exit_code, result.stderr) == (2, "Error: nowhere: no such folder; give a folder of records\n")


# Started by `mlflow run`


@pytest.fixture
def by_mlflow_run(
    store: str, monkeypatch: pytest.MonkeyPatch, invoke: Callable[..., Result]
) -> Iterator[Callable[..., tuple[Result, Run]]]:
    """Invokes a command as `mlflow run` does; returns the run that it made too."""

    def invoke_it(*arguments: str) -> tuple[Result, Run]:
        client = MlflowClient(store)
        run_id = made_by_mlflow_run(client, "main", list(arguments[1:]))
        monkeypatch.setenv("MLFLOW_RUN_ID", run_id)
        monkeypatch.setattr(sys, "argv", ["ttt-mlflow", *arguments])
        result = invoke(*arguments)
        return result, client.get_run(run_id)

    yield invoke_it
    ctypes.CDLL(None).prctl(1, 0)  # these tests need not end with the process that started them


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--batch", "0"], "batch=0: not allowed; batch takes a whole number of at least 1"),
        (["--model_name", "gpt-5"], f"model_name=gpt-5: no such model; the models are {MODELS}"),
        (
            ["--tracking_uri", "http://elsewhere"],
            "tracking_uri=http://elsewhere: `mlflow run` has already chosen the store",
        ),
        (["--experiment_name", "x"], "experiment_name=x: `mlflow run` has already chosen the experiment"),
    ],
)
def test_bad_input_is_told_to_mlflows_run(
    arguments: list[str], message: str, fake: FakeRunner, by_mlflow_run: Callable[..., tuple[Result, Run]]
) -> None:
    result, found = by_mlflow_run("run", *arguments)
    assert refused(result, fake).startswith(f"Error: {message}")
    assert found.info.status == "FAILED"
    assert found.data.tags["ttt.status"] == "error"
    assert found.data.tags["ttt.message"].startswith(message)


def test_record_goes_to_mlflows_run(fake: FakeRunner, by_mlflow_run: Callable[..., tuple[Result, Run]]) -> None:
    result, found = by_mlflow_run("run", *TINY)
    assert result.exit_code == 0
    assert found.info.status == "FINISHED"
    assert found.data.metrics["decode_tokens_per_s"] == 123.0


# The other commands


def test_models_lists_the_registered_models(invoke: Callable[..., Result]) -> None:
    text = invoke("models").stdout
    for name in MODELS.split(", "):
        assert f"{name}: " in text
    assert "inner nets: mlp_1_dual, mlp_2_dual" in text


def test_models_says_once_what_is_missing_for_several(
    invoke: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    modules = {"mamba_ssm", "causal_conv1d", "fla"}
    monkeypatch.setattr(mamba_installation, "is_there", lambda module: module not in modules)
    monkeypatch.setattr(fla_package, "is_there", lambda module: module not in modules)
    models, _, notes = invoke("models").stdout.partition("Not available here:\n")
    mamba, fla = notes.splitlines()
    assert mamba.startswith("(1) mamba-ssm and causal-conv1d not installed")
    assert fla.startswith("(2) flash-linear-attention not installed: ")
    lines = models.splitlines()
    for number, names in ((1, "mamba"), (2, "gated-deltanet|rwkv7")):
        marked = [above for above, line in pairwise(lines) if line == f"    not available here ({number})"]
        assert marked == [line for line in lines if re.match(f"(state-spaces/)?({names})", line)]
        assert len(marked) > 2


def test_table_shows_the_folders_records(invoke: Callable[..., Result], fake: FakeRunner) -> None:
    assert invoke("run", *TINY, "--batch", "7").exit_code == 0
    fake.failure = OutOfMemory("too big")
    assert invoke("run", *TINY, "--batch", "8").exit_code == 3
    rows = [line.split() for line in invoke("table").stdout.splitlines() if "ttt-tiny" in line]
    assert [row[-1] for row in rows] == ["oom", "ok"]  # the newest first
    assert "8" in rows[0]
    assert {"7", "123"} <= set(rows[1])


def test_table_takes_a_sort_that_begins_with_a_dash(invoke: Callable[..., Result], fake: FakeRunner) -> None:
    for batch in ("7", "9", "8"):
        assert invoke("run", *TINY, "--batch", batch).exit_code == 0
    result = invoke("table", "--sort", "-batch", "--columns", "batch", "--format", "csv")
    assert (result.exit_code, result.stdout) == (0, "batch\n9\n8\n7\n")
    cut = invoke("table", "--sort=batch", "--columns=batch", "--format=csv", "--limit=1")
    assert (cut.exit_code, cut.stdout) == (0, "batch\n7\n")
    assert cut.stderr == "Shown: the first 1 by batch; 2 of 3 runs are left out. --limit 0 shows all.\n"


# Help


def examples() -> list[tuple[str, list[str]]]:
    """Each example in the help of a command: the command and the words after ``ttt-mlflow``."""
    found = []
    for name, command in cli.commands.items():
        lines = (command.epilog or "").splitlines()
        found += [(name, shlex.split(line)[1:]) for line in lines if line.strip().startswith("ttt-mlflow ")]
    return found


@pytest.mark.parametrize("name", cli.commands)
def test_every_command_has_examples(name: str, invoke: Callable[..., Result]) -> None:
    text = invoke(name, "--help").output
    assert "Examples:" in text
    assert any(example == name for example, _ in examples())


@pytest.mark.parametrize(("name", "words"), examples())
def test_every_example_parses(name: str, words: list[str]) -> None:
    """It is of its command, and the command takes all of its words."""
    assert words[0] == name
    command, words = cli.commands[name], words[1:]
    if isinstance(command, click.Group):  # such as `record list`
        command, words = command.commands[words[0]], words[1:]
    with command.make_context(name, words) as context:
        assert context.args == []
        kinds: dict[str, type[Configuration]] = {"run": RunConfig, "micro": MicroConfig}
        if kind := kinds.get(name):
            options = {key: value for key, value in context.params.items() if key in kind.model_fields}
            arguments.parse(kind, options, [])


@pytest.mark.parametrize("kind", [RunConfig, MicroConfig])
def test_the_help_of_an_option_lists_what_it_takes(kind: type[Configuration], invoke: Callable[..., Result]) -> None:
    command = "run" if kind is RunConfig else "micro"
    text = " ".join(invoke(command, "--help").output.split())
    for name, takes in kind.takes.items():
        # click breaks a line after a hyphen too
        assert takes.replace("-", "") in text.replace("- ", "").replace("-", ""), name


def test_a_flag_has_no_meaningless_value(invoke: Callable[..., Result]) -> None:
    text = invoke("run", "--help").output
    assert re.search(r"--no-cg, --no_cg +same as --cuda-graph false", text)
    assert "NO_CG" not in text
    assert "--use-compile, --use_compile [true|false]" in text, "optional"
    assert "without a value: true" in " ".join(text.split())


def test_the_version(invoke: Callable[..., Result]) -> None:
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    result = invoke("--version")
    assert (result.exit_code, result.stdout) == (0, f"ttt-mlflow {declared}\n")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_shell_completion(shell: str) -> None:
    """click makes the script, and the program answers it."""
    found = shell_completion.get_completion_class(shell)
    assert found is not None
    completion = found(cli, {}, "ttt-mlflow", "_TTT_MLFLOW_COMPLETE")
    assert "_TTT_MLFLOW_COMPLETE" in completion.source_template % completion.source_vars()
    assert {"run", "table"} <= {item.value for item in completion.get_completions([], "")}
    assert "--tracking-uri" in {item.value for item in completion.get_completions(["table"], "--tr")}


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("--strict A B", "--strict=true A B"),
        ("A B --strict", "A B --strict=true"),
        ("--strict FALSE A", "--strict FALSE A"),
        ("--strict=no A", "--strict=no A"),
        ("--strict -- --strict A", "--strict=true -- --strict A"),
        ("--strict --record A", "--strict=true --record A"),
    ],
)
def test_a_switch_takes_no_argument_for_its_value(words: str, expected: str) -> None:
    assert with_values(words.split(), {"--strict"}) == expected.split()


@pytest.mark.parametrize("command", ["compare", "ab", "rerun"])
def test_the_commands_with_arguments_know_their_switches(command: str) -> None:
    assert {"--strict", "--include-invalid", "--include_invalid"} <= switches_of(cli.commands[command])


@pytest.mark.parametrize("spelling", ["~/kept", "~root/kept"])
def test_a_tilde_is_a_home_folder(
    spelling: str, invoke: Callable[..., Result], fake: FakeRunner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.path.expanduser", lambda path: path.replace(spelling[:-5], str(tmp_path / "home")))
    done = invoke("run", f"--logdir={spelling}", "--device=cpu")
    assert done.exit_code == 0, done.output
    assert [*(tmp_path / "home/kept").iterdir()]
    for words in (
        ("table", spelling),
        ("sync", spelling),
        ("record", "list", spelling),
        ("record", "verify", spelling),
    ):
        done = invoke(*words)
        assert done.exit_code == 0, done.output
    assert not [*Path().glob("~*")]


@pytest.mark.parametrize("words", [("run", "--logdir"), ("janitor", "--logdir"), ("table",), ("sync",)])
def test_a_home_of_nobody(words: tuple[str, ...], invoke: Callable[..., Result], fake: FakeRunner) -> None:
    *others, last = words
    done = invoke(*others, *([f"{last}=~nobodys/x"] if last.startswith("-") else [last, "~nobodys/x"]))
    assert done.exit_code == 2
    assert "~nobodys is nobody's home here; write ./~nobodys/x for a folder of this name" in done.stderr
    assert not [*Path().glob("~*")]
