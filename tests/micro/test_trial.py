"""What `ttt-mlflow micro --check` finds out about a kernel."""

import pytest
from click.testing import CliRunner, Result
from torch import Tensor

from tests.installed import Install, installed
from tests.micro.cases import CPU, shape
from ttt_mlflow.cli import cli
from ttt_mlflow.micro.task import RandomSource
from ttt_mlflow.micro.trial import _run

__all__ = ["installed"]
CODE = """
from ttt_mlflow.micro import KernelEntry

def load():
    from ttt_mlflow.kernels.ttt_linear.reference import linear_decode

    def step(q, *rest):
        return linear_decode(q, *rest)

    return step

entry = KernelEntry("theirs", "linear", "rank-1", load, "theirs")
"""
CALL = "return linear_decode(q, *rest)"


def check(name: str) -> Result:
    return CliRunner().invoke(cli, ["micro", "--check", name])


def test_a_kernel_that_is_right(installed: Install) -> None:
    installed("ttt_mlflow.kernels", "their_kernels", CODE, "mine = their_kernels:entry")
    done = check("theirs")
    assert done.exit_code == 0, done.output
    assert "ok       float32: 35 tokens are right, against float64 (" in done.stdout
    assert done.stdout.endswith("All checks hold.\n")


@pytest.mark.parametrize("name", ["mlp_1_dual", "mlp_2_dual"])
def test_our_own(name: str) -> None:
    assert check(name).exit_code == 0


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        (CALL, f"{CALL} * 1.01", "35 tokens are right, against float64: a relative error of 1.0e-02; 2e-05 is allowed"),
        (CALL, f"{CALL}[:1]", "it returns torch.float32 [1, 128], not torch.float32 [2, 128]"),
        (CALL, "return None", "it returns NoneType, not a tensor"),
        (CALL, "q.zero_(); " + CALL, "a step changes only state and kept: it changes q"),
        (CALL, "import torch; return linear_decode(q, *rest) + 1e-7 * torch.rand(1)", "the same inputs give the same"),
        (CALL, "print('x'); " + CALL, "a step returns [B, D]: it prints: x"),
        (CALL, "import sys; sys.exit(3)", "a step returns [B, D]: SystemExit: 3"),
        ("    return step", "    return 3", "load() returns a function: it returns int"),
        ("def load():", "def load():\n    import no_such_package", "load() returns a function: ModuleNotFoundError"),
        ('"theirs")\n', '"theirs", needs_gpu=True)\n', "everything else: the kernel needs a GPU"),
        ('"theirs")\n', '"theirs", missing=lambda device: 1 / 0)\n', "missing(device) is None or one line: ZeroDiv"),
    ],
)
def test_a_kernel_that_is_wrong(old: str, new: str, said: str, installed: Install) -> None:
    assert old in CODE
    installed("ttt_mlflow.kernels", "their_kernels", CODE.replace(old, new), "mine = their_kernels:entry")
    done = check("theirs")
    assert done.exit_code == 1, done.output
    failed = [line for line in done.stdout.splitlines() if line.startswith("FAILED")]
    assert len(failed) == 1, done.stdout
    assert said in failed[0]


def test_a_result_is_read_before_the_next_call_changes_the_state() -> None:
    """On a GPU, a launch may begin before the previous one has ended."""
    done: list[str] = []

    class Noted(Tensor):
        def double(self) -> Tensor:
            done.append("read")
            return super().double()

    def step(*arguments: Tensor) -> Tensor:
        done.append("call")
        return arguments[0].as_subclass(Noted)

    _run(step, shape().inputs(RandomSource(0, CPU), (1, 1, 1)))
    assert done == ["call", "read"] * 3


def test_no_such_kernel() -> None:
    done = check("theirs")
    assert done.exit_code == 2
    assert done.stderr.startswith("Error: kernels=theirs: no such kernel; there are mlp_1_dual_triton, ")
