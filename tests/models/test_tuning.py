"""Autotuned kernels of a package are tuned again, and those of others are left as they are."""

import sys
from types import ModuleType
from typing import Any

import pytest
from triton import AsyncCompileMode, Config
from triton.runtime._async_compile import active_mode
from triton.runtime.autotuner import Autotuner, Heuristics

from ttt_mlflow.models.tuning import compiling_at_once, forget_tuning


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


class Kernel:
    """Stands for a kernel: it needs a GPU neither to be compiled nor to be timed."""

    arg_names = ("x", "BLOCK")
    seen: list[tuple[str, int]]

    def __init__(self) -> None:
        self.seen = []

    @staticmethod
    def fn() -> None:
        """What is decorated."""

    def warmup(self, *args: Any, grid: Any, BLOCK: int, **options: Any) -> None:
        mode = active_mode.get()
        assert isinstance(mode, AsyncCompileMode), "it is compiled by a thread"
        assert "warmup" not in options, "that is an argument of its own"
        mode.submit(BLOCK, lambda: self.compile(BLOCK), lambda kernel: None)

    def compile(self, block: int) -> None:
        self.seen.append(("compiled", block))
        if block == 64:
            raise RuntimeError("this configuration does not compile")

    def run(self, *args: Any, grid: Any, warmup: bool, BLOCK: int, **options: Any) -> None:
        assert active_mode.get() is None
        self.seen.append(("run", BLOCK))


def autotuned(*blocks: int) -> Autotuner:
    configs, seconds = [Config({"BLOCK": block}) for block in blocks], {16: 3.0, 32: 1.0, 64: 2.0}

    def time(call: Any, quantiles: Any) -> list[float]:
        call()
        return [seconds[made.seen[-1][1]]] * 3

    made = Kernel()
    return Autotuner(made, made.arg_names, configs, [], None, None, do_bench=time)


def test_configurations_are_compiled_at_once_before_they_are_tried() -> None:
    alone = Autotuner.run
    tuned, fixed = autotuned(16, 32, 64), autotuned(16)
    with compiling_at_once():
        for _ in range(2):
            tuned.run(3.5, grid=(1,), warmup=False)
        fixed.run(3.5, grid=(1,), warmup=False)
    assert sorted(tuned.fn.seen[:3]) == [("compiled", 16), ("compiled", 32), ("compiled", 64)]
    tried = [("run", 16), ("run", 32), ("run", 64), ("run", 32)]
    assert [one for one in tuned.fn.seen if one[0] == "run"] == [*tried, ("run", 32)], "the choice is the autotuner's"
    assert fixed.fn.seen == [("run", 16)]
    assert Autotuner.run is alone
    tuned.run(3.5, grid=(1,), warmup=False)
    assert tuned.fn.seen[-1] == ("run", 32)


def test_the_autotuner_is_itself_again_after_an_error() -> None:
    alone = Autotuner.run
    with pytest.raises(KeyError), compiling_at_once():
        raise KeyError
    assert Autotuner.run is alone
