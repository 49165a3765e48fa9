"""By what recorded runs are paired."""

from pathlib import Path

from tests.compared import recorded
from ttt_mlflow.record.identity import identity_of, pairing_keys

OLD = {"ttt.config_id": "0123456789ab"}  # the rule of version 0.1: 12 characters


def test_the_configurations_id_is_the_key(tmp_path: Path) -> None:
    runs = [recorded(tmp_path, [1.0], config=config) for config in ({}, {"seed": 3}, {"batch": 7})]
    keys = pairing_keys(runs)
    assert keys[runs[0].id] == keys[runs[1].id] != keys[runs[2].id]


def test_a_run_of_another_rule_is_paired_by_its_parameters(tmp_path: Path) -> None:
    old = recorded(tmp_path, [1.0], tag=OLD)
    new, other = recorded(tmp_path, [1.0], config={"seed": 5}), recorded(tmp_path, [1.0], config={"genlen": 9})
    keys = pairing_keys([old, new, other])
    assert keys[old.id] == keys[new.id] != keys[other.id]


def test_a_checkpoint_is_known_by_content_and_in_an_old_run_by_path(tmp_path: Path) -> None:
    one, same, else_ = (
        recorded(tmp_path, [1.0], config={"checkpoint": path}, tag={"ttt.config_id": "c" * 16} if path != "/z" else {})
        for path in ("/x", "/y", "/z")
    )
    keys = pairing_keys([one, same, else_])
    assert keys[one.id] == keys[same.id] != keys[else_.id]
    assert identity_of(one)["checkpoint"] == "/x"
