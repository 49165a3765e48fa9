"""The table of kernels that ``nsys stats`` prints."""

import pytest

from tests.profilers.fake_nsys import API, TABLE
from ttt_mlflow.errors import RunFailed
from ttt_mlflow.profilers.nsys_tables import KernelTime, read_kernel_summary


def test_kernels_with_names_of_any_kind() -> None:
    assert read_kernel_summary(TABLE) == [
        KernelTime("linear_decode(float *, int)", 2, 3000.0, 75.0),
        KernelTime("fill", 1, 1000.0, 25.0),
    ]


def test_the_shares_are_exact_and_the_longest_is_first() -> None:
    found = read_kernel_summary("Total Time (ns),Instances,Name\n1,1,a\n2,1,b\n")
    assert [(one.name, one.share_pct) for one in found] == [("b", 200 / 3), ("a", 100 / 3)]


def test_a_table_without_kernels() -> None:
    assert read_kernel_summary(TABLE.splitlines()[0]) == []


@pytest.mark.parametrize(
    "text", [API, "Total Time (ns),Instances,Name\nmany,1,a\n", "Total Time (ns),Instances,Name\n1\n"]
)
def test_another_table_is_refused(text: str) -> None:
    with pytest.raises(RunFailed, match="profile=nsys: its table of kernels cannot be read"):
        read_kernel_summary(text)
