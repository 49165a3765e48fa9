"""The page of one step: what is in it, and what a browser without a network makes of it."""

import base64
import gzip
import json
import re
from pathlib import Path
from typing import Any

import pytest

from tests.profilers.traces import two_eager_steps
from tests.report.browser import BROWSER, rendered
from ttt_mlflow.profilers.trace import Activity, read_steps
from ttt_mlflow.report import timeline_page as module
from ttt_mlflow.report.timeline_page import timeline_page

TRACE = gzip.compress(b'{"traceEvents": []}')
# stands for Perfetto's page: opened by the click, it answers the second PING, and notes what it is given
FAKE_PERFETTO = """<script>
window.open = (address) => {
  document.body.dataset.opened = address;
  let pings = 0;
  return { postMessage(message, target) {
    if (message === "PING") {
      if (++pings !== 2) return;
      window.dispatchEvent(new MessageEvent("message", { data: "PONG", origin: "https://elsewhere.example" }));
      document.body.dataset.early = document.body.dataset.given ?? "nothing";
      window.dispatchEvent(new MessageEvent("message", { data: "PONG", origin: target }));
      return;
    }
    document.body.dataset.given = `${message.perfetto.title}: ${message.perfetto.buffer.byteLength} to ${target}`;
  } };
};
document.getElementById("perfetto").click();
</script>"""


def page(title: str = "a run, step 0", trace: bytes = TRACE) -> str:
    return timeline_page(read_steps(two_eager_steps().content, on_gpu=True).of_step(0), trace, title)


def data_of(text: str) -> dict[str, Any]:
    (data,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)
    return json.loads(data)


def test_the_steps_activities_are_in_the_page() -> None:
    data = data_of(page())
    assert data["lanes"] == ["stream 7"]
    assert [
        (data["names"][one["name"]], data["parts"][one["part"]]["name"], one["layer"], one["begin"], one["length"])
        for one in data["activities"]
    ] == [
        ("gemm", "projections", 0, 0, 20),
        ("decode", "inner net state", 0, 15, 25),
        ("Memset", "unknown", None, 50, 10),
    ]
    assert base64.b64decode(data["trace"]) == TRACE


def test_a_trace_that_is_too_large_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "EMBEDDED_BYTES", len(TRACE) - 1)
    assert data_of(page())["trace"] is None


def test_nothing_is_loaded_and_no_text_becomes_markup() -> None:
    text = page(title="</script><b>$title & co")
    assert not re.search(r"<(script|link|img)[^>]*\s(src|href)=", text)
    assert "<b>" not in text
    assert data_of(text)["title"] == "</script><b>$title & co"


@pytest.mark.skipif(not BROWSER, reason="no chromium or Chrome is installed")
def test_a_browser_without_a_network_draws_it_and_hands_the_trace_to_perfetto(tmp_path: Path) -> None:
    path = tmp_path / "open.html"
    path.write_text(page().replace("</body>", f"{FAKE_PERFETTO}</body>"))
    drawn = rendered(path)
    assert re.search(r'<canvas id="timeline" width="\d{3,}" height="\d{2,}"', drawn)
    for part in ("projections", "inner net state", "unknown"):
        assert re.search(rf"</i>{part}</span>", drawn)
    assert 'data-opened="https://ui.perfetto.dev"' in drawn
    assert 'data-early="nothing"' in drawn, "an answer from another page is none"
    assert f'data-given="a run, step 0: {len(TRACE)} to https://ui.perfetto.dev"' in drawn


@pytest.mark.skipif(not BROWSER, reason="no chromium or Chrome is installed")
def test_a_browser_draws_a_prompt_of_very_many_activities(tmp_path: Path) -> None:
    """More than a JavaScript call takes arguments."""
    many = [
        Activity("decode", "stream 7", 2.0 * index, 2.0 * index + 1.5, 0, 0, "sampling") for index in range(200_000)
    ]
    path = tmp_path / "open.html"
    path.write_text(timeline_page(many, TRACE, "a prompt"))
    drawn = rendered(path)
    assert re.search(r'<canvas id="timeline" width="\d{3,}" height="\d{2,}"', drawn)
    assert "</i>sampling</span>" in drawn


@pytest.mark.skipif(not BROWSER, reason="no chromium or Chrome is installed")
def test_a_browser_that_may_open_no_page_says_what_to_do(tmp_path: Path) -> None:
    path = tmp_path / "open.html"
    click = '<script>window.open = () => null; document.getElementById("perfetto").click();</script>'
    path.write_text(page().replace("</body>", f"{click}</body>"))
    assert "Download open.html" in rendered(path).split('id="message"')[1].split("</div>")[0]
