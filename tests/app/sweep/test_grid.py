"""The cells of a grid: from words, presets and YAML files; their order, their keys, and what is refused."""

from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ttt_mlflow.app.sweep.grid import Cell, cells_of, interleaved, sweep_id, yardstick_of
from ttt_mlflow.config import RunConfig, SweepConfig
from ttt_mlflow.config.presets import GATED_DELTA, PEERS, PRESETS, PUBLISHED, RWKV_7
from ttt_mlflow.errors import BadInput

MAMBA, TTT = "state-spaces/mamba-1.4b", "ttt-1b"


def cells(**values: str) -> list[Cell]:
    return cells_of(SweepConfig.parse(values))


def grid(folder: Path, text: str) -> str:
    path = folder / "grid.yaml"
    path.write_text(text)
    return str(path)


def test_the_preset_is_the_seeds_three_loops() -> None:
    found = [cell.config for cell in cells(preset="decode-2k")]
    assert Counter((one.model_name, one.inner_net) for one in found) == {
        (MAMBA, None): 7,
        (TTT, "mlp_1_dual_triton"): 7,
        (TTT, "mlp_2_dual_triton"): 7,
    }
    assert {one.batch for one in found} == {128, 256, 512, 1024, 2048, 4096, 8192}
    assert {(one.mode, one.promptlen, one.genlen) for one in found} == {("decode", 1, 2048)}
    shorter = cells(preset="decode-2k", genlen="64", model_name=TTT, batch="128")
    assert [(one.config.inner_net, one.config.genlen) for one in shorter] == [
        ("mlp_1_dual_triton", 64),
        ("mlp_2_dual_triton", 64),
    ]


def test_the_published_loops() -> None:
    for name, sizes, lengths in (
        ("published-prefill", {8, 16, 32, 64, 128, 256, 512}, {("prefill", 2048 << n, 512) for n in range(5)}),
        ("published-decode", {64 << n for n in range(7)}, {("decode", 1, 512 << n) for n in range(5)}),
        ("published-both", {8, 16, 32, 64, 128, 256, 512}, {("decode", 2048 << n, 128) for n in range(5)}),
    ):
        found = [cell.config for cell in cells(preset=name)]
        assert len(found) == len(PUBLISHED) * 7 * 5
        assert {one.batch for one in found} == sizes
        assert {(one.mode, one.promptlen, one.genlen) for one in found} == lengths


def test_the_peers_are_compared_by_batch_by_prompt_and_by_context() -> None:
    found = [cell.config for cell in cells(preset="peers")]
    assert len({(one.model_name, one.inner_net) for one in found}) == len(PEERS) == 8
    assert len(found) == 8 * (4 + 1 + 5)
    assert {one.promptlen for one in found if one.mode == "decode" and one.batch == 16} == {
        *(1, 2048, 4096, 8192, 16384, 32768),
    }
    fewer = cells(preset="peers", mode="decode", promptlen="1", genlen="8", batch="16", model_name="ttt-tiny")
    assert [cell.config.genlen for cell in fewer] == [8], "cells of several blocks that come out the same are one"


def test_a_model_of_a_preset_that_is_not_registered_has_cells_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ttt_mlflow.app.sweep.grid.is_registered", lambda name: name == TTT)
    found = [cell.config.model_name for cell in cells(preset="peers")]
    assert (found.count(GATED_DELTA), found.count(RWKV_7)) == (10, 10)
    with pytest.raises(BadInput, match="model_name=ttt-tniy: no such model"):
        cells(preset="peers", model_name="ttt-tniy")


def yardstick(**values: str) -> Cell | None:
    return yardstick_of(SweepConfig.parse(values))


def test_the_yardstick_is_that_of_the_grid_unless_another_is_given(tmp_path: Path) -> None:
    assert yardstick(batch="1,2") is None
    own = yardstick(preset="peers", device="cpu", max_seconds="3", batch="1")
    assert own is not None
    assert (own.config.run_name, own.config.max_seconds) == ("ttt-1b mlp_1_dual_triton b1024 g256 cpu", 3)
    assert yardstick(preset="peers", yardstick="none") is None
    given = yardstick(preset="peers", yardstick="model_name=ttt-tiny batch=3  genlen=5")
    assert given == Cell(RunConfig.parse({"model_name": "ttt-tiny", "batch": 3, "genlen": 5}))
    path = grid(tmp_path, "yardstick: {model_name: ttt-tiny, batch: 7}\ncells: [{batch: 1}]")
    assert yardstick(grid=path) == Cell(RunConfig.parse({"model_name": "ttt-tiny", "batch": 7}))
    assert PRESETS["peers"].yardstick


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("ttt-1b", "yardstick=ttt-1b: ttt-1b: no name=value"),
        ("modl=ttt-1b", "yardstick=modl=ttt-1b: modl: no such parameter; the parameters are model_name"),
        ("batch=x", "yardstick: batch=x: not allowed; batch takes a whole number"),
        ("model_name=ttt-tniy", "yardstick: model_name=ttt-tniy: no such model"),
        ("batch=max", "yardstick: it is one run, with a batch that is a number"),
    ],
)
def test_what_is_no_yardstick_is_one_line(words: str, message: str) -> None:
    with pytest.raises(BadInput) as refused:
        yardstick(yardstick=words)
    (line,) = str(refused.value).splitlines()
    assert line.startswith(message)


