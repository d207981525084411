"""`tools/benchmark.py table`: figures of runs as Markdown, with the lowest and highest ratio of each case.

    python tools/benchmark.py table idle.json busy.json other_machine.json
    python tools/benchmark.py table --write   # README.md's and docs/speed.md's, from docs/speed/*.json

A ratio of a run is the peer's median time over segzoo's; the band goes from the run with the lowest to that
with the highest ratio. Results of the runs that differ are all listed.
"""

import argparse
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from command_line import CommandLine, path_value, report_errors

from segzoo.utils.errors import InputError
from segzoo.utils.files import write_text

ROOT = Path(__file__).resolve().parents[2]
RECORDS = "docs/speed"
BEGIN = "<!-- {}: written by `python tools/benchmark.py table --write` -->"
END = "<!-- end -->"
# What matters to a user, by module and case, with the ratio that an independent measurement of an earlier
# version found on Zen 1, if it had the case. README.md shows these and docs/speed.md all.
FIRST = {
    "evaluation semantic-scores-512x683x150": "4.9x",
    "evaluation_files labels-png-512x683x150-hotcoco": "0.72x",
    "evaluation panoptic-png": "2.5x",
    "evaluation_files panoptic-png-hotcoco": "0.32x",
    "evaluation_peers entity-ap-hotcoco": "2.4x",
    "model segformer-b0-512-transformers": "3.0x",
    "model segformer-b0-512-mmseg": "1.8x",
    "mask2former r50-512x512-panoptic-transformers": "1.7x",
    "training_step r50-512-transformers": "",
    "loading semantic-480x360-opencv": "0.59x",
}
# What has to be equal in a file and in the run that is added to it.
CONDITIONS = ("processor", "threads", "clock", "beside", "torch", "gpu")


