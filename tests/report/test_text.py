"""Names that others chose, as text: a terminal, Markdown and a spreadsheet obey none of them."""

import csv
import io
import json
import re
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.project import ROOT, environment
from ttt_mlflow.app import output
from ttt_mlflow.report.page import page
from ttt_mlflow.report.text import (
    END,
    GRAY,
    escaped,
    json_text,
    markdown_table,
    printable,
    short,
    spreadsheet_cell,
    text_table,
)

HOSTILE = [
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "[click](javascript:alert(1))",
    "![picture](https://evil.example/track.png)",
    "a|b`c`\n# heading\n```\nfence",
    "&lt;script&gt; &#60;b&#62;",
    "\x1b]0;title\x07\x1b[2J\x1b[31mred",
    "[red]markup[/red] {task.id} :smile:",
    "right\u202eleft\u0000\x9b31m",
    "a\\|b \\<i>",
]


@pytest.mark.parametrize("text", HOSTILE)
def test_markdown(text: str) -> None:
    shown = escaped(text)
    assert "<" not in shown
    assert shown.isprintable()
    assert not re.search(r"(?<!\\)(?:\\\\)*[|`]", shown)
    assert not re.search(r"\]\(", shown)
    assert len(markdown_table(["name"], [[text]], 1)) == 3


@given(text=st.text(alphabet=st.sampled_from("ab<>|`\\[]()&;#~!* lt"), max_size=30))
def test_markdown_shows_the_text_itself(text: str) -> None:
    shown = escaped(text)
    assert not re.search(r"(?<!\\)(?:\\\\)*[|`<]", shown)
    assert not re.search(r"\]\(", shown)
    assert not shown.startswith(("~~~", "```"))


@given(text=st.text(max_size=60))
def test_a_terminal_obeys_nothing(text: str) -> None:
    for shown in (printable(text), text_table(["name"], [[text]]).split("\n")[2]):
        assert shown.isprintable()
    assert printable(text, "\n").replace("\n", "").isprintable()
    printable(text).encode()


def test_control_characters_are_shown() -> None:
    assert printable("a\x1b[31mb\x07\u202ec\u00a0d") == "a\\x1b[31mb\\x07\\u202ec d"


@pytest.mark.parametrize("text", HOSTILE)
def test_what_is_printed(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    output.print_text(f"name: {text}")
    output.print_error(f"Error: {text}")
    for shown in capsys.readouterr():
        assert all(char.isprintable() or char == "\n" for char in shown)


@pytest.mark.parametrize(
    ("value", "shown"),
    [(0.5, "0.5"), (8192, "8,192"), (65536, "65,536"), (1.25e6, "1.25M"), (2147483647, "2.147G"), (3e12, "3T")],
)
def test_a_label_of_an_axis_is_short(value: float, shown: str) -> None:
    assert short(value) == shown


def test_gray_is_for_a_terminal_only(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    output.print_text(f"{GRAY}invalid{END} and \x1b[31mred")
    assert capsys.readouterr().out == "invalid and \\x1b[31mred\n"
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    output.print_text(f"{GRAY}invalid{END} and \x1b[31mred")
    assert capsys.readouterr().out == f"{GRAY}invalid{END} and \\x1b[31mred\n"


def test_what_a_run_says_is_no_markup() -> None:
    program = (
        "from rich.console import Console\n"
        "from ttt_mlflow.names import SETUP_S\n"
        "from ttt_mlflow.run.reporter import Reporter\n"
        "reporter = Reporter(Console())\n"
        "reporter.say('[red]a[/red] \\x1b[31m')\n"
        "reporter.warn('[/nothing]')\n"
        "with reporter.phase(SETUP_S, 'build [red]x {y}'): pass\n"
        "with reporter.progress('[red]x {y.z}') as show: show(1.0, '[/red] {q}')\n"
    )
    done = subprocess.run([sys.executable, "-c", program], env=environment(), cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "[red]a[/red] \\x1b[31m\nNote: [/nothing]\nbuild [red]x {y}: 0.0 s\n" in done.stdout
    assert "[red]x {y.z}" in done.stdout


@pytest.mark.parametrize("text", ["=1+1", "+1", "-2+3", "@SUM(A1)", "\t=1", "\r=1"])
def test_a_spreadsheet_calculates_nothing(text: str) -> None:
    assert spreadsheet_cell(text) == f"'{text}"


@given(value=st.dictionaries(st.text(max_size=5), st.text(max_size=30), max_size=3))
def test_json_for_a_terminal_and_for_programs(value: dict[str, str]) -> None:
    shown = json_text(value)
    assert shown.replace("\n", "").isprintable()
    assert json.loads(shown) == value
    assert printable(shown, "\n") == shown, "printing it changes nothing"


@pytest.mark.parametrize("text", HOSTILE)
def test_a_page(text: str) -> None:
    written = page(text, "comparison", {"name": text})
    head = written.partition("<body>")[0]
    assert "<script" not in head
    assert "<img" not in head
    data = written.partition('id="data">')[2].partition("</script>")[0]
    assert json.loads(data) == {"name": text}
    assert printable(written, "\n") == written, "printing it changes nothing"


def test_numbers_and_other_texts_stay_in_a_spreadsheet() -> None:
    for value in (-1.5, 3, True, "a=b", "", "ttt-1b"):
        assert spreadsheet_cell(value) == value
    assert next(csv.reader(io.StringIO("'=1+1\n"))) == ["'=1+1"]
