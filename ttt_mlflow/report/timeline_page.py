"""One step as a page that needs no network: a timeline that can be zoomed, and a button for Perfetto."""

import base64
from collections.abc import Iterable, Sequence

from ttt_mlflow.profilers.trace import Activity
from ttt_mlflow.report.page import page
from ttt_mlflow.report.profile_pictures import PART_COLORS

EMBEDDED_BYTES = 16 << 20  # largest packed trace in the page; the page asks the user for a larger one


def timeline_page(activities: Sequence[Activity], packed_trace: bytes, title: str) -> str:
    """``packed_trace``: the full trace, gzipped. The page contains it up to :data:`EMBEDDED_BYTES`."""
    begin = min((one.begin_us for one in activities), default=0.0)
    lanes, names = _numbered(one.lane for one in activities), _numbered(one.name for one in activities)
    parts = _numbered(part for part in PART_COLORS if any(one.part == part for one in activities))
    data = {
        "title": title,
        "lanes": list(lanes),
        "names": list(names),
        "parts": [{"name": part, "color": PART_COLORS[part]} for part in parts],
        "activities": [
            {
                "lane": lanes[one.lane],
                "name": names[one.name],
                "part": parts[one.part],
                "layer": one.layer,
                "begin": round(one.begin_us - begin, 3),
                "length": round(one.end_us - one.begin_us, 3),
            }
            for one in activities
        ],
        "trace": base64.b64encode(packed_trace).decode() if len(packed_trace) <= EMBEDDED_BYTES else None,
    }
    return page(title, "timeline", data)


def _numbered(values: Iterable[str]) -> dict[str, int]:
    """The index of each distinct value, in the order of the first occurrence."""
    return {value: index for index, value in enumerate(dict.fromkeys(values))}
