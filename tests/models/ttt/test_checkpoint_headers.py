"""Whatever a safetensors file has in its header: it is loaded, or refused in one line before anything is built."""

import json
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save

from tests.models.ttt.test_published_config import of_sizes
from ttt_mlflow.errors import BadInput
from ttt_mlflow.models.entry import ModelRequest
from ttt_mlflow.models.ttt.sizes import build, check

HIDDEN, INNER, HEADS, VOCABULARY = 8, 6, 2, 5
SIZES = {
    "hidden_size": HIDDEN,
    "intermediate_size": INNER,
    "num_attention_heads": HEADS,
    "num_hidden_layers": 1,
    "vocab_size": VOCABULARY,
}


@cache
def right() -> bytes:
    """A checkpoint that fits, in some KB."""
    return bytes(save(of_sizes(HIDDEN, INNER, HEADS, 1, VOCABULARY)))


def header_of(file: bytes) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(file[8 : 8 + int.from_bytes(file[:8], "little")])
    return found


NAMES = sorted(header_of(right()))
DTYPES = st.sampled_from(["F64", "F32", "BF16", "F16", "I64", "BOOL", "U8", "F8_E4M3", "C64", "X", ""])
NUMBERS = st.integers(-1, 200) | st.sampled_from([2**31, 2**63 - 1, 2**63, 2**64, 10**30])
JSON = st.recursive(
    st.none() | st.booleans() | NUMBERS | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
ENTRIES = st.fixed_dictionaries(
    {},
    optional={
        "dtype": DTYPES | JSON,
        "shape": st.lists(NUMBERS, max_size=4) | JSON,
        "data_offsets": st.lists(NUMBERS, min_size=2, max_size=2) | JSON,
    },
)
KEYS = st.sampled_from([*NAMES, "__metadata__"]) | st.text(max_size=8)


@st.composite
def changed(draw: st.DrawFn) -> bytes:
    """The right header with other values, more or fewer weights, other names, and the same data behind it."""
    header = header_of(right())
    for name in draw(st.lists(st.sampled_from(NAMES), max_size=3)):
        header[name] = header[name] | draw(ENTRIES) if isinstance(header.get(name), dict) else draw(JSON)
    for name in draw(st.lists(st.sampled_from(NAMES), max_size=2)):
        if name in header and draw(st.booleans()):
            header[draw(KEYS)] = header[name]
        header.pop(name, None)
    header |= draw(st.dictionaries(KEYS, ENTRIES | JSON, max_size=2))
    text = json.dumps(header).encode()
    length = draw(st.sampled_from([len(text), len(text) + 1, 0, 2**32, 2**63, 2**64 - 1]) | st.integers(0, 2**16))
    return length.to_bytes(8, "little") + text + right()[8 + int.from_bytes(right()[:8], "little") :]


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """The right file with some other bytes, or cut off."""
    content = bytearray(right())
    for place, byte in draw(st.lists(st.tuples(st.integers(0, 2000), st.integers(0, 255)), max_size=4)):
        content[place % len(content)] = byte
    return bytes(content[: draw(st.integers(0, len(content)) | st.just(len(content)))])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("checkpoint")
    (made / "config.json").write_text(json.dumps(SIZES))
    return made


def request(folder: Path) -> ModelRequest:
    return ModelRequest("ttt-tiny", "mlp_1_dual", torch.float32, torch.device("cpu"), 0, str(folder))


def test_the_file_fits_as_it_is(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(right())
    check(request(folder))


@pytest.mark.properties
@given(content=changed() | damaged() | st.binary(max_size=64))
def test_any_header_is_taken_or_refused_in_one_line(content: bytes, folder: Path) -> None:
    file = folder / "model.safetensors"
    file.unlink(missing_ok=True)
    file.write_bytes(content)
    try:
        check(request(folder))
    except BadInput as refused:
        lines = str(refused).splitlines()
        assert len(lines) == 1
        assert lines[0].startswith(f"checkpoint={folder}: ")
    else:
        model = build(request(folder))
        assert model.vocab_size == VOCABULARY
