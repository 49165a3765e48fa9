"""What the documentation shows is what happens: the examples, the parameters' names, the layout, the links."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.project import QUICK, ROOT, environment, new_store, run, ttt_mlflow_run
from ttt_mlflow.config import MicroConfig
from ttt_mlflow.micro.registry import OWN

README = ROOT / "README.md"
PAGES = [README, ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md")), ROOT / "benchmarks/README.md"]
README_LINES = 150
BENCHMARKS_LINES = 100


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", page.read_text(), re.DOTALL)


@pytest.mark.long
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
    assert "toy b2 g3 cpu" in done.stdout


@pytest.mark.long
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


@pytest.mark.long
def test_the_example_in_python_measures_and_publishes(tmp_path: Path) -> None:
    (code,) = blocks(ROOT / "docs/python.md", "python")
    assert len(code.splitlines()) < 30
    script = tmp_path / "example.py"
    script.write_text(code)
    done = run([sys.executable, str(script)], {**environment(new_store(tmp_path)), "PYTHONPATH": str(ROOT)})
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.startswith("ok\n")
    assert done.stdout.endswith("\nok\n")


def test_the_readmes_python_is_python() -> None:
    for code in blocks(README, "python"):
        compile(code, "README.md", "exec")


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_and_pictures_exist(page: Path) -> None:
    for target, anchor in re.findall(r"\]\(([^)#]*)#?([^)]*)\)", page.read_text()):
        if "://" in target:
            continue
        path = page.parent / target if target else page
        assert path.exists(), f"{page.name} points to {target}"
        if anchor:
            assert anchor in anchors(path), f"{page.name} points to {target}#{anchor}"


def test_the_index_has_every_page() -> None:
    pages = {page.name for page in (ROOT / "docs").glob("*.md")} - {"README.md"}
    for index, prefix in ((README, "docs/"), (ROOT / "docs/README.md", "")):
        text = index.read_text()
        assert {page for page in pages if f"({prefix}{page})" not in text} == set(), index


def test_the_benchmarks_link_every_result() -> None:
    text = (ROOT / "benchmarks/README.md").read_text()
    results = {path.relative_to(ROOT / "benchmarks").as_posix() for path in ROOT.glob("benchmarks/results/*/*")}
    assert {result for result in results if f"({result})" not in text} == set()


def test_the_layout_is_that_of_the_package() -> None:
    layout = README.read_text().split("\n## Layout\n")[1].split("```")[1]
    listed = [line.split()[0] for line in layout.splitlines() if line and not line.startswith(" ")]
    entries = [path for path in (ROOT / "ttt_mlflow").iterdir() if not path.name.startswith("__")]
    folders = [f"{path.name}/" for path in entries if path.is_dir()]
    assert sorted(listed) == sorted(folders + [path.name for path in entries if path.suffix == ".py"])


def test_the_first_pages_are_short() -> None:
    assert len(README.read_text().splitlines()) < README_LINES
    assert len((ROOT / "benchmarks/README.md").read_text().splitlines()) <= BENCHMARKS_LINES


def test_the_names_page_has_every_parameter_of_the_cli() -> None:
    text = "".join((ROOT / "docs" / page).read_text() for page in ("names.md", "running.md"))
    shown = subprocess.run(
        [sys.executable, "-m", "ttt_mlflow", "run", "--help"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    options = set(re.findall(r"--([a-z]+(?:-[a-z]+)*)", shown)) - {"help", "no-cg"}
    missing = {option for option in options if option.replace("-", "_") not in text and option not in text}
    assert not missing
