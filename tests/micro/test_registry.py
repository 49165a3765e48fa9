"""Which kernels can be timed: our own, and those of other installed packages."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from ttt_mlflow.errors import BadInput
from ttt_mlflow.kernels.ttt_linear.reference import linear_decode, linear_prefill
from ttt_mlflow.kernels.ttt_mlp.reference import mlp_decode, mlp_prefill
from ttt_mlflow.micro import registry
from ttt_mlflow.micro.registry import DEFAULT_CPU, DEFAULT_GPU, KernelEntry, find_kernel, registered

ROOT = Path(__file__).parents[2]
OWN = [
    *("mlp_1_dual_triton", "mlp_1_accumulate_triton", "mlp_1_dual", "mlp_1_dual_compiled"),
    *("mlp_1_prefill_triton", "mlp_1_prefill"),
    *("mlp_2_dual_triton", "mlp_2_accumulate_triton", "mlp_2_dual", "mlp_2_dual_compiled"),
    *("mlp_2_prefill_triton", "mlp_2_prefill"),
]
# a package that somebody else has installed, with its kernels in the three forms that an entry point may name
OTHER_PACKAGE = """
from ttt_mlflow.micro.registry import KernelEntry

def load():
    raise AssertionError("nothing is loaded to be listed")

one = KernelEntry("other.one", "linear", "rank-1", load, "named by the entry point itself")

def several():
    return [KernelEntry(f"other-{n}", "mlp", "accumulating", load, "of a function", needs_gpu=True) for n in (2, 3)]

def single():
    return KernelEntry("other_4", "mlp", "rank-1", load, "of a function that has one")
"""
ENTRY_POINTS = """[ttt_mlflow.kernels]
one = other_kernels:one
several = other_kernels:several
single = other_kernels:single

