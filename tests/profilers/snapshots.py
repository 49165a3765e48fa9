"""Snapshots of PyTorch's allocator, composed by hand as it makes them."""

from typing import Any

from ttt_mlflow.profilers.memory import AllocatorBytes, Recorded

KB = 1000
STEP = "/srv/somewhere/ttt_mlflow/models/ttt/model.py"


def block(address: int, size: int, state: str = "active_allocated") -> dict[str, Any]:
    return {"address": address, "size": size, "requested_size": size - 8, "state": state, "frames": []}


def segment(*blocks: dict[str, Any], pool: tuple[int, int] = (0, 0), device: int = 0) -> dict[str, Any]:
    return {"device": device, "segment_pool_id": pool, "stream": 0, "blocks": list(blocks)}


def entry(action: str, size: int, us: int, *frames: tuple[str, int, str]) -> dict[str, Any]:
    named = [{"filename": filename, "line": line, "name": name} for filename, line, name in frames]
    return {"action": action, "addr": 0, "size": size, "stream": 0, "time_us": 1_000_000 + us, "frames": named}


def eager_pass() -> Recorded:
    """Weights, state and something else held; 30 kB given and taken back in the pass; a graph's pool of 40 kB."""
    segments = [
        segment(block(100, 50 * KB), block(200, 20 * KB), block(300, 30 * KB, "inactive")),
        segment(block(400, 5 * KB), block(500, 7 * KB, "active_awaiting_free")),
        segment(block(600, 10 * KB), block(700, 30 * KB, "inactive"), pool=(0, 1)),
        segment(block(800, 999 * KB), device=1),
    ]
    in_torch = ("/lib/python/site-packages/torch/nn/functional.py", 9, "linear")
    history = [
        entry("segment_alloc", 100 * KB, 0),
        entry("alloc", 10 * KB, 5, in_torch, (STEP, 120, "step"), ("runner.py", 1, "run")),
        entry("alloc", 20 * KB, 7, in_torch),
        entry("free_requested", 10 * KB, 8),
        entry("free_completed", 10 * KB, 9),
        entry("free_requested", 20 * KB, 10),
    ]
    snapshot = {"segments": segments, "device_traces": [history, []]}
    return Recorded(snapshot, AllocatorBytes(allocated=85 * KB, peak=115 * KB, reserved=152 * KB), 0)
