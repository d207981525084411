"""tools/gpu_check.py, tried on a CPU with small sizes: no section loses the rows of another, or its own."""

import json
import signal
import sys
import zipfile
from pathlib import Path

import pytest

TOOLS = Path(__file__).resolve().parents[2] / "tools"


@pytest.fixture(scope="module")
def check():
    sys.path.insert(0, str(TOOLS))
    try:
        import gpu_check

        yield gpu_check
    finally:
        sys.path.remove(str(TOOLS))


SCRIPTS = {
    "limits": 'rows.write_text(\'[{"what": "GPU", "value": 3}]\')',
    "kernels": "rows.write_text('[{\"side\": 8}]'); raise SystemExit('no memory left')",
    "step": 'rows.write_text(\'[{"ms": 1.25, "model": "a|b"}]\'); time.sleep(60)',
    "train": "raise SystemExit('is never started')",
}


def test_a_section_that_fails_or_hangs_keeps_its_rows_and_the_others_run(check, tmp_path, monkeypatch):
    def command(name, args, limit):
        file = args.output / f"{name}.json"
        code = f"import pathlib, time; rows = pathlib.Path({str(file)!r}); {SCRIPTS[name]}"
        return [sys.executable, "-c", code]

    monkeypatch.setattr(check, "command", command)
    monkeypatch.setattr(check, "LEAST", 0.5)
    limits = {name: check.SECTIONS[name]._replace(limit=3) for name in SCRIPTS}
    monkeypatch.setattr(check, "SECTIONS", limits | {"train": limits["train"]._replace(limit=0)})
    words = ["--output", str(tmp_path), "--sections", "step,limits,kernels,train", "--device", "cpu"]
    assert check.main(words) == 1
    report = json.loads((tmp_path / "gpu_check.json").read_text())
    sections = report["sections"]
    assert list(sections) == ["limits", "kernels", "step", "train"]
    assert [one["problem"] for one in sections.values()] == [
        "",
        "failed with exit status 1: no memory left",
        "ended after its limit of 3 s",
        "not started: no time was left",
    ]
    assert [one["rows"] for one in sections.values()] == [
        [{"what": "GPU", "value": 3}],
        [{"side": 8}],
        [{"ms": 1.25, "model": "a|b"}],
        [],
    ]
    page = (tmp_path / "gpu_check.md").read_text()
    assert "| what | value |\n| --- | --- |\n| GPU | 3 |" in page
    assert "| 1.25 | a\\|b |" in page
    assert page.count("**Incomplete**") == 3


def test_the_report_is_there_while_a_section_runs_and_says_what_is_missing(check, tmp_path, monkeypatch):
    """So it is if the script is killed."""
    report, seen = tmp_path / "gpu_check.json", tmp_path / "seen.json"
    code = f"""
import pathlib, time
rows, report = pathlib.Path({str(tmp_path / "step.json")!r}), pathlib.Path({str(report)!r})
rows.write_text('[{{"ms": 2}}]')
while '"ms"' not in (text := report.read_text()):
    time.sleep(0.1)
pathlib.Path({str(seen)!r}).write_text(text)
"""
    monkeypatch.setattr(check, "command", lambda name, args, limit: [sys.executable, "-c", code])
    monkeypatch.setattr(check, "REPORT_EVERY", 0.3)
    monkeypatch.setattr(check.wheels, "MODULES", ("torch", "no_such_module"))
    handler = signal.getsignal(signal.SIGTERM)
    assert check.main(["--output", str(tmp_path), "--sections", "step", "--device", "cpu"]) == 0
    assert signal.getsignal(signal.SIGTERM) is handler
    section = json.loads(seen.read_text())["sections"]["step"]
    assert (section["problem"], section["rows"]) == ("was running when the script ended", [{"ms": 2}])
    assert json.loads(report.read_text())["sections"]["step"]["problem"] == ""
    assert "**not installed: no_such_module**" in (tmp_path / "gpu_check.md").read_text()


def write_wheel(folder, name, tag="py3-none-any"):
    info = f"{name}-1.0.dist-info"
    with zipfile.ZipFile(folder / f"{name}-1.0-{tag}.whl", "w") as wheel:
        wheel.writestr(f"{name}.py", "VALUE = 1\n")
        wheel.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        wheel.writestr(f"{info}/WHEEL", f"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: {tag}\n")
        wheel.writestr(f"{info}/RECORD", "")


def test_only_wheels_that_the_machine_lacks_are_installed_whatever_the_others_are(check, tmp_path):
    (tmp_path / "wheels").mkdir()
    for name, tag in (
        ("lacking_here", "py3-none-any"),
        ("numpy", "py3-none-any"),
        ("other", "cp27-none-any"),
    ):
        write_wheel(tmp_path / "wheels", name, tag)
    problems = check.wheels.install(tmp_path / "wheels", tmp_path / "packages", 300)
    assert [problem.split(":")[0] for problem in problems] == ["other-1.0-cp27-none-any.whl"]
    assert "not a supported wheel" in problems[0]
    assert [file.name for file in (tmp_path / "packages").glob("*.py")] == ["lacking_here.py"]
    late = check.wheels.install(tmp_path / "wheels", tmp_path / "late", 0)
    assert [problem.split(": ", 1)[1] for problem in late] == ["not installed: no time was left"] * 2


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--sections", "step,steps"], "'steps' is unknown; expected some of limits, tests"),
        (["--minutes", "0"], "--minutes 0.0: expected a number above 0"),
        (["--wheels", "nowhere"], "--wheels nowhere: holds no wheel"),
    ],
)
def test_a_wrong_option_is_named(check, capsys, words, message):
    with pytest.raises(SystemExit) as ended:
        check.main(words)
    assert ended.value.code == 2
    assert message in capsys.readouterr().err


def test_all_sections_fit_into_ten_minutes_and_are_listed_in_the_help(check, capsys):
    assert sum(section.limit for section in check.SECTIONS.values()) <= 60 * check.parse([]).minutes < 600
    with pytest.raises(SystemExit):
        check.main(["--help"])
    shown = capsys.readouterr().out
    assert all(section.about in shown for section in check.SECTIONS.values())


@pytest.mark.parametrize("section", ["limits", "kernels", "step", "inference", "throughput"])
def test_a_section_measures_on_a_cpu_with_small_sizes(check, tmp_path, section):
    settings = check.Settings("cpu", True, tmp_path)
    check.SECTIONS[section].load().run(settings, settings.rows(section))
    rows = json.loads((tmp_path / f"{section}.json").read_text())
    assert rows
    assert [row for row in rows if "error" in row] == []
    if section in ("step", "inference"):
        assert {(row["model"].split("/")[0], row["precision"]) for row in rows} == {
            (task, precision) for task in ("panoptic", "semantic") for precision in ("fp32", "bf16")
        }
        assert all(row["ms"] > 0 for row in rows)
    if section == "throughput":
        (first, second) = json.loads((tmp_path / "images_per_second.json").read_text())["measurements"]
        assert {first["precision"], second["precision"]} == {"fp32", "bf16"}
        assert {"name", "images_per_second", "batch", "device", "threads", "torch"} <= first.keys()
