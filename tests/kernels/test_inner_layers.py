"""The table of inner layers, and who may know that there are mini-batches."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from ttt_mlflow.kernels.inner_layers import INNER_LAYERS, LINEAR, MLP, InnerElements, inner_layer

PACKAGE = Path(__file__).parents[2] / "ttt_mlflow"
KNOW_MINI_BATCHES = ("kernels/", "models/ttt/", "micro/")


def test_the_table_is_keyed_by_the_public_names() -> None:
    assert INNER_LAYERS == {"linear": LINEAR, "mlp": MLP}
    assert [layer.title for layer in INNER_LAYERS.values()] == ["TTT-Linear", "TTT-MLP"]
    assert (LINEAR.base_lr, MLP.base_lr) == (1.0, 0.1)  # section 2.7 of the paper


def test_shapes_of_the_state_and_of_what_is_kept() -> None:
    assert LINEAR.state_shapes(8) == ((8, 8), (8,))
    assert MLP.state_shapes(8) == ((8, 32), (32,), (32, 8), (8,))
    assert LINEAR.slot_widths(8) == (8, 8)  # key, gradient
    assert MLP.slot_widths(8) == (8, 32, 32, 8)  # key and gradient, the second layer's input and gradient
    assert LINEAR.elements(8) == InnerElements(state=64, biases=8, vectors=16)
    assert MLP.elements(8) == InnerElements(state=8 * 64, biases=5 * 8, vectors=10 * 8)


def test_each_state_tensor_has_a_published_name() -> None:
    for layer in INNER_LAYERS.values():
        assert len(layer.state_names) == len(layer.state_shapes(64))


def test_an_unknown_name_is_refused() -> None:
    assert inner_layer("mlp") is MLP
    with pytest.raises(ValueError, match="layer_type=conv: linear or mlp"):
        inner_layer("conv")


def test_the_table_needs_no_torch() -> None:
    """The list of kernels is made from it, and is quick."""
    program = "import sys, ttt_mlflow.kernels.inner_layers; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", program], check=True, cwd=PACKAGE.parent, timeout=60)


def test_nothing_general_knows_mini_batches() -> None:
    """A model says its period; what measures, profiles and records asks the model."""
    knowing = []
    for file in PACKAGE.rglob("*.py"):
        path = file.relative_to(PACKAGE).as_posix()
        imports = [node for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.ImportFrom)]
        if any(alias.name == "MINI_BATCH" for node in imports for alias in node.names):
            knowing.append(path)
    assert [path for path in knowing if not path.startswith(KNOW_MINI_BATCHES)] == []
