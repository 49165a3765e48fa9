"""The wait that the benchmarks put into a decode step."""

import pytest
import torch

pytestmark = pytest.mark.gpu


@pytest.fixture(scope="module", autouse=True)
def a_gpu() -> None:
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA GPU")


def test_a_captured_wait_takes_what_is_written_before_its_replay() -> None:
    from benchmarks.spin_kernel import spin

    ns, waited = (torch.zeros(1, dtype=torch.int64, device="cuda") for _ in range(2))
    spin(ns, waited)  # compiled before the capture
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        spin(ns, waited)
    for wanted in (0, 200_000, 2_000_000):
        ns.fill_(wanted)
        graph.replay()
        assert wanted <= int(waited)
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        for _ in range(20):
            graph.replay()
        end.record()
        torch.cuda.synchronize()
        assert begin.elapsed_time(end) * 1e6 >= 20 * wanted
