"""Autotuned kernels of a package are tuned again, and those of others are left as they are."""

import sys
from types import ModuleType

import pytest
from triton.runtime.autotuner import Autotuner, Heuristics

from ttt_mlflow.models.tuning import forget_tuning


def tuned() -> Autotuner:
    one = Autotuner.__new__(Autotuner)
    one.cache = {"a key without the batch": "what was best for another batch"}
    return one


def test_every_tuned_kernel_of_a_package_is_tuned_again(monkeypatch: pytest.MonkeyPatch) -> None:
    inner, bare, other = tuned(), tuned(), tuned()
    module, elsewhere = ModuleType("fla.ops.stand_in"), ModuleType("flatland")
    vars(module).update(kernel=Heuristics(Heuristics(inner, [], {}), [], {}), second=bare, number=3, nothing=None)
    vars(elsewhere).update(kernel=other)
    monkeypatch.setitem(sys.modules, "fla.ops.stand_in", module)
    monkeypatch.setitem(sys.modules, "flatland", elsewhere)
    forget_tuning("fla")
    assert inner.cache == {}
    assert bare.cache == {}
    assert other.cache, "of another package"
