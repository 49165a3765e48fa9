"""Memory by part, as tables and as a page that needs no network."""

from collections.abc import Sequence
from dataclasses import asdict

import pandas as pd

from ttt_mlflow.profilers.memory import AllocatorBytes, MemoryEvent, MemoryRow, totals
from ttt_mlflow.report.page import page
from ttt_mlflow.report.style import COLORS
from ttt_mlflow.report.text import markdown_table

EVENTS_SHOWN = 50_000


def parts_csv(rows: Sequence[MemoryRow]) -> str:
    """One row for each part. A cell without a value is empty."""
    table = pd.DataFrame([asdict(row) for row in rows])
    return str(table.astype({name: "Int64" for name in table.columns if name != "part"}).to_csv(index=False))


def parts_markdown(rows: Sequence[MemoryRow], allocator: AllocatorBytes) -> str:
    """The table with its sums, and the allocator's own sums for comparison."""
    columns = ("part", "between steps, GB", "at the peak, GB", "reserved from the GPU, GB")
    own = totals(rows)
    lines = [
        *[(row.part, *map(_gb, (row.allocated_bytes, row.peak_bytes, row.reserved_bytes))) for row in rows],
        ("sum", _gb(own.allocated), _gb(own.peak), _gb(own.reserved)),
        ("PyTorch's allocator", _gb(allocator.allocated), _gb(allocator.peak), _gb(allocator.reserved)),
    ]
    return "\n".join([*markdown_table(columns, lines, texts=1), "", _agreement(own, allocator), ""])


def memory_page(rows: Sequence[MemoryRow], events: Sequence[MemoryEvent], title: str) -> str:
    """A page that can be zoomed: the memory of each part, and the allocated memory over the pass.

    Only the last :data:`EVENTS_SHOWN` events are shown.
    """
    shown = events[-EVENTS_SHOWN:]
    places = {where: index for index, where in enumerate(dict.fromkeys(event.where for event in shown))}
    data = {
        "title": title,
        "parts": [asdict(row) | {"color": COLORS[index % len(COLORS)]} for index, row in enumerate(rows)],
        "where": list(places),
        "events": [[event.us, event.bytes, event.held, places[event.where]] for event in shown],
        "left_out": len(events) - len(shown),
    }
    return page(title, "memory", data)


def _agreement(own: AllocatorBytes, allocator: AllocatorBytes) -> str:
    apart = [
        f"{name} {getattr(own, name) - getattr(allocator, name):+,} bytes"
        for name in ("allocated", "peak", "reserved")
        if getattr(own, name) != getattr(allocator, name)
    ]
    return f"The sums differ from the allocator's: {', '.join(apart)}." if apart else "The sums equal the allocator's."


def _gb(size: int | None) -> str:
    return "" if size is None else f"{size / 1e9:.4f}"
