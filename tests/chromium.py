"""Headless Chromium, driven through its debugging pipe: open a page, wait for it, ask it, take its picture.

The pipe needs no port and no further package. Chromium reads commands from its file descriptor 3 and writes answers to
4, each a JSON object that ends with a zero byte.
"""

import base64
import json
import os
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.report.browser import BROWSER

ANSWER_S = 60.0
POLL_S = 0.2


class Chromium:
    """One page of a running browser."""

    def __init__(self, commands: int, answers: int, width: int, height: int) -> None:
        self._commands, self._answers = commands, os.fdopen(answers, "rb")
        self._sent = 0
        self._session: str | None = None
        target = self._call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self._call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        self._call("Page.enable")
        self.resize(width, height)

    def resize(self, width: int, height: int) -> None:
        """The size of the window in pixels."""
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self._call("Emulation.setDeviceMetricsOverride", **size)

    def before_each_page(self, script: str) -> None:
        """Run ``script`` in each page before the page's own."""
        self._call("Page.addScriptToEvaluateOnNewDocument", source=script)

    def open(self, url: str) -> None:
        # a change of the part behind # alone does not load a page anew
        self._call("Page.navigate", url="about:blank")
        self._call("Page.navigate", url=url)

    def ask(self, expression: str) -> Any:
        """The value of a JavaScript expression. Raises AssertionError with the page's error."""
        answer = self._call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def wait_for(self, expression: str, seconds: float = 60.0) -> Any:
        """The value of ``expression`` once it is true in JavaScript's sense."""
        deadline = time.monotonic() + seconds
        while not (value := self.ask(expression)):
            assert time.monotonic() < deadline, f"not within {seconds} s: {expression}\n{self.text()}"
            time.sleep(POLL_S)
        return value

    def text(self) -> str:
        """What the page says."""
        return str(self.ask("document.body ? document.body.innerText : ''"))

    @contextmanager
    def frame(self) -> Iterator[None]:
        """Within the block, :meth:`ask` and the like speak to the page's frame, which is a page of its own."""
        outer, self._session = self._session, None
        try:
            deadline = time.monotonic() + ANSWER_S
            while not (frames := [one for one in self._targets() if one["type"] == "iframe"]):
                assert time.monotonic() < deadline, "the page has no frame"
                time.sleep(POLL_S)
            answer = self._call("Target.attachToTarget", targetId=frames[0]["targetId"], flatten=True)
            self._session = answer["sessionId"]
            yield
        finally:
            self._session = outer

    def _targets(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self._call("Target.getTargets")["targetInfos"]
        return found

    def picture(self, path: Path) -> None:
        """Write what the window shows as a PNG file."""
        path.write_bytes(base64.b64decode(self._call("Page.captureScreenshot", format="png")["data"]))

    def _call(self, method: str, **params: Any) -> dict[str, Any]:
        self._sent += 1
        message: dict[str, Any] = {"id": self._sent, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._commands, json.dumps(message).encode() + b"\0")
        deadline = time.monotonic() + ANSWER_S
        while time.monotonic() < deadline:
            answer = json.loads(self._read())
            if answer.get("id") == self._sent:
                assert "error" not in answer, answer
                result: dict[str, Any] = answer["result"]
                return result
        raise AssertionError(f"the browser does not answer {method}")

    def _read(self) -> bytes:
        message = bytearray()
        while (byte := self._answers.read(1)) != b"\0":
            assert byte, "the browser has ended"
            message += byte
        return bytes(message)


@contextmanager
def chromium(folder: Path, width: int = 1600, height: int = 1000, more: Sequence[str] = ()) -> Iterator[Chromium]:
    """A browser whose profile is in ``folder``. It reaches this machine alone. more: further options."""
    assert BROWSER
    read_commands, commands = os.pipe()
    answers, write_answers = os.pipe()
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--no-first-run"]
    options += ["--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1", f"--user-data-dir={folder / 'profile'}"]
    pipes = f"3<&{read_commands} 4>&{write_answers}"
    browser = subprocess.Popen(
        ["bash", "-c", f'exec "$@" {pipes}', "bash", BROWSER, *options, *more, "--remote-debugging-pipe"],
        pass_fds=(read_commands, write_answers),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    os.close(read_commands)
    os.close(write_answers)
    try:
        yield Chromium(commands, answers, width, height)
    finally:
        os.close(commands)  # the browser ends when its pipe does
        try:
            browser.wait(timeout=20)
        except subprocess.TimeoutExpired:
            browser.kill()
            browser.wait()