[ttt_mlflow.models]
"""


def no_step() -> registry.Step:
    raise AssertionError("nobody asked for it")


def test_our_kernels() -> None:
    assert list(registered().entries)[: len(OWN)] == OWN
    assert all(entry.name == name and entry.description for name, entry in registered().entries.items())
    assert set(DEFAULT_GPU) | set(DEFAULT_CPU) < set(OWN)
    assert [name for name in OWN if find_kernel(name).needs_gpu] == [name for name in OWN if name.endswith("_triton")]
    assert {find_kernel(name).layer_type for name in OWN if "_1_" in name} == {"linear"}
    assert {find_kernel(name).layer_type for name in OWN if "_2_" in name} == {"mlp"}
    assert [name for name in OWN if find_kernel(name).form == "accumulating"] == [
        name for name in OWN if "accumulate" in name
    ]
    assert [name for name in OWN if find_kernel(name).mode == "prefill"] == [name for name in OWN if "prefill" in name]


def test_the_eager_kernels_are_the_models_inner_nets() -> None:
    assert find_kernel("mlp_1_dual").load() is linear_decode
    assert find_kernel("mlp_2_dual").load() is mlp_decode
    assert find_kernel("mlp_1_prefill").load() is linear_prefill
    assert find_kernel("mlp_2_prefill").load() is mlp_prefill


def test_an_unknown_name_lists_the_names() -> None:
    with pytest.raises(BadInput) as refused:
        find_kernel("mlp_3_dual")
    kernels = ", ".join(registered().entries)
    assert str(refused.value) == (
        f"kernels=mlp_3_dual: no such kernel; the kernels are {kernels}; the groups are layer"
    )


@pytest.mark.parametrize("name", ["", "a/b", "ä", "a b", "x" * 101])
def test_a_name_must_fit_into_a_metrics_name(name: str) -> None:
    with pytest.raises(ValueError, match="a name consists of letters"):
        KernelEntry(name, "linear", "rank-1", no_step, "")


@pytest.mark.parametrize(("layer_type", "form"), [("conv", "rank-1"), ("mlp", "rank-2")])
def test_a_kernel_is_of_a_known_kind(layer_type: str, form: str) -> None:
    with pytest.raises(ValueError, match="is not one of"):
        KernelEntry("k", layer_type, form, no_step, "")


def test_a_kernel_is_of_a_known_mode() -> None:
    assert KernelEntry("k", "mlp", "rank-1", no_step, "").mode == "decode", "that of packages that do not say"
    with pytest.raises(ValueError, match="'train' is not one of decode, prefill"):
        KernelEntry("k", "mlp", "rank-1", no_step, "", mode="train")


@pytest.mark.parametrize(("form", "overlaps"), [("accumulating", False), ("rank-1", True)])
def test_a_prefill_kernel_keeps_vectors_and_overlaps_with_nothing(form: str, overlaps: bool) -> None:
    with pytest.raises(ValueError, match="a prefill kernel has the form rank-1 and no launches that overlap"):
        KernelEntry("k", "mlp", form, no_step, "", overlaps=overlaps, mode="prefill")


def test_compiling_for_a_cpu_needs_a_compiler(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    entry = find_kernel("mlp_1_dual_compiled")
    monkeypatch.setenv("CXX", "g++")
    assert entry.missing("cpu") is None
    monkeypatch.delenv("CXX")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "C++ compiler" in (entry.missing("cpu") or "")
    assert entry.missing("cuda") is None


# Other packages


def install(folder: Path, entry_points: str, module: str, name: str = "other_kernels") -> None:
    """A distribution as pip leaves it behind."""
    (folder / f"{name}.py").write_text(module)
    metadata = folder / f"{name}-1.0.dist-info"
    metadata.mkdir()
    project = name.replace("_", "-")
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {project}\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text(entry_points)


def micro(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """``ttt-mlflow micro`` where what is installed in ``folder`` is seen too."""
    return subprocess.run(
        [sys.executable, "-m", "ttt_mlflow", "micro", *arguments],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(folder)])},
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=180,
    )


def test_kernels_of_another_installed_package_are_listed(tmp_path: Path) -> None:
    install(tmp_path, ENTRY_POINTS, OTHER_PACKAGE)
    done = micro(tmp_path, "--list")
    assert done.returncode == 0, done.stderr
    listed = {line.split()[0]: line for line in done.stdout.splitlines()}
    assert list(listed)[: len(OWN)] == OWN
    assert set(listed) >= {"other.one", "other-2", "other-3", "other_4"}
    assert "named by the entry point itself" in listed["other.one"]
    assert "needs a GPU" in listed["other-2"]
    assert "needs a GPU" not in listed["other_4"]


@pytest.mark.parametrize(
    ("module", "why"),
    [
        ("import no_such_package\n", "ModuleNotFoundError: No module named 'no_such_package'"),
        pytest.param("mine = 3\n", "TypeError: 3 is not a KernelEntry", marks=pytest.mark.long),
        pytest.param(
            "from ttt_mlflow.micro.registry import KernelEntry\n"
            "mine = KernelEntry('mlp_1_dual', 'linear', 'rank-1', lambda: None, '')\n",
            "ValueError: kernel 'mlp_1_dual' is registered already",
            marks=pytest.mark.long,
        ),
    ],
)
def test_a_package_that_cannot_be_loaded_is_named_and_the_others_stay(tmp_path: Path, module: str, why: str) -> None:
    install(tmp_path, "[ttt_mlflow.kernels]\nmine = other_kernels:mine\n", module)
    message = (
        "other-kernels 1.0: its kernels (ttt_mlflow.kernels: mine = other_kernels:mine) cannot be loaded "
        f"({why}); repair or uninstall it"
    )
    listed = micro(tmp_path, "--list")
    assert listed.returncode == 0
    assert listed.stderr.splitlines() == [f"Not available: {message}"]
    assert [line.split()[0] for line in listed.stdout.splitlines()][: len(OWN)] == OWN

    asked = micro(tmp_path, "--kernels", "theirs")
    assert asked.returncode == 2
    assert asked.stderr.splitlines()[1] == f"Error: {message}"
    assert "Traceback" not in asked.stderr
