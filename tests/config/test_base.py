"""What may be asked of the micro-benchmark, as text and typed. Decode configurations are in test_cli.py."""

from collections.abc import Mapping
from typing import Any, ClassVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ttt_mlflow.config import CONFIGURATIONS, Configuration, MicroConfig, RunConfig
from ttt_mlflow.config.numbers import AT_MOST
from ttt_mlflow.errors import BadInput
from ttt_mlflow.measurement.thresholds import Thresholds

WORDS = st.text(st.characters(exclude_characters=",", exclude_categories=["Cs", "Z", "Cc"]), min_size=1)


@given(st.lists(st.integers(1, 10**9), min_size=1))
def test_batches_are_the_points_of_an_axis(batches: list[int]) -> None:
    parsed = MicroConfig.parse({"batches": ",".join(map(str, batches))}).batches
    assert parsed == tuple(sorted(set(batches)))
    assert MicroConfig.parse({"batches": batches}).batches == parsed


@given(st.lists(WORDS, min_size=1).filter(lambda words: words != ["auto"]))
def test_kernels_keep_their_order(kernels: list[str]) -> None:
    text = " , ".join(kernels)
    if text.lower() != "auto":
        assert MicroConfig.parse({"kernels": text}).kernels == tuple(dict.fromkeys(kernels))


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_any_text_as_batches_is_numbers_or_one_line(text: str) -> None:
    batches, message = None, None
    try:
        batches = MicroConfig.parse({"batches": text}).batches
    except BadInput as refused:
        message = str(refused)
    shown = text if text.isprintable() else ""
    wrong = f"{shown}: not allowed; batches takes auto, or whole numbers of at least 1, comma-separated{AT_MOST}"
    assert message is None or (message.startswith(f"batches={shown}") and message.endswith(wrong))
    assert message is None or message.isprintable()
    assert batches is None or all(batch >= 1 for batch in batches)


@pytest.mark.parametrize("name", ["thresholds", "kernels", "batches", "seed", "nsys_args", "no_such"])
@pytest.mark.parametrize("value", ["\ud800", "a=\udcff,b", ("x", "\udfff")])
def test_half_a_character_is_refused_in_one_line(name: str, value: object) -> None:
    """Bytes of another encoding on a command line."""
    with pytest.raises(BadInput) as refused:
        MicroConfig.parse({name: value})
    (line,) = str(refused.value).splitlines()
    assert line.startswith(name)
    assert line.isprintable()


@pytest.mark.parametrize("text", ["", "auto", " AUTO "])
def test_nothing_asked_for_is_auto(text: str) -> None:
    config = MicroConfig.parse({"kernels": text, "batches": text, "device": text})
    assert (config.kernels, config.batches, config.device) == (None, None, None)
    assert config.as_params()["kernels"] == "auto"


@pytest.mark.parametrize(("text", "parsed"), [("none", ()), ("", ()), ("nsys", ("nsys",)), ("true", ("nsys",))])
def test_profile(text: str, parsed: tuple[str, ...]) -> None:
    assert MicroConfig.parse({"profile": text}).profile == parsed


@pytest.mark.parametrize(
    ("name", "value", "takes"),
    [
        ("kernels", "mlp_1_dual,,", "auto, or names that `ttt-mlflow micro --list` shows, comma-separated"),
        ("batches", "128,0", f"auto, or whole numbers of at least 1, comma-separated{AT_MOST}"),
        ("heads", "0", f"a whole number of at least 1{AT_MOST}"),
        ("head_dim", "64.5", f"a whole number of at least 1{AT_MOST}"),
        ("dtype", "auto", "float16, bfloat16 or float32"),
        ("device", "tpu", "auto, cpu or cuda"),
        ("seconds", "0", "a number of seconds above 0, at most 100000000"),
        ("seed", "-1", "a whole number of at least 0 and below 2**63, in digits alone"),
        ("profile", "torch", "none or nsys"),
    ],
)
def test_bad_values_say_what_is_taken(name: str, value: str, takes: str) -> None:
    with pytest.raises(BadInput) as refused:
        MicroConfig.parse({name: value})
    assert str(refused.value) == f"{name}={value}: not allowed; {name} takes {takes}"


def test_all_faults_at_once() -> None:
    with pytest.raises(BadInput) as refused:
        MicroConfig.parse({"heads": "x", "batches": "1,x,y", "foo": "1"})
    assert [line.split(":")[0] for line in str(refused.value).splitlines()] == ["batches=1,x,y", "heads=x", "foo"]


