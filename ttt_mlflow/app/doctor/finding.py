"""Types that the checks share: a finding, the requested destination, a GPU."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import torch


State = Literal["ok", "limited", "failed"]
SEVERITY: tuple[State, ...] = ("ok", "limited", "failed")


@dataclass(frozen=True)
class Finding:
    """``limited``: measuring works with restrictions. ``failed``: it does not work. ``remedy``: what to do."""

    name: str
    state: State
    found: str
    remedy: str | None = None


@dataclass(frozen=True)
class Asked:
    """The destination of a run's record."""

    logdir: Path
    tracking_uri: str | None
    experiment_name: str | None


@dataclass(frozen=True)
class Gpu:
    """A GPU that PyTorch sees."""

    index: int
    name: str
    uuid: str
    capability: int  # 90 for 9.0
    memory_bytes: int

    @property
    def device(self) -> "torch.device":
        import torch

        return torch.device("cuda", self.index)


class Wrong(Exception):
    """A check found a fault. Has what was found and what to do."""

    def __init__(self, found: str, remedy: str | None = None, state: State = "limited") -> None:
        super().__init__(found)
        self.found, self.remedy, self.state = found, remedy, state
