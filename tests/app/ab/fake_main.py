"""``python -m ttt_mlflow run`` of a version that measures nothing: it leaves a record at once, and takes no torch.

Written into a package ttt_mlflow of its own by ``conftest.py``. What it does stands in ``behavior.json`` beside it.
"""

import json
import os
import signal
import sys
import time
import uuid
from datetime import UTC, datetime
from pathlib import Path

BEHAVIOR = json.loads(Path(__file__).with_name("behavior.json").read_text())


def main(words):
    if BEHAVIOR.get("ignores_sigterm"):
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    with open(BEHAVIOR["calls"], "a") as log:
        log.write(json.dumps({"version": BEHAVIOR["version"], "pid": os.getpid(), "words": words}) + "\n")
    calls = map(json.loads, Path(BEHAVIOR["calls"]).read_text().splitlines())
    done = sum(call["version"] == BEHAVIOR["version"] for call in calls)
    if done > BEHAVIOR.get("fails_after", 1e9):
        print("some output", flush=True)
        print(BEHAVIOR["failure"], file=sys.stderr)
        return 1
    if done > BEHAVIOR.get("hangs_after", 1e9):
        time.sleep(600)
    if "signal" in BEHAVIOR:
        os.kill(os.getpid(), BEHAVIOR["signal"])
    if BEHAVIOR.get("records") == 0:
        return 0
    options = dict(word[2:].split("=", 1) for word in words if "=" in word)
    now = datetime.now(UTC)
    folder = Path(options["logdir"]) / f"{now:%Y%m%d-%H%M%S}-{uuid.uuid4().hex[:8]}"
    (folder / "artifacts/timing").mkdir(parents=True)
    settings = {"model_name": "ttt-tiny", "mode": "decode", "batch": 4, "promptlen": 1, "genlen": 8}
    rate = BEHAVIOR["rate"] * (1 + BEHAVIOR.get("scatter", 0) * (done % 3 - 1))
    ms = [1e3 * 32 / (rate * factor) for factor in (0.999, 1.0, 1.001)]
    passes = {"tokens_per_pass": 32, "repeat_total_ms": ms, "repeat_complete": [True] * 3}
    files = {
        "config.json": {"entry_point": "main", "asked": settings, "used": settings},
        "params.json": {name: str(value) for name, value in settings.items()},
        "metrics.json": {"decode_tokens_per_s": rate},
        "tags.json": {"ttt.verdict": BEHAVIOR.get("verdict", "valid")},
        "target.json": {"tracking_uri": os.environ["MLFLOW_TRACKING_URI"]},
        "artifacts/timing/passes.json": passes,
        "status.json": {
            "status": BEHAVIOR.get("status", "ok"),
            "message": BEHAVIOR.get("message"),
            "started_at": now.isoformat(),
            "ended_at": datetime.now(UTC).isoformat(),
            "exit_code": 0,
            "process": {"host": "there", "boot_id": "0", "pid_namespace": "pid:[1]", "pid": 1, "start_ticks": 1},
        },
    }
    for name, value in files.items():
        (folder / name).write_text(json.dumps(value))
    return BEHAVIOR.get("code", 4)


if __name__ == "__main__":
    sys.exit(main(sys.argv[2:]))
