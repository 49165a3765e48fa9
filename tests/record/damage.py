"""What may happen to a record on a disk: cut and flipped bytes, other types, links, pipes, nothing."""

import json
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

SECRET = "the content of a file outside"  # which no command may print, copy or change

VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.sampled_from([0, -1, 2**63, 2**64, 10**30, 10**400, -(10**400)]),
    st.floats(),
    st.text(max_size=8),
    st.sampled_from(
        ["", "\x00", "\x1b[2J", "../../outside", "/etc/passwd", "2026", "9999-12-31T23:59:59+14:00", "\ud800"]
    ),
    st.sampled_from([[], {}, [[]], [[1]], [[1, 2]], [[1, 2, "x"]], [None], {"": None}, {"a": {"a": 1}}]),
    st.recursive(
        st.integers(), lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=2)
    ),
)
CONTENTS = st.one_of(
    st.binary(max_size=60),
    st.sampled_from(
        [
            *(
                b"",
                b"{",
                b"[]",
                b"{}",
                b"null",
                b"0",
                b'"text"',
                b"NaN",
                b'{"a": NaN}',
                b'{"a": 1e999}',
                b"\xff\xfe{\x00",
            ),
            *(b"[" * 100_000, b'{"a":' * 5_000, b'{"a":' * 500 + b"1" + b"}" * 500, b'{"a": ' + b"9" * 5_000 + b"}"),
            *(b'{"status": "ok", "status": "running"}', b'{"\\ud800": "\\udfff"}', b"\x00" * 4096),
        ]
    ),
)


@dataclass(frozen=True)
class Damage:
    """One thing that happens to the file ``name`` of a record. do: gets its path, and a folder outside."""

    name: str
    what: str
    do: Callable[[Path, Path], None]

    def apply(self, record: Path, outside: Path) -> None:
        """outside: a folder with the file ``secret``."""
        path = record / self.name
        if os.path.lexists(path.parent) and path.parent.resolve().is_relative_to(record.resolve()):
            self.do(path, outside)

    def __repr__(self) -> str:
        return f"{self.name}: {self.what}"


def damages(names: list[str]) -> st.SearchStrategy[Damage]:
    """Damages to one of the files ``names``."""
    some, part, seeds = st.sampled_from(names), st.floats(0, 1), st.integers(0, 10**6)
    json_file = st.sampled_from([name for name in names if name.endswith(".json")])
    return st.one_of(
        st.builds(_cut, some, part),
        st.builds(_flip, some, part, st.integers(0, 7)),
        st.builds(_replace, some, CONTENTS),
        st.builds(_change, json_file, seeds, VALUES),
        st.builds(_drop, json_file, seeds),
        st.builds(_become, st.sampled_from([*names, "artifacts", ".lock"]), st.sampled_from(KINDS)),
    )


def _cut(name: str, at: float) -> Damage:
    return Damage(name, f"cut at {at}", _on_bytes(lambda data: data[: int(at * len(data))]))


def _flip(name: str, at: float, bit: int) -> Damage:
    return Damage(name, f"bit {bit} at {at}", _on_bytes(_flipped(at, bit)))


def _replace(name: str, data: bytes) -> Damage:
    return Damage(name, f"holds {data[:40]!r}", _on_bytes(lambda _: data))


def _change(name: str, seed: int, value: Any) -> Damage:
    return Damage(name, f"value {seed} is {value!r:.60}", _on_bytes(_other(seed, value)))


def _drop(name: str, seed: int) -> Damage:
    return Damage(name, f"value {seed} is gone", _on_bytes(_without(seed)))


def _become(name: str, kind: Callable[[Path, Path], None]) -> Damage:
    return Damage(name, kind.__name__, kind)


def _on_bytes(change: Callable[[bytes], bytes]) -> Callable[[Path, Path], None]:
    def do(path: Path, _: Path) -> None:
        if path.is_file() and not path.is_symlink():
            path.write_bytes(change(path.read_bytes()))

    return do


def _flipped(at: float, bit: int) -> Callable[[bytes], bytes]:
    def change(data: bytes) -> bytes:
        place = min(int(at * len(data)), len(data) - 1)
        return data and data[:place] + bytes([data[place] ^ 1 << bit]) + data[place + 1 :]

    return change


def _other(seed: int, value: Any) -> Callable[[bytes], bytes]:
    return _changed(seed, lambda holder, key: holder.__setitem__(key, value))


def _without(seed: int) -> Callable[[bytes], bytes]:
    return _changed(seed, lambda holder, key: holder.__delitem__(key))


def _changed(seed: int, change: Callable[[Any, Any], None]) -> Callable[[bytes], bytes]:
    def changed(data: bytes) -> bytes:
        try:
            whole = json.loads(data)
            places = list(_places(whole))
        except (ValueError, RecursionError):
            return data
        if places:
            change(*places[seed % len(places)])
        return json.dumps(whole).encode()

    return changed


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Each list and object in ``value`` with each of its indices or keys."""
    keys = list(value) if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    for key in keys:
        yield value, key
        yield from _places(value[key])


def is_gone(path: Path, _: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def is_a_folder(path: Path, outside: Path) -> None:
    is_gone(path, outside)
    path.mkdir()
    (path / "inner").write_text("a file")


def is_a_link_outside(path: Path, outside: Path) -> None:
    is_gone(path, outside)
    path.symlink_to(outside / "secret")


def is_a_link_to_a_folder(path: Path, outside: Path) -> None:
    is_gone(path, outside)
    path.symlink_to(outside)


def is_a_link_to_itself(path: Path, outside: Path) -> None:
    is_gone(path, outside)
    path.symlink_to(path.name)


def is_a_link_to_nothing(path: Path, outside: Path) -> None:
    is_gone(path, outside)
    path.symlink_to("nothing")


def is_a_pipe(path: Path, outside: Path) -> None:
    is_gone(path, outside)
    os.mkfifo(path)


def has_a_link_beside_it(path: Path, outside: Path) -> None:
    if path.parent.is_dir():
        is_a_link_outside(path.parent / "beside", outside)


KINDS = [
    *(is_gone, is_a_folder, is_a_pipe, has_a_link_beside_it),
    *(is_a_link_outside, is_a_link_to_a_folder, is_a_link_to_itself, is_a_link_to_nothing),
]
