"""The table of kernels, as MLflow reads and as pandas would have written it."""

import io
import json

import pandas as pd

from ttt_mlflow.record.kernel_table import COLUMNS, ProfiledKernel, kernels_json

KERNELS = [
    ProfiledKernel("gemm<a, b>", "projections", 3, 12.3456789, 200 / 3),
    ProfiledKernel("fill", None, 1, 2, 100 / 3),
]


def test_it_is_what_log_table_writes() -> None:
    text = kernels_json(KERNELS)
    rows = [["gemm<a, b>", 12.3457, 66.6667, 3.0, "projections"], ["fill", 2.0, 33.3333, 1.0, ""]]
    frame = pd.DataFrame(rows, columns=list(COLUMNS))
    assert json.loads(text) == json.loads(frame.to_json(orient="split", index=False))
    pd.testing.assert_frame_equal(pd.read_json(io.StringIO(text), orient="split"), frame, check_dtype=False)


def test_a_profile_without_kernels() -> None:
    assert json.loads(kernels_json([])) == {"columns": list(COLUMNS), "data": []}
