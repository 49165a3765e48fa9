"""What the documentation shows is what happens: the example model, the commands' names, the links."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.project import QUICK, ROOT, environment, new_store, run, ttt_mlflow_run
from ttt_mlflow.config import MicroConfig
from ttt_mlflow.micro.registry import OWN

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), ROOT / "benchmarks/README.md"]


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", page.read_text(), re.DOTALL)


def test_the_example_model_is_short_and_is_measured(tmp_path: Path) -> None:
    (code,) = blocks(ROOT / "docs/adding-a-model.md", "python")
    assert len(code.splitlines()) < 30
    (entry_points,) = blocks(ROOT / "docs/adding-a-model.md", "toml")
    site = tmp_path / "site"
    info = site / "toy_models-1.0.dist-info"
    info.mkdir(parents=True)
    (site / "toy_models.py").write_text(code)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: toy-models\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        entry_points.replace('[project.entry-points."ttt_mlflow.models"]', "[ttt_mlflow.models]").replace('"', "")
    )
    command = ttt_mlflow_run({**QUICK, "model_name": "toy", "logdir": str(tmp_path / "runs")})
    done = run(command, {**environment(new_store(tmp_path)), "PYTHONPATH": str(site)})
    assert done.returncode == 0, done.stderr
    assert "toy decode b2 p1 g3" in done.stdout


def test_the_example_kernel_is_right_and_is_timed(tmp_path: Path) -> None:
    (code,) = blocks(ROOT / "docs/adding-a-kernel.md", "python")
    (entry_points,) = blocks(ROOT / "docs/adding-a-kernel.md", "toml")
    site = tmp_path / "site"
    info = site / "toy_kernels-1.0.dist-info"
    info.mkdir(parents=True)
    (site / "toy_kernels.py").write_text(code)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: toy-kernels\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        entry_points.replace('[project.entry-points."ttt_mlflow.kernels"]', "[ttt_mlflow.kernels]").replace('"', "")
    )
    asked = {"kernels": "linear_einsum,mlp_1_dual", "heads": "2", "batches": "1", "seconds": "0.01", "device": "cpu"}
    command = [sys.executable, "-m", "ttt_mlflow", "micro", "--logdir", str(tmp_path / "runs")]
    command += [f"--{name}={value}" for name, value in asked.items()]
    done = run(command, {**environment(new_store(tmp_path)), "PYTHONPATH": str(site)})
    assert done.returncode == 0, done.stdout + done.stderr
    assert "linear_einsum batch 1: " in done.stdout


def test_the_micro_page_names_every_parameter_and_kernel() -> None:
    text = (ROOT / "docs/micro.md").read_text()
    assert all(f"`{name}`" in text for name in MicroConfig.model_fields)
    assert all(f"`{entry.name}`" in text for entry in OWN)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_and_pictures_exist(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text()):
        if "://" not in target:
            assert (page.parent / target).exists(), f"{page.name} points to {target}"


def test_the_readme_names_every_parameter_of_the_cli() -> None:
    text = (ROOT / "README.md").read_text()
    shown = subprocess.run(
        [sys.executable, "-m", "ttt_mlflow", "run", "--help"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    options = set(re.findall(r"--([a-z]+(?:-[a-z]+)*)", shown)) - {"help", "no-cg"}
    missing = {option for option in options if option.replace("-", "_") not in text and option not in text}
    assert not missing
