"""tools/benchmark.py table: bands of several runs, and the repository's own tables."""

import json
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
MACHINE = {
    "processor": "CPU",
    "cores": 2,
    "threads": 1,
    "gpu": None,
    "torch": "2.13",
    "numpy": "2.0",
    "python": "3.11",
    "segzoo": "0",
    "peers": {"hotcoco": "1.3"},
    "clock": "cpu",
    "beside": 0,
}
MOMENT = {"gflops": 30.0, "gigabytes_per_second": 10.0, "load": 1.5}
FIGURE = {"what": "PQ", "scene": "as in COCO", "peer": "panopticapi", "goal": None, **MOMENT}


@pytest.fixture
def bands(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "tools"))
    from benchmark_cases import bands

    yield bands
    for name in [name for name in sys.modules if name.split(".")[0] == "benchmark_cases"]:
        del sys.modules[name]


def figure(case: str, ratio: float, **changes: object) -> dict:
    measured = {"ratio": ratio, "segzoo_mib": 1.0, "peer_mib": 20.0, "result": "equal", "goals_met": True}
    return {"module": "evaluation", "case": case, **FIGURE, **measured, **changes}


def write(file: Path, *figures: dict, **machine: object) -> Path:
    file.write_text(json.dumps({"machine": {**MACHINE, **machine}, "cases": figures}))
    return file


def test_a_band_has_the_lowest_and_the_highest_ratio_of_the_runs(bands, tmp_path, capsys):
    idle = write(tmp_path / "a.json", figure("pq", 2.46), figure("ap", 1.234))
    busy = write(tmp_path / "b.json", figure("pq", 3.04, load=4.0, result="IoU to 3e-08"), beside=2)
    other = write(tmp_path / "c.json", figure("pq", 2.9, segzoo_mib=3.0), processor="Xeon")
    assert bands.main([str(file) for file in (idle, busy, other)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert (
        "| evaluation pq | PQ | as in COCO | panopticapi | 2.5 to 3.0x | 3.0 / 20 | equal; IoU to 3e-08 |"
        in (lines)
    )
    assert "| evaluation ap | PQ | as in COCO | panopticapi | 1.23x | 1.0 / 20 | equal |" in lines
    assert lines[0].startswith("- CPU, 2 cores, one thread, processor time, torch 2.13")
    assert lines[0].endswith("matrix products 30 GFLOP/s, copies 10 GB/s, load average 1.5")
    assert "beside 2 busy processes" in lines[1]
    assert lines[1].endswith("load average 4")
    assert lines[2].startswith("- Xeon, ")
    assert lines[3] == "- peers: hotcoco 1.3"


def test_figures_are_added_to_a_file_of_the_same_conditions_only(bands, tmp_path):
    file = tmp_path / "new" / "a.json"
    bands.add(file, MACHINE, [figure("pq", 2.0), figure("ap", 3.0)])
    bands.add(file, MACHINE, [figure("pq", 2.123456)])
    cases = json.loads(file.read_text())["cases"]
    assert [(case["case"], case["ratio"]) for case in cases] == [("ap", 3.0), ("pq", 2.123)]
    bands.check(file, MACHINE)
    with pytest.raises(bands.InputError, match="has beside 0, and this run 2; choose another file"):
        bands.check(file, {**MACHINE, "beside": 2})
    (tmp_path / "b.json").write_text('{"measurements": []}')
    with pytest.raises(bands.InputError, match=r"b\.json: expected the figures of a run"):
        bands.check(tmp_path / "b.json", MACHINE)


def test_the_tables_of_the_repository_are_those_of_its_recorded_runs(bands):
    texts = bands.documents()
    assert sorted(texts) == ["README.md", "docs/speed.md"]
    for path, text in texts.items():
        assert (ROOT / path).read_text(encoding="utf-8") == text, "run tools/benchmark.py table --write"


def test_the_recorded_runs_are_of_two_states_and_equal_results(bands):
    runs = [bands.read(file) for file in sorted((ROOT / bands.RECORDS).glob("*.json"))]
    states = {(run["machine"]["processor"], run["machine"]["beside"]) for run in runs}
    assert len(states) >= 2
    for name in bands.FIRST:
        found = [case for run in runs for case in run["cases"] if f"{case['module']} {case['case']}" == name]
        assert len(found) >= 2, name
    for run in runs:
        for case in run["cases"]:
            assert not case.get("result", "").startswith("DIFFERENT")
            assert case.get("gflops", 1) > 0


def test_a_recorded_case_is_still_one(bands):
    """Rows of a case that was renamed, removed or is measured no more would stay in the tables for ever."""
    from benchmark_cases import load_cases

    known = {(module, case.name) for module, cases in load_cases().items() for case in cases if case.recorded}
    for file in (ROOT / bands.RECORDS).glob("*.json"):
        assert {(case["module"], case["case"]) for case in bands.read(file)["cases"]} <= known


@pytest.mark.parametrize("arguments", [[], ["--write", "a.json"]])
def test_files_or_write_is_asked_for(bands, arguments, capsys):
    assert bands.main(arguments) == 2
    error = capsys.readouterr().err
    assert "give files that --json wrote, or --write" in error
    assert error.count("\n") == 1
