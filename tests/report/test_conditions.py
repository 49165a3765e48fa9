"""What differs between two sides besides the code."""

from pathlib import Path

import pytest

from tests.compared import CPU, H200, recorded, recorded_micro
from ttt_mlflow.record.recorded_run import LocalRun
from ttt_mlflow.report.conditions import Facts, conditions_of
from ttt_mlflow.report.measured import measured_in


def conditions(baseline: list[LocalRun], candidate: list[LocalRun]) -> list[str]:
    left, right = measured_in(baseline), measured_in(candidate)
    return [str(one) for one in conditions_of(left, right, Facts())]


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"gpu_uuid": "GPU-2"}, "GPU UUID: GPU-1 and GPU-2"),
        ({"driver": "590"}, "driver: 580.159.04 and 590"),
        ({"gpu_enforced_power_limit_w": 500.0}, "power limit in W: unknown and 500"),
        ({"triton": None}, "triton: 3.6.0 and unknown"),
        ({"gpu_mig": True}, "MIG: unknown and on"),
        ({"hostname": "another"}, None),
    ],
)
def test_facts_of_the_host(tmp_path: Path, change: dict[str, object], expected: str | None) -> None:
    found = conditions([recorded(tmp_path, [1.0])], [recorded(tmp_path, [1.0], host={**H200, **change})])
    assert found == ([expected] if expected else [])


def test_on_a_cpu_the_host_counts(tmp_path: Path) -> None:
    one, other = recorded(tmp_path, [1.0], host=CPU), recorded(tmp_path, [1.0], host={**CPU, "hostname": "there"})
    assert conditions([one], [other]) == ["host: here and there"]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"sm_clock_mhz_mean": 1950.0}, []),
        ({"sm_clock_mhz_mean": 1900.0}, ["mean SM clock in MHz: 1,980 and 1,900"]),
        ({"temperature_c_max": 45.0}, []),
        ({"temperature_c_max": 61.0}, ["temperature in °C: 40 and 61"]),
        ({"neighbor_gpus_busy": 0.4}, []),
        ({"neighbor_gpus_busy": 6.8}, ["other GPUs of the host that were busy: 0 and 6.8"]),
        ({}, []),
    ],
)
def test_clocks_temperature_and_neighbors(tmp_path: Path, values: dict[str, float], expected: list[str]) -> None:
    known = {"sm_clock_mhz_mean": 1980.0, "temperature_c_max": 40.0, "neighbor_gpus_busy": 0.0}
    base = recorded(tmp_path, [1.0], values=known)
    assert conditions([base], [recorded(tmp_path, [1.0], values=values)]) == expected


def test_the_way_of_measuring_and_the_verdict(tmp_path: Path) -> None:
    base = recorded(tmp_path, [1.0])
    other = recorded(tmp_path, [1.0], tag={"ttt.method": "2", "ttt.verdict": "unjudged"})
    expected = ["way of measuring (ttt.method): 1 and 2", "verdict: valid and unjudged"]
    assert conditions([base], [other]) == expected
    assert conditions([other], [other]) == ["verdict: unjudged on both sides"]


def test_repetitions_on_several_gpus_are_named(tmp_path: Path) -> None:
    runs = [recorded(tmp_path, [1.0], host={**H200, "gpu_uuid": f"GPU-{i}"}) for i in (1, 2)]
    assert conditions(runs, runs) == ["GPU UUID: GPU-1, GPU-2 on both sides"]


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"heads": 2, "dtype": "bfloat16"}, ["heads: 32 and 2", "dtype: float16 and bfloat16"]),
        ({"intermediate": 352, "seed": 3}, ["intermediate: 5504 and 352"]),
        ({}, []),
    ],
)
def test_the_settings_of_kernels(tmp_path: Path, config: dict[str, object], expected: list[str]) -> None:
    one, other = (recorded_micro(tmp_path, {("a", 1): [1.0]}, config=more) for more in ({}, config))
    assert conditions([one], [other]) == expected


def test_kernels_of_other_names_and_prompts(tmp_path: Path) -> None:
    one, other = (recorded_micro(tmp_path, {cell: [1.0]}) for cell in (("a", 1), ("b", 4)))
    assert conditions([one], [other]) == ["kernel: a and b", "batch: 1 and 4"]


def test_what_a_model_does_not_have_is_none_and_what_is_not_recorded_is_unknown(tmp_path: Path) -> None:
    def run(without: str = "", **config: object) -> LocalRun:
        made = recorded(tmp_path, [1.0], config=config)
        settings = {name: value for name, value in made.journal.settings.items() if name != without}
        made.journal._write_json("config.json", {"asked": settings, "used": settings})
        return made

    one = run(attn_impl="sdpa", decode_path="overlapped")
    other = run(inner_net=None, decode_path="launches")
    assert conditions([one], [other]) == [
        "inner_net: mlp_1_dual_triton and none",
        "attn_impl: sdpa and none",
        "decode_path: overlapped and launches",
    ]
    assert conditions([one], [run("decode_path", attn_impl="sdpa")]) == ["decode_path: overlapped and unknown"]
    assert conditions([one], [run("attn_impl", decode_path="overlapped")]) == ["attn_impl: sdpa and none"]
    assert conditions([run("inner_net")], [run()]) == ["inner_net: unknown and mlp_1_dual_triton"]
    before_it_chose = run(inner_net=None, device=None)
    assert "inner_net: unknown and mlp_1_dual_triton" in conditions([before_it_chose], [run()])
