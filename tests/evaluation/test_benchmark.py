"""tools/benchmark.py: known memory peaks, verdicts, and unique case names."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

TOOLS = Path(__file__).resolve().parents[2] / "tools"
MEBIBYTE = 1 << 20


@pytest.fixture
def benchmark(monkeypatch):
    monkeypatch.syspath_prepend(str(TOOLS))
    import benchmark

    yield benchmark
    for name in [name for name in sys.modules if name.split(".")[0] in ("benchmark", "benchmark_cases")]:
        del sys.modules[name]


def tensors():
    first = torch.zeros(2 * MEBIBYTE, dtype=torch.uint8)
    second = first + 1  # both are held: 4 MiB
    del first
    third = second[: MEBIBYTE // 2].clone()  # 2.5 MiB
    return third.max() + second.max()


def arrays():
    return np.concatenate([np.zeros(MEBIBYTE, np.uint8), np.ones(MEBIBYTE, np.uint8)]).sum()  # 1 + 1 + 2 MiB


@pytest.mark.parametrize(("function", "kind"), [(tensors, "torch"), (arrays, "numpy")])
def test_peak_memory_is_that_of_the_worst_moment(benchmark, function, kind):
    assert benchmark.peak_memory(function, kind) == pytest.approx(4 * MEBIBYTE, rel=0.02)


@pytest.mark.parametrize(
    ("verdict", "goal", "memory_goal", "met"),
    [
        (True, None, None, True),
        (False, None, None, False),
        ("gradients 2e-7", None, None, True),
        ("DIFFERENT by 3 pixels", None, None, False),
        (True, 1e9, None, False),
        (True, None, 1e-9, False),
    ],
)
def test_a_missed_goal_or_a_different_result_is_marked(benchmark, verdict, goal, memory_goal, met):
    from benchmark_cases import Case, Pair

    case = Case("toy", "", lambda: Pair(tensors, tensors, lambda *_: verdict), goal, "torch", memory_goal)
    figure = benchmark.measure(case, repeat=2)
    assert figure["goals_met"] is met
    assert ("MISSED" in benchmark.table([figure])) is not met


@pytest.mark.parametrize(("slow", "runs"), [(False, 4), (True, 3)])
def test_a_slow_case_runs_no_more_often_than_it_has_to(benchmark, slow, runs):
    from benchmark_cases import Case, Pair

    done = []

    def ours():
        done.append("segzoo")
        return tensors()

    case = Case("toy", "", lambda: Pair(ours, tensors, torch.equal), slow=slow)
    figure = benchmark.measure(case, repeat=2)
    assert len(done) == runs
    assert figure["result"] == "equal"
    assert figure["segzoo_mib"] == figure["peer_mib"] == pytest.approx(4, rel=0.02)


def test_every_case_has_a_name_of_its_own_in_its_module(benchmark, capsys):
    from benchmark_cases import load_cases

    modules = load_cases()
    assert "evaluation" in modules
    for cases in modules.values():
        names = [case.name for case in cases]
        assert names
        assert len(set(names)) == len(names)
    assert benchmark.main(["list"]) == 0
    assert "panoptic-png" in capsys.readouterr().out
