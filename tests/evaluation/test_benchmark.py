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


@pytest.mark.parametrize(
    ("names", "chosen"),
    [
        ([], ["one", "one-more", "two"]),
        (["one"], ["one"]),
        (["one-"], ["one-more"]),
        (["o"], ["one", "one-more", "two"]),
        (["two", "one"], ["one", "two"]),
    ],
)
def test_cases_are_chosen_by_name_or_by_a_part_of_it(benchmark, names, chosen):
    from benchmark_cases import Case

    cases = {"module": [Case(name, "", pytest.fail) for name in ("one", "one-more", "two")]}
    assert [case.name for _, case in benchmark.chosen_cases(cases, names)] == chosen


def test_a_peer_that_is_not_installed_is_said_and_changes_no_exit_status(
    benchmark, monkeypatch, capsys, tmp_path
):
    import benchmark_cases
    from benchmark_cases import Case

    monkeypatch.setitem(benchmark_cases.PEERS, "no_such_library", "no-such-library")
    case = Case(
        "toy", "what; peer: nobody", lambda: pytest.fail("made"), goal=9.0, needs=("no_such_library",)
    )
    monkeypatch.setattr(benchmark, "load_cases", lambda: {"toys": [case]})
    monkeypatch.setattr(benchmark.machine, "moment", lambda clock: pytest.fail("measured"))
    file = tmp_path / "a.json"
    assert benchmark.main(["toys", "--json", str(file)]) == 0
    assert "not installed: pip install no-such-library" in capsys.readouterr().out
    assert benchmark.main(["table", str(file)]) == 0
    assert "- nobody: not installed (pip install no-such-library)" in capsys.readouterr().out


def test_pairs_end_with_the_seconds_but_after_two(benchmark):
    from benchmark_cases import Case, Pair

    case = Case("toy", "", lambda: Pair(arrays, arrays, lambda *_: True))
    assert benchmark.measure(case, 9, seconds=1e-9)["repeat"] == 2
    assert benchmark.measure(case, 3, seconds=600)["repeat"] == 3


def test_each_load_state_has_a_file_and_its_own_number_of_neighbors(benchmark, monkeypatch, tmp_path):
    import contextlib

    from benchmark_cases import Case, Pair

    cases = [Case("kept", "", lambda: Pair(arrays, arrays, lambda *_: True))]
    cases.append(Case("left-out", "", lambda: pytest.fail("made"), recorded=False))
    monkeypatch.setattr(benchmark, "load_cases", lambda: {"toys": cases})
    neighbors = []

    @contextlib.contextmanager
    def count(number):
        neighbors.append(number)
        yield

    monkeypatch.setattr(benchmark.machine, "busy_neighbors", count)
    monkeypatch.setattr(benchmark.bands, "ROOT", tmp_path)
    written = []
    monkeypatch.setattr(benchmark.bands, "main", lambda arguments: written.append(arguments) or 0)
    assert benchmark.main(["record", "here", "--repeat", "2"]) == 0
    assert neighbors == [0, 2]
    assert written == [["--write"]]
    for beside, name in ((0, "here.json"), (2, "here-beside-2.json")):
        run = benchmark.bands.read(tmp_path / "docs" / "speed" / name)
        assert (run["machine"]["beside"], run["machine"]["clock"]) == (beside, "cpu")
        assert [case["case"] for case in run["cases"]] == ["kept"]


def test_a_record_needs_a_name(benchmark, capsys):
    assert benchmark.main(["record", "--repeat", "2"]) == 2
    assert "record: expected a name for the machine" in capsys.readouterr().err


def test_a_module_that_imports_a_missing_peer_says_so(benchmark, monkeypatch):
    import importlib

    import benchmark_cases

    real = importlib.import_module

    def without_hotcoco(name: str):
        if name.endswith(".psa"):
            raise ModuleNotFoundError("No module named 'hotcoco'", name="hotcoco")
        return real(name)

    monkeypatch.setattr(benchmark_cases.importlib, "import_module", without_hotcoco)
    monkeypatch.setattr(benchmark_cases, "is_installed", lambda name: name != "hotcoco")
    modules = benchmark_cases.load_cases()
    assert [case.missing for case in modules["psa"]] == ["hotcoco"]
    assert len(modules["evaluation"]) > 5


def test_what_the_machine_reaches_is_measured_beside_busy_processes(benchmark):
    import subprocess

    from benchmark_cases import machine

    moment = machine.moment()
    assert 0.01 < moment["gflops"] < 1e6
    assert 0.01 < moment["gigabytes_per_second"] < 1e5
    started = []
    popen = subprocess.Popen
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(subprocess, "Popen", lambda *a, **k: started.append(popen(*a, **k)) or started[-1])
        with machine.busy_neighbors(2):
            assert [process.poll() for process in started] == [None, None]
    assert all(process.poll() is not None for process in started)


def test_every_case_has_a_name_of_its_own_in_its_module(benchmark, capsys):
    from benchmark_cases import load_cases

    modules = load_cases()
    assert "evaluation" in modules
    for cases in modules.values():
        names = [case.name for case in cases]
        assert names
        assert len(set(names)) == len(names)
        for case in cases:
            assert case.peer_name, case.name
            assert "peer" not in case.what
    assert benchmark.main(["list"]) == 0
    assert "panoptic-png" in capsys.readouterr().out
