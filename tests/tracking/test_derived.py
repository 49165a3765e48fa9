"""What the parameters and the end of a run determine, and that nothing replaces what the run has."""

from ttt_mlflow.tracking.derived import missing_metrics, missing_tags

PARAMS = {"model_name": "ttt-1b", "inner_net": "mlp_1_dual", "mode": "decode", "batch": "64", "promptlen": "1"}
PARAMS |= {"genlen": "512"}


def test_numbers_of_a_decode_run() -> None:
    assert missing_metrics("decode", PARAMS, {}) == {"batch": 64.0, "promptlen": 1.0, "genlen": 512.0}
    assert missing_metrics("decode", PARAMS, {"batch": 64.0, "genlen": 512.0}) == {"promptlen": 1.0}


def test_a_prefill_run_decodes_nothing() -> None:
    assert missing_metrics("prefill", PARAMS, {}) == {"batch": 64.0, "promptlen": 1.0}


def test_what_is_no_number_or_no_such_run_has_none() -> None:
    assert missing_metrics("decode", {"batch": "'64'"}, {}) == {}
    assert missing_metrics("micro", {"batches": "128,512"}, {}) == {}
    assert missing_metrics("compare", PARAMS, {}) == {}


def test_tags_of_a_run_of_version_0_1() -> None:
    tags = {"ttt.entry_point": "main", "ttt.status": "ok", "ttt.verdict": "valid"}
    added = missing_tags(PARAMS, tags)
    color = added.pop("mlflow.runColor")
    assert added == {"ttt.kind": "decode", "ttt.method": "1", "ttt.series": "ttt-1b mlp_1_dual"}
    assert color.startswith("#")
    assert missing_tags({**PARAMS, "mode": "prefill"}, tags)["ttt.kind"] == "prefill"
    assert missing_tags({"kernels": "auto"}, {"ttt.entry_point": "micro"}) == {"ttt.kind": "micro", "ttt.method": "1"}


def test_a_sweep_was_measured_by_no_method() -> None:
    """Its cells name theirs; the first one, which runs of version 0.1 had, would be wrong beside them."""
    assert missing_tags({"batch": "1,2"}, {"ttt.kind": "sweep", "ttt.entry_point": "sweep"}) == {}


def test_what_is_there_stays() -> None:
    there = {"ttt.kind": "sweep", "ttt.method": "3", "mlflow.runColor": "#123456", "ttt.series": "mine"}
    assert missing_tags(PARAMS, there) == {}
