"""A refusal says what was asked, what stands in the way, and what to do: of each that stands in the code, its form."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.project import ROOT

PACKAGE = ROOT / "ttt_mlflow"
# what to do follows a semicolon, or it is an order after a colon
ORDERS = (": compare ", ": measure ", " needs one of ")


def refusals(path: Path) -> Iterator[tuple[int, str]]:
    """The line and the text of each message that is written out, with its expressions in braces."""
    for node in ast.walk(ast.parse(path.read_text())):
        if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "BadInput"):
            continue
        if not node.args or not isinstance(node.args[0], ast.JoinedStr | ast.Constant):
            continue  # made elsewhere
        parts = node.args[0].values if isinstance(node.args[0], ast.JoinedStr) else [node.args[0]]
        yield node.lineno, "".join(str(part.value) if isinstance(part, ast.Constant) else "{}" for part in parts)


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_every_refusal_says_what_to_do(path: Path) -> None:
    for line, text in refusals(path):
        assert "; " in text or text.endswith("{}") or any(order in text for order in ORDERS), f"{path}:{line}: {text}"


def test_what_is_looked_at_is_there() -> None:
    found = [text for path in PACKAGE.rglob("*.py") for _, text in refusals(path)]
    assert len(found) > 80
    assert "{}: no such folder; give a folder of records" in found