@pytest.mark.parametrize("kind", CONFIGURATIONS.values())
def test_each_field_says_what_it_takes(kind: type[Configuration]) -> None:
    assert set(kind.takes) <= set(kind.model_fields)
    assert all(field.description for field in kind.model_fields.values())


def test_the_id_is_that_of_what_is_measured() -> None:
    config = MicroConfig.parse({"kernels": "a", "batches": "1"})
    same = MicroConfig.parse({"kernels": "a", "batches": "1", "seconds": "9", "profile": "nsys"})
    assert config.config_id() == same.config_id()
    assert config.config_id() != MicroConfig.parse({"kernels": "a", "batches": "2"}).config_id()


def test_each_field_is_of_what_is_measured_or_of_how() -> None:
    """A new field belongs into ``how_measured``, or into ``added`` with the value that the program had before it."""
    for kind in CONFIGURATIONS.values():
        parts = (*kind.identity, *kind.added, *kind.how_measured)
        assert sorted(parts) == sorted(set(kind.model_fields) - {"seed"})


USED = {
    "inner_net": "mlp_1_dual_triton",
    "dtype": "float16",
    "use_compile": "true",
    "cuda_graph": "true",
    "device": "cuda",
}
IDS: list[tuple[Configuration, str | None, str]] = [
    (RunConfig.parse(USED), None, "1e48476b93c3756a"),
    (
        RunConfig.parse({**USED, "batch": "1024", "inner_net": "mlp_2_dual_triton", "seed": "3"}),
        None,
        "f4b13db5e29cad95",
    ),
    (RunConfig.parse({**USED, "checkpoint": "/a/model.safetensors"}), "0123456789abcdef", "f12b795a9f25fa9e"),
    (MicroConfig.parse({"kernels": "a", "batches": "1", "device": "cpu"}), None, "c1a54be5a538adce"),
]


@pytest.mark.parametrize(("config", "weights", "expected"), IDS)
def test_ids_never_change(config: Configuration, weights: str | None, expected: str) -> None:
    """Runs of different versions of the program are paired by these ids: a change here unpairs every recorded run."""
    assert config.config_id(weights) == expected


def test_neither_seed_nor_path_nor_budget_changes_an_id() -> None:
    one = RunConfig.parse({"checkpoint": "/a", "seed": "1", "max_seconds": "5", "profile": "nsys"})
    other = RunConfig.parse({"checkpoint": "/b", "seed": "2"})
    assert one.config_id("same") == other.config_id("same")
    assert one.config_id("same") != other.config_id("different")


def test_a_later_field_enters_an_id_only_with_another_value_than_before(monkeypatch: pytest.MonkeyPatch) -> None:
    class Later(RunConfig):
        kv_heads: int = 8  # today's default; the program worked with 4 before it had the field
        added: ClassVar[Mapping[str, tuple[Any, ...]]] = {"kv_heads": (4,)}

    old = RunConfig.parse({}).config_id()
    assert Later.parse({"kv_heads": 4}).config_id() == old
    assert Later.parse({}).config_id() != old


@pytest.mark.parametrize("kind", [RunConfig, MicroConfig])
def test_thresholds(kind: type[RunConfig] | type[MicroConfig]) -> None:
    assert kind.parse({}).thresholds == kind.parse({"thresholds": "none"}).thresholds == ()
    asked = kind.parse({"thresholds": " section_s = 2, drift_pct=0.1 "})
    assert asked.thresholds == ("drift_pct=0.1", "section_s=2")
    assert asked.as_params()["thresholds"] == "drift_pct=0.1,section_s=2"
    assert kind.parse(asked.as_params() | {"profile": "none"}).thresholds == asked.thresholds
    for bad in ("drift=1", "drift_pct", "drift_pct=-1", "drift_pct=1,drift_pct=2", "drift_pct=1,"):
        with pytest.raises(BadInput, match="thresholds takes none, or name=value"):
            kind.parse({"thresholds": bad})


def test_a_measurement_is_long_enough_for_its_own_threshold() -> None:
    assert RunConfig.parse({}).budget.section_s == 2 * Thresholds().section_s
    assert RunConfig.parse({"thresholds": "section_s=4"}).budget.section_s == 8


def test_how_it_is_judged_is_not_what_is_measured() -> None:
    strict = RunConfig.parse({"thresholds": "drift_pct=0.1", "retry_invalid": "2"})
    assert strict.config_id() == RunConfig.parse({}).config_id()
