"""Which models are known: the standard ones, registered ones, those of other installed packages."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from ttt_mlflow.errors import BadInput
from ttt_mlflow.measurement.roofline import total_bytes, total_flops
from ttt_mlflow.models import registry
from ttt_mlflow.models.entry import DecodeModel, ModelEntry, ModelRequest
from ttt_mlflow.models.registry import find_model, models, register_model
from ttt_mlflow.workload import Workload

ROOT = Path(__file__).parents[2]
STANDARD = [
    *("ttt-125m", "ttt-350m", "ttt-760m", "ttt-1b", "ttt-profile", "ttt-tiny"),
    *(f"state-spaces/mamba-{size}" for size in ("130m", "370m", "790m", "1.4b", "2.8b")),
]
# a package that somebody else has installed, with its models in the three forms that an entry point may name
OTHER_PACKAGE = """
from ttt_mlflow.models.registry import ModelEntry

def build(request):
    raise AssertionError("nothing is built to be listed")

one = ModelEntry("other/one", build, "named by the entry point itself")

def several():
    return [ModelEntry("other/two", build, "of a function"), ModelEntry("other/three", build, "of a function")]

def single():
    return ModelEntry("other/four", build, "of a function that has one")
"""
ENTRY_POINTS = """[ttt_mlflow.models]
one = other_models:one
several = other_models:several
single = other_models:single

[another.group]
one = other_models:missing
"""


def no_factory(request: ModelRequest) -> DecodeModel:
    raise AssertionError(f"nobody asked for {request.name}")


@pytest.fixture(autouse=True)
def _own_registry(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a test registers is forgotten after it."""
    monkeypatch.setattr(registry, "_registered", models())


def test_standard_models() -> None:
    assert list(models())[: len(STANDARD)] == STANDARD
    assert all(entry.name == name and entry.description for name, entry in models().items())


def test_a_registered_model_is_found() -> None:
    entry = register_model(ModelEntry("toy", no_factory, "a toy"))
    assert find_model("toy") is entry
    assert models()["toy"] is entry
    assert entry.missing() is None


def test_a_name_is_registered_once() -> None:
    register_model(ModelEntry("toy", no_factory, "a toy"))
    with pytest.raises(ValueError, match="model 'toy' is registered already"):
        register_model(ModelEntry("toy", no_factory, "another toy"))
    assert find_model("toy").description == "a toy"
    with pytest.raises(ValueError, match="model 'ttt-1b' is registered already"):
        register_model(ModelEntry("ttt-1b", no_factory, "not ours"))


def test_a_model_says_how_its_costs_go_on() -> None:
    toy = ModelEntry("toy", no_factory, "a toy")
    assert (toy.period, toy.cost_grows) == (1, False)
    assert find_model("ttt-1b").period == 16
    assert find_model("state-spaces/mamba-130m").period == 1
    with pytest.raises(ValueError, match=r"model 'toy': period=0: not allowed; it takes 1 or more decode steps"):
        ModelEntry("toy", no_factory, "a toy", period=0)


def test_what_another_package_needs_is_handed_on_and_light() -> None:
    program = """
import sys
from ttt_mlflow.micro import KernelEntry
assert not {"torch", "mlflow", "triton"} & set(sys.modules)
from ttt_mlflow.models import DecodeModel, Decoder, ModelEntry, ModelRequest
assert not {"mlflow", "triton"} & set(sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=180)
    assert done.returncode == 0, done.stderr


def test_the_list_is_a_copy() -> None:
    models().clear()
    assert "ttt-1b" in models()


def test_an_unknown_name_lists_the_names() -> None:
    register_model(ModelEntry("toy", no_factory, "a toy"))
    with pytest.raises(BadInput) as refused:
        find_model("ttt-2b")
    assert str(refused.value) == f"model_name=ttt-2b: no such model; the models are {', '.join(models())}"
    assert str(refused.value).endswith(", toy")
    assert all(name in str(refused.value) for name in STANDARD)


def install(folder: Path, entry_points: str, module: str) -> None:
    """A distribution as pip leaves it behind."""
    (folder / "other_models.py").write_text(module)
    metadata = folder / "other_models-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: other-models\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text(entry_points)


def import_models(folder: Path) -> subprocess.CompletedProcess[str]:
    """Print the models' names in a process that also sees what is installed in ``folder``."""
    program = """
from ttt_mlflow.models.registry import models, registered

for _ in range(2):  # the second answer is that of the first
    print(*models(), *registered().broken)
"""
    return subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(folder)])},
        capture_output=True,
        text=True,
        timeout=180,
    )


def test_models_of_another_installed_package(tmp_path: Path) -> None:
    install(tmp_path, ENTRY_POINTS, OTHER_PACKAGE)
    done = import_models(tmp_path)
    assert done.returncode == 0, done.stderr
    first, second = done.stdout.splitlines()
    assert first == second
    names = first.split()
    assert names[: len(STANDARD)] == STANDARD
    assert {"other/one", "other/two", "other/three", "other/four"} <= set(names)


def test_a_package_that_cannot_be_loaded_is_named_and_the_others_stay(tmp_path: Path) -> None:
    points = "[ttt_mlflow.models]\nmine = other_models:single\nbroken = no_such_package:entry\n"
    install(tmp_path, points, OTHER_PACKAGE)
    done = import_models(tmp_path)
    assert done.returncode == 0, done.stderr
    message = (
        "other-models 1.0: its models (ttt_mlflow.models: broken = no_such_package:entry) cannot be loaded "
        "(ModuleNotFoundError: No module named 'no_such_package'); repair or uninstall it"
    )
    first, second = done.stdout.splitlines()
    assert first == second
    assert first.endswith(f" {message}")
    assert " other/four " in first


@pytest.mark.parametrize("name", STANDARD)
def test_every_standard_model_counts_its_work(name: str) -> None:
    """More for a longer prompt, and of a decode step nothing that depends on the prompt."""
    entry = find_model(name)
    assert entry.work is not None
    for inner_net in entry.inner_nets or (None,):
        request = ModelRequest(name, inner_net, torch.float16, torch.device("cpu"), 0, None)
        step, same = (entry.work(request, Workload("decode", 4, tokens, 8)) for tokens in (1, 64))
        short, long = (entry.work(request, Workload("prefill", 4, tokens, 8)) for tokens in (16, 64))
        assert step == same
        assert 0 < total_bytes(short) < total_bytes(long)
        assert total_flops(long) > 3 * total_flops(short) > 3 * total_flops(step) > 0