def test_a_model_with_an_inner_net_of_its_own() -> None:
    found = cells(model_name=f"{MAMBA},{TTT}:mlp_1_dual_triton,ttt-125m:mlp_2_dual", batch="1,2")
    assert [(one.config.model_name, one.config.inner_net) for one in found[::2]] == [
        (MAMBA, None),
        (TTT, "mlp_1_dual_triton"),
        ("ttt-125m", "mlp_2_dual"),
    ]
    with pytest.raises(BadInput, match="model_name=ttt-1b:x: inner_net=y is given too; give one of the two"):
        cells(model_name="ttt-1b:x", inner_net="y")


def test_cells_that_come_out_the_same_are_one() -> None:
    found = cells(model_name="mamba,state-spaces/mamba-1.4b,ttt-1b", inner_net="mlp_1_dual,mlp_2_dual", batch="1")
    assert [cell.name for cell in found] == ["mamba-1.4b b1", "ttt-1b mlp_1_dual b1", "ttt-1b mlp_2_dual b1"]


def test_a_prompt_is_measured_once_whatever_would_follow_it() -> None:
    """It was measured for each number of decode steps, as if that made a difference."""
    found = cells(model_name="ttt-tiny", inner_net="mlp_1_dual", mode="decode,prefill", batch="1", genlen="8,16")
    assert [(cell.config.mode, cell.config.genlen) for cell in found] == [
        ("decode", 8),
        ("decode", 16),
        ("prefill", RunConfig().genlen),
    ]
    with pytest.raises(BadInput, match="genlen=8,16: none of the runs of this sweep decodes; leave it out"):
        cells(model_name="ttt-tiny", mode="prefill", batch="1", genlen="8,16")


def test_neighbors_in_time_differ_in_the_model() -> None:
    order = [cell.name for cell in interleaved(cells(preset="decode-2k", genlen="512", batch="128,256,512"))]
    linear, mlp, mamba = "ttt-1b mlp_1_dual_triton", "ttt-1b mlp_2_dual_triton", "mamba-1.4b"
    assert order == [
        *[f"{mamba} b128", f"{linear} b128", f"{mlp} b128"],
        *[f"{mlp} b256", f"{linear} b256", f"{mamba} b256"],
        *[f"{mamba} b512", f"{linear} b512", f"{mlp} b512"],
    ]


@given(st.permutations(["1", "2", "4", "8"]), st.permutations(["mlp_1_dual", "mlp_2_dual"]))
def test_the_id_is_that_of_the_grid(batches: list[str], nets: list[str]) -> None:
    same = cells(model_name="ttt-tiny", batch=",".join(batches), inner_net=",".join(nets))
    usual = cells(model_name="ttt-tiny", batch="1,2,4,8", inner_net="mlp_1_dual,mlp_2_dual")
    assert sweep_id(same) == sweep_id(usual)
    assert sorted(cell.key for cell in interleaved(same)) == sorted(cell.key for cell in usual)


def test_what_makes_another_sweep_and_what_does_not() -> None:
    usual = sweep_id(cells(batch="1,2"))
    assert sweep_id(cells(batch="1,2", retry_invalid="3", executor="inline", redo="all")) == usual
    for other in ({"batch": "1"}, {"batch": "1,max"}, {"batch": "1,2", "max_seconds": "5"}):
        assert sweep_id(cells(**other)) != usual


def test_ids_of_sweeps_and_cells_never_change() -> None:
    """A sweep is resumed, and its cells are found again, by these ids: a new parameter changes none of them."""
    assert Cell(RunConfig.parse({})).key == "fea7dc98ae4d2f7f"
    assert sweep_id([Cell(RunConfig.parse({}))]) == "65253b657c12d292"
    assert SweepConfig.parse({}).config_id() == "f5f769141288c28e"
    assert Cell(RunConfig.parse({"attn_impl": "math"})).key != "fea7dc98ae4d2f7f"


