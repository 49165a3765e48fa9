"""Numbers and tables as text, for the terminal and for Markdown."""

import json
import re
from collections.abc import Collection, Sequence
from unicodedata import category, combining, east_asian_width

from ttt_mlflow.names import TAG_GPU_NAME, TAG_HOST
from ttt_mlflow.record.recorded_run import RecordedRun


def number(value: float) -> str:
    """Four significant digits, or all digits before the decimal point: ``66,787``, ``15.33``, ``0.01234``."""
    if abs(value) >= 999.95:
        return f"{value:,.0f}"
    return f"{value:.4g}"


def counted(count: int, noun: str) -> str:
    """For example ``1 run`` and ``1,200 runs``."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def figures(value: float) -> str:
    """As :func:`number` for a column of numbers: zeros at the end say how exact it is, ``18.00`` beside ``34.10``."""
    return number(value) if abs(value) >= 999.95 else f"{value:#.4g}"


# what a renderer would take for HTML, an entity, a link or an image, code, a column's end, or a fence of code
MARKDOWN = re.compile(r"\\(?=\W)|&(?=#|\w+;)|<|\||`|(?<=\])\(|^~~~")


def escaped(text: str) -> str:
    """``text`` as text in one line or cell of Markdown, whoever wrote it."""
    return MARKDOWN.sub(_as_text, printable(" ".join(text.split())))


def _as_text(match: re.Match[str]) -> str:
    return {"<": "&lt;", "&": "&amp;"}.get(match[0], f"\\{match[0]}")


GRAY, END = "\x1b[90m", "\x1b[0m"


def text_table(
    columns: Sequence[str],
    rows: Sequence[Sequence[str]],
    numeric: Collection[str] = (),
    gray: Sequence[bool] | None = None,
) -> str:
    """Rows for a terminal. ``numeric``: the columns that are right-aligned. ``gray``: which rows are gray."""
    lines = [[printable(cell) for cell in line] for line in (columns, *rows)]
    widths = [max(map(_width, cells)) for cells in zip(*lines, strict=True)]
    right = [column in numeric for column in columns]
    texts = []
    for line in lines:
        blanks = [" " * (width - _width(cell)) for cell, width in zip(line, widths, strict=True)]
        cells = [blank + cell if end else cell + blank for cell, blank, end in zip(line, blanks, right, strict=True)]
        texts.append(f"  {'   '.join(cells)}".rstrip())
    heading, *body = texts
    rule = f" {'─' * (sum(widths) + 3 * len(widths) - 1)}"
    faint = gray or [False] * len(body)
    return "\n".join(
        [heading, rule, *(f"{GRAY}{text}{END}" if one else text for text, one in zip(body, faint, strict=True))]
    )


def printable(text: str, keep: str = "") -> str:
    """``text`` without what a terminal would obey: control characters are shown as in Python's source, but ``keep``."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() or char in keep else _shown(char) for char in text)


def _shown(char: str) -> str:
    return " " if category(char) == "Zs" else char.encode("unicode_escape").decode()


def _width(text: str) -> int:
    """The columns that ``text`` takes on a terminal: two for a wide character, none for a combining one."""
    if text.isascii():
        return len(text)
    return sum(0 if combining(char) else 2 if east_asian_width(char) in "WF" else 1 for char in text)


def json_text(value: object) -> str:
    """``value`` as JSON for people and programs: a character that a terminal would obey is an escape of JSON."""
    text = json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False)
    return "".join(char if char.isprintable() or char == "\n" else json.dumps(char)[1:-1] for char in text)


def spreadsheet_cell(value: object) -> object:
    """``value`` for a cell of a CSV file. A spreadsheet would calculate a text that begins like a formula."""
    return f"'{value}" if isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r")) else value


NAME_LENGTH = 100  # of a kernel's name; template instances have names of a thousand characters


def shortened(name: str) -> str:
    """A kernel's name, shortened for people."""
    return name if len(name) <= NAME_LENGTH else f"{name[: NAME_LENGTH - 1]}…"


def markdown_table(columns: Sequence[str], rows: Sequence[Sequence[str]], texts: int) -> list[str]:
    """A Markdown table. All columns except the first ``texts`` are right-aligned."""
    rules = ["---"] * texts + ["---:"] * (len(columns) - texts)
    return [f"| {' | '.join(map(escaped, row))} |" for row in (columns, rules, *rows)]


def run_label(run: RecordedRun) -> str:
    """The run's name, its id and its GPU (or host), in one line."""
    where = run.tags.get(TAG_GPU_NAME.name) or run.tags.get(TAG_HOST.name)
    return f"{run.name}, {run.id}{f', {where}' if where else ''}"
