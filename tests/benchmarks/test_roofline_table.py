from pathlib import Path

import pytest

from benchmarks.roofline_table import main, make_rows, parts_table, table
from tests.catalog import artifact, metrics, tags
from ttt_mlflow.record.journal import Journal


def journal(root: Path, ceilings: bool) -> Journal:
    made = Journal.create(root, {})
    made.update_metrics(metrics({"decode_tokens_per_s": 66564, "decode_step_ms_mean": 1.9, "min_bytes_per_step": 4e9}))
    floor = ("0.5", "0.25") if ceilings else ("", "")
    if ceilings:
        made.update_metrics(metrics({"roofline_ms": 0.75, "roofline_pct": 39.5}))
    rows = f"projections,2e9,1e9,{floor[0]}\nsampling,1e6,0,{floor[1]}\n"
    made.write_artifact(artifact("roofline/parts.csv"), "part,bytes,flops,floor_ms\n" + rows)
    made.update_tags(tags({"ttt.verdict": "valid"}))
    return made


def cells(markdown: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in markdown.splitlines()]


def test_a_row_a_run(tmp_path: Path) -> None:
    head, _, row, failed = cells(
        table([("TTT-Linear", 128, journal(tmp_path, True)), ("Mamba", 512, "not measured: a | b")]).replace("\\|", "/")
    )
    measured = dict(zip(head, row, strict=True))
    assert measured["tokens/s"] == "66,564"
    assert measured["roofline %"] == "39.5"
    assert measured["GB per step"] == "4"
    assert measured["GFLOP per step"] == ""
    assert measured["verdict"] == "valid"
    assert failed == ["Mamba", "512", *[""] * 6, "not measured: a / b"]


@pytest.mark.parametrize(("ceilings", "shown"), [(True, ["0.5 ms", "0.25 ms"]), (False, ["2 GB", "0.001 GB"])])
def test_the_parts(tmp_path: Path, ceilings: bool, shown: list[str]) -> None:
    head, _, row = cells(parts_table([("TTT-Linear", 128, journal(tmp_path, ceilings)), ("Mamba", 1, "not measured")]))
    parts = dict(zip(head, row, strict=True))
    assert [parts["projections"], parts["sampling"]] == shown
    assert parts["feed-forward"] == ""


@pytest.mark.long
def test_it_is_made_for_real(tmp_path: Path) -> None:
    words = [str(tmp_path), "--cpu", "--models", "TTT-Linear", "--batches", "1,2", "--genlen", "4", "--seconds", "0.2"]
    assert main(words) == 0
    text = (tmp_path / "roofline.md").read_text()
    assert "| TTT-Linear | 1 | " in text
    assert "| TTT-Linear | 2 | " in text
    assert "inner net state" in text


def test_a_batch_that_cannot_be_measured_has_a_row(tmp_path: Path) -> None:
    models = {"TTT": {"model_name": "ttt-tiny"}}
    rows = make_rows(tmp_path, models, {"device": "cpu", "genlen": "2", "repeats": "2", "warmup": "0"}, [0, 1])
    assert rows[0][:2] == ("TTT", 0)
    assert isinstance(rows[0][2], str)
    assert rows[0][2].startswith("not measured: batch=0: not allowed")
    assert isinstance(rows[1][2], Journal)


@pytest.mark.parametrize("words", [["--models", "GPT"], ["--batches", "many"]])
def test_what_cannot_be_asked(tmp_path: Path, words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path), *words]) == 2
    assert "--models takes any of" in capsys.readouterr().err