def parse_arguments(arguments: Sequence[str]) -> argparse.Namespace:
    parser = CommandLine(
        prog="benchmark.py table", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("files", nargs="*", type=path_value, metavar="FILE.json", help="written by --json")
    parser.add_argument(
        "--write", action="store_true", help=f"write the repository's tables, from {RECORDS}/*.json"
    )
    return parser.parse_args(arguments)


@report_errors
def main(arguments: Sequence[str]) -> int:
    """Run the subcommand; return its exit status: 0, or 2 for wrong input."""
    args = parse_arguments(arguments)
    if args.write == bool(args.files):
        raise InputError("table: give files that --json wrote, or --write; one of the two")
    if args.write:
        for path, text in documents().items():
            (ROOT / path).write_text(text, encoding="utf-8")
            print(path)
        return 0
    runs = [read(file) for file in args.files]
    print("\n".join([*run_lines(runs), "", *full_table(runs)]))
    return 0


def documents(root: Path = ROOT) -> dict[str, str]:
    """Return the text of each document that has tables, by its path in the repository."""
    runs = [read(file) for file in sorted((root / RECORDS).glob("*.json"))]
    if not runs:
        raise InputError(f"{RECORDS}: holds no .json of a run; write some with --json")
    parts = {
        "README.md": {"speed": short_table(runs)},
        "docs/speed.md": {"runs": run_lines(runs), "speed": full_table(runs)},
    }
    texts = {}
    for path, tables in parts.items():
        text = (root / path).read_text(encoding="utf-8")
        for name, lines in tables.items():
            text = _replaced(text, name, lines, path)
        texts[path] = text
    return texts


def _replaced(text: str, name: str, lines: Iterable[str], path: str) -> str:
    before, begin, rest = text.partition(BEGIN.format(name))
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise InputError(f"{path}: expected a line {BEGIN.format(name)} and a line {END} after it")
    return "\n".join([before + begin, *lines, end + after])


def file_beside(file: Path, beside: int) -> Path:
    """Return the file for the figures of a run beside some busy processes: the given one beside none."""
    return file.with_name(f"{file.stem}-beside-{beside}{file.suffix}") if beside else file


def read(file: Path) -> dict[str, Any]:
    """Return a run's machine and cases.

    Raises:
        InputError: the file is not one that `--json` writes.
    """
    try:
        run = json.loads(file.read_text(encoding="utf-8"))
        if run["machine"]["processor"] and all(case["module"] and case["case"] for case in run["cases"]):
            return run
    except (OSError, ValueError, KeyError, TypeError):
        pass
    raise InputError(f"{file}: expected the figures of a run; write them with tools/benchmark.py --json")


def check(file: Path, machine: dict[str, Any]) -> None:
    """Check that a run on this machine can be added to a file, which need not exist.

    Raises:
        InputError: the file holds something else, or figures of other conditions.
    """
    if not file.exists():
        return
    found = read(file)["machine"]
    for key in CONDITIONS:
        if found.get(key) != machine.get(key):
            raise InputError(
                f"--json {file}: has {key} {found.get(key)}, and this run {machine.get(key)}; "
                "choose another file"
            )


def add(file: Path, machine: dict[str, Any], figures: Sequence[dict[str, Any]]) -> None:
    """Write figures into a file, which keeps its other cases; one line for each case."""
    new = {(figure["module"], figure["case"]): figure for figure in figures}
    old = read(file)["cases"] if file.exists() else []
    cases = {(case["module"], case["case"]): case for case in old} | new
    lines = ",\n".join("  " + json.dumps(_rounded(cases[key])) for key in sorted(cases))
    file.parent.mkdir(parents=True, exist_ok=True)
    write_text(file, f'{{"machine": {json.dumps(machine)},\n "cases": [\n{lines}\n]}}\n')


def _rounded(figure: dict[str, Any]) -> dict[str, Any]:
    return {
        key: float(f"{value:.4g}") if isinstance(value, float) else value for key, value in figure.items()
    }


def machine_text(machine: dict[str, Any]) -> str:
    """Return what measured, in a line."""
    threads = "one thread" if machine["threads"] == 1 else f"{machine['threads']} threads"
    clock = "processor time" if machine["clock"] == "cpu" else "wall time"
    beside = f", beside {machine['beside']} busy processes" if machine["beside"] else ""
    gpu = f" and {machine['gpu']}" if machine["gpu"] else ""
    return (
        f"{machine['processor']}{gpu}, {machine['cores']} cores, {threads}, {clock}{beside}, "
        f"torch {machine['torch']}, numpy {machine['numpy']}, Python {machine['python']}"
    )


def moment_text(moments: Sequence[dict[str, Any]]) -> str:
    """Return what the machine reached meanwhile: matrix products, copies, and its load average."""

    def values(key: str) -> str:
        found = [moment[key] for moment in moments if moment.get(key) is not None]
        if not found:
            return "unknown"
        low, high = min(found), max(found)
        return f"{low:g}" if low == high else f"{low:g} to {high:g}"

    return (
        f"matrix products {values('gflops')} GFLOP/s, copies {values('gigabytes_per_second')} GB/s, "
        f"load average {values('load')}"
    )


def run_lines(runs: Sequence[dict[str, Any]]) -> list[str]:
    """Return a list item for each run, and one for the peers' versions."""
    lines = []
    for run in runs:
        measured = [case for case in run["cases"] if "ratio" in case]
        lines.append(f"- {machine_text(run['machine'])}: {moment_text(measured)}")
    versions: dict[str, dict[str, None]] = {}
    for run in runs:
        for name, version in run["machine"]["peers"].items():
            versions.setdefault(name, {})[version] = None
    peers = ", ".join(f"{name} {' and '.join(found)}" for name, found in sorted(versions.items()))
    return [*lines, f"- peers: {peers}"]


def full_table(runs: Sequence[dict[str, Any]]) -> list[str]:
    """Return the Markdown table of all cases that a run measured."""
    lines = [
        "| `tools/benchmark.py` | what | images | peer | ratio | peak memory, MiB | outputs |",
        "|---|---|---|---|---|---|---|",
    ]
    for key, figures in _by_case(runs).items():
        last = figures[-1]
        cells = [f"{key[0]} {key[1]}", last["what"], last["scene"] or "any", last["peer"]]
        lines.append(_row(*cells, *_numbers(figures)))
    missing = {
        f"{case['peer']}: not installed (pip install {case['missing']})"
        for run in runs
        for case in run["cases"]
        if case.get("missing") and (case["module"], case["case"]) not in _by_case(runs)
    }
    return lines + ([""] + [f"- {text}" for text in sorted(missing)] if missing else [])


def short_table(runs: Sequence[dict[str, Any]]) -> list[str]:
    """Return the Markdown table of the cases in `FIRST`."""
    found = _by_case(runs)
    lines = ["| what | images | peer | ratio | Zen 1 | outputs |", "|---|---|---|---|---|---|"]
    for name, quoted in FIRST.items():
        module, case = name.split(" ")
        if (module, case) not in found:
            raise InputError(f"{RECORDS}: no run has the case {name}, which README.md shows; measure it")
        figures = found[module, case]
        ratio, _, outputs = _numbers(figures)
        last = figures[-1]
        lines.append(_row(last["what"], last["scene"] or "any", last["peer"], ratio, quoted, outputs))
    return lines


def _by_case(runs: Sequence[dict[str, Any]]) -> dict[tuple[str, str], list[dict[str, Any]]]:
    """Return the figures of each measured case, in the order of the names."""
    found: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for run in runs:
        for case in run["cases"]:
            if "ratio" in case:
                found.setdefault((case["module"], case["case"]), []).append(case)
    return dict(sorted(found.items()))


def _numbers(figures: Sequence[dict[str, Any]]) -> tuple[str, str, str]:
    """Return the cells of ratio, memory and outputs."""
    ratios = [_ratio(figure["ratio"]) for figure in sorted(figures, key=lambda figure: figure["ratio"])]
    band = f"{ratios[0]}x" if ratios[0] == ratios[-1] else f"{ratios[0]} to {ratios[-1]}x"
    ours, theirs = (max(figure[key] for figure in figures) for key in ("segzoo_mib", "peer_mib"))
    results = dict.fromkeys(figure["result"] for figure in figures)
    return band, f"{_memory(ours)} / {_memory(theirs)}", "; ".join(results)


def _ratio(value: float) -> str:
    return f"{value:.2f}" if value < 2 else f"{value:.1f}" if value < 20 else f"{value:.0f}"


def _memory(value: float) -> str:
    return f"{value:.1f}" if value < 10 else f"{value:.0f}"


def _row(*cells: str) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