def test_inner_nets_and_attentions_are_for_the_models_that_have_some() -> None:
    found = cells(
        model_name="ttt-tiny,transformer-tiny,state-spaces/mamba-130m",
        inner_net="mlp_1_dual,mlp_2_dual",
        attn_impl="math,flash",
    )
    chosen = [(one.config.model_name, one.config.inner_net, one.config.attn_impl) for one in found]
    assert chosen == [
        ("ttt-tiny", "mlp_1_dual", None),
        ("ttt-tiny", "mlp_2_dual", None),
        ("transformer-tiny", None, "math"),
        ("transformer-tiny", None, "flash"),
        ("state-spaces/mamba-130m", None, None),
    ]


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (
            {"inner_net": "mlp_1_dual,mlp_2_dual"},
            "inner_net=mlp_1_dual,mlp_2_dual: none of the models of this sweep has",
        ),
        ({"decode_path": "launches"}, "decode_path=launches: none of the models of this sweep has a choice of"),
        ({"attn_impl": "math"}, "attn_impl=math: none of the models of this sweep has an attention"),
    ],
)
def test_what_none_of_the_models_has_is_refused(asked: dict[str, str], message: str) -> None:
    with pytest.raises(BadInput, match=message):
        cells(model_name="state-spaces/mamba-130m", batch="1", **asked)
    assert len(cells(model_name="state-spaces/mamba-130m", batch="1", **dict.fromkeys(asked, "auto"))) == 1


def test_a_yaml_file_for_a_grid_that_is_not_full(tmp_path: Path) -> None:
    text = """
    defaults: {genlen: 64, use_compile: false}
    cells:
      - {model_name: state-spaces/mamba-1.4b, batch: [128, max]}
      - model_name: ttt-1b
        inner_net: [mlp_1_dual_triton, mlp_2_dual_triton]
        batch: 256
        genlen: 8
    """
    found = cells(grid=grid(tmp_path, text))
    assert [(one.config.model_name, one.config.batch, one.asks_largest, one.config.genlen) for one in found] == [
        (MAMBA, 128, False, 64),
        (MAMBA, 1, True, 64),
        (TTT, 256, False, 8),
        (TTT, 256, False, 8),
    ]
    assert {one.config.use_compile for one in found} == {False}
    given = cells(grid=grid(tmp_path, text), dtype="bfloat16", genlen="16")
    assert {(one.config.dtype, one.config.genlen) for one in given} == {("bfloat16", 16)}


THIRTY_NINE = ", ".join(f"{{model_name: ttt-tiny, batch: {batch}}}" for batch in range(1, 40))
FORTY = f"cells: [{THIRTY_NINE}, %s]"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("cells: [", "not YAML ("),
        ("\t- x", "not YAML ("),
        ("- 1", "not a grid; it takes a mapping with `cells`, a list of mappings of parameters to values"),
        ("", "not a grid"),
        ("batch: [1, 2]", "not a grid"),
        ("cells: {batch: 1}", "not a grid"),
        ("cells: []", "an empty grid; name at least one run under `cells`"),
        ("cells: [1]", "cell 1: not a mapping of parameters to values"),
        ("cells: [{batch: []}]", "cell 1: batch: an empty list; give at least one value"),
        ("cells: [{batch: {a: 1}}]", "cell 1: batch: lists and mappings within a list have no meaning here"),
        ("cells: [{max_seconds: [1, 2]}]", "cell 1: max_seconds takes one value"),
        ("defaults: [1]\ncells: [{batch: 1}]", "defaults: not a mapping of parameters to values"),
        (FORTY % "{modl_name: ttt-tiny}", "cell 40: modl_name: no such parameter; the parameters are model_name"),
        (FORTY % "{model_name: ttt-tniy}", None),
        (FORTY % "{model_name: ttt-tiny, batch: 7}", "ttt-tiny b7 is given twice, in the cells 7 and 40; remove one"),
        ("!!python/object/apply:os.system [true]", "not YAML ("),
        ("cells: [{batch: 1}]\nmore: 1", "not a grid"),
        (
            "cells: [{batch: 1, retry_invalid: 0}, {batch: 1, retry_invalid: 1}]",
            "ttt-1b b1 is given twice, in the cells 1 and 2; remove one",
        ),
        ("cells: [{batch: 1}]\nyardstick: ttt-1b", "yardstick: not a mapping of parameters to values"),
    ],
)
def test_a_file_that_is_no_grid_is_one_line(tmp_path: Path, text: str, message: str | None) -> None:
    path = grid(tmp_path, text)
    with pytest.raises(BadInput) as refused:
        cells(grid=path)
    (line,) = str(refused.value).splitlines()
    expected = "model_name=ttt-tniy: no such model" if message is None else f"grid={path}: {message}"
    assert line.startswith(expected)


def test_one_wrong_name_is_told_once_for_all_its_cells() -> None:
    with pytest.raises(BadInput) as refused:
        cells(dtype="float16,flaot16", batch="1,2,3,4", model_name="ttt-tiny,ttt-125m")
    assert str(refused.value) == "dtype=flaot16: not allowed; dtype takes auto, float16, bfloat16 or float32"


def test_a_cell_is_a_run() -> None:
    assert cells() == [Cell(RunConfig())]
