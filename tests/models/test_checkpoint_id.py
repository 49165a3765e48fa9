"""A checkpoint is known by its weights."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from ttt_mlflow.errors import BadInput
from ttt_mlflow.models.checkpoint_id import checkpoint_id

WEIGHTS = {"a": torch.arange(6.0).reshape(2, 3), "b": torch.ones(4, dtype=torch.bfloat16), "empty": torch.zeros(0)}


def saved(weights: dict[str, torch.Tensor], path: Path, metadata: dict[str, str] | None = None) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(weights, path, metadata)
    return str(path)


def test_the_same_weights_have_one_id_in_any_place_and_number_of_files(tmp_path: Path) -> None:
    one = checkpoint_id(saved(WEIGHTS, tmp_path / "one/model.safetensors"))
    assert one == checkpoint_id(saved(WEIGHTS, tmp_path / "elsewhere/w.safetensors", {"format": "pt"}))
    for number, name in enumerate(WEIGHTS):
        saved({name: WEIGHTS[name]}, tmp_path / f"shards/model-{number}.safetensors")
    assert one == checkpoint_id(str(tmp_path / "shards"))
    assert one == checkpoint_id(str(tmp_path / "one"))


@pytest.mark.parametrize(
    "other",
    [
        WEIGHTS | {"a": WEIGHTS["a"] + 1},
        WEIGHTS | {"a": WEIGHTS["a"].reshape(3, 2)},
        WEIGHTS | {"b": WEIGHTS["b"].view(torch.float16)},
        WEIGHTS | {"c": WEIGHTS["b"]},
    ],
    ids=["value", "shape", "dtype", "name"],
)
def test_other_weights_have_another_id(tmp_path: Path, other: dict[str, torch.Tensor]) -> None:
    other = {name: weight.clone() for name, weight in other.items()}
    assert checkpoint_id(saved(WEIGHTS, tmp_path / "a.safetensors")) != checkpoint_id(
        saved(other, tmp_path / "b.safetensors")
    )


def test_a_file_that_is_cut_off_is_bad_input(tmp_path: Path) -> None:
    path = Path(saved(WEIGHTS, tmp_path / "a.safetensors"))
    whole = path.read_bytes()
    for length in (0, 4, 20, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(BadInput, match="not a readable safetensors file"):
            checkpoint_id(str(path))
