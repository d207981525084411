#!/usr/bin/env python
"""Compare speed and memory with other implementations: segzoo and the peer run alternately in one process.

    python tools/benchmark.py list
    python tools/benchmark.py evaluation --threads 1 --repeat 9 --json benchmark.json
    python tools/benchmark.py all --clock cpu --beside 0 2 --json run.json   # also run-beside-2.json
    python tools/benchmark.py table run.json run-beside-2.json   # Markdown: lowest and highest ratios
    python tools/benchmark.py record NAME   # measure and write the tables of README.md and docs/speed.md
    python tools/benchmark.py throughput --help   # images per second of the zoo's models, without a peer

A ratio is the peer's median time over segzoo's; [low-high] is the range of the ratios of the single pairs,
which shows how noisy the machine is at the moment. On a busy machine, `--clock cpu` counts processor time
instead of wall time, where no GPU computes. The speed of matrix products and copies at that moment is printed
with them: a ratio holds for a machine and a moment. A missed goal or a different result is marked and makes
the exit status 1; a peer that is not installed does not.

Peak memory is measured in separate, untimed runs: "torch" sums the CPU allocations and releases of tensors
that torch's profiler sees in the calling thread, "numpy" is tracemalloc's peak, of Python and numpy. Neither
sees memory of other C libraries.
"""

import argparse
import gc
import os
import statistics
import time
import tracemalloc
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

# Before numpy is imported: numpy 1.26 sorts 10 times slower with AVX-512 on Zen 4 than without, and the peers
# that call np.unique would look slow.
if os.path.isfile("/proc/cpuinfo") and "AuthenticAMD" in Path("/proc/cpuinfo").read_text(encoding="utf-8"):
    os.environ.setdefault(
        "NPY_DISABLE_CPU_FEATURES", "AVX512F AVX512CD AVX512_SKX AVX512_CLX AVX512_CNL AVX512_ICL"
    )

from command_line import CommandLine, end, path_value, report_errors, whole_number

# isort: split
import torch
from benchmark_cases import Case, bands, load_cases, machine, throughput
from tabulate import tabulate

from segzoo.utils.errors import InputError

MEBIBYTE = 1 << 20
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}


def parse(arguments: Sequence[str] | None, modules: list[str]) -> argparse.Namespace:
    parser = CommandLine(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "what",
        nargs="+",
        choices=["list", "all", *modules],
        metavar="WHAT",
        help=f"list, all, {', '.join(modules)}",
    )
    parser.add_argument(
        "--case",
        nargs="+",
        action="extend",
        default=[],
        metavar="NAME",
        help="only these cases, or those whose names contain one of these",
    )
    parser.add_argument("--threads", type=whole_number(1), default=1, help="torch threads (default 1)")
    parser.add_argument(
        "--repeat", type=whole_number(1), help="timed pairs per case (default 7, or the case's own)"
    )
    parser.add_argument(
        "--seconds",
        type=whole_number(1),
        metavar="N",
        help="no more timed pairs of a case after so many seconds and two pairs",
    )
    parser.add_argument(
        "--clock", choices=list(CLOCKS), default="wall", help="wall time (default) or processor time"
    )
    parser.add_argument(
        "--beside",
        type=whole_number(0),
        nargs="+",
        default=[0],
        metavar="N",
        help="run beside N busy processes; several numbers: once beside each",
    )
    parser.add_argument(
        "--json",
        type=path_value,
        metavar="FILE.json",
        help="write the figures as JSON too, into a file that may exist; those beside N busy processes into "
        "FILE-beside-N.json",
    )
    parser.add_argument("--recorded", action="store_true", help="only the cases of docs/speed.md")
    return parser.parse_args(arguments)


@report_errors
def main(arguments: Sequence[str]) -> int:
    if arguments[:1] == ["throughput"]:
        return throughput.main(arguments[1:])
    if arguments[:1] == ["table"]:
        return bands.main(arguments[1:])
    if arguments[:1] == ["record"]:
        return record(arguments[1:])
    modules = load_cases()
    options = parse(arguments, list(modules))
    if "list" in options.what:
        rows = [
            [name, case.name, case.description, case.scene]
            for name, cases in modules.items()
            for case in cases
        ]
        print(tabulate(rows, ["module", "case", "description", "scene"]))
        return 0
    torch.set_num_threads(options.threads)
    chosen = list(modules) if "all" in options.what else options.what
    cases = chosen_cases({name: modules[name] for name in chosen}, options.case)
    if options.recorded:
        cases = [(name, case) for name, case in cases if case.recorded]
    runs = []
    for beside in dict.fromkeys(options.beside):
        described = {**machine.describe(options.threads), "clock": options.clock, "beside": beside}
        file = options.json and bands.file_beside(options.json, beside)
        if file:
            bands.check(file, described)  # before the work
        runs.append((described, file))
    goals_met = True
    for described, file in runs:
        print(bands.machine_text(described))
        figures = []
        with machine.busy_neighbors(described["beside"]):
            for name, case in cases:
                figures.append(figure_of(name, case, options))
                if file:
                    bands.add(file, described, figures[-1:])
        print(table(figures))
        goals_met &= all(figure["goals_met"] for figure in figures)
    return 0 if goals_met else 1


def record(arguments: Sequence[str]) -> int:
    """Measure what docs/speed.md shows, beside no and beside two busy processes, and write the tables.

    Args:
        arguments: a name for the files in docs/speed, and options of a run.
    """
    if not arguments or arguments[0].startswith("-"):
        raise InputError("record: expected a name for the machine, as in: benchmark.py record zen4")
    file = bands.ROOT / bands.RECORDS / f"{arguments[0]}.json"
    options = ["--recorded", "--clock", "cpu", "--beside", "0", "2", "--json", str(file), *arguments[1:]]
    status = main(["all", *options, *([] if "--seconds" in options else ["--seconds", "2"])])
    return status if status == 2 else bands.main(["--write"]) or status


def chosen_cases(modules: dict[str, list[Case]], names: list[str]) -> list[tuple[str, Case]]:
    """Return the cases with a name, or whose names contain it; all without names.

    Raises:
        InputError: no case has one of the names.
    """
    cases = [(module, case) for module, of_module in modules.items() for case in of_module]
    found: set[tuple[str, str]] = set()
    for name in names:
        matching = [(module, case.name) for module, case in cases if name in case.name]
        matching = [pair for pair in matching if pair[1] == name] or matching
        if not matching:
            raise InputError(f"--case {name}: no case contains it; see: benchmark.py list")
        found.update(matching)
    return [pair for pair in cases if not names or (pair[0], pair[1].name) in found]


def figure_of(module: str, case: Case, options: argparse.Namespace) -> dict:
    """Run a case beside what the machine reaches at the moment, or say what is missing."""
    print(f"{module} {case.name}: {case.description}" + (f"; {case.scene}" if case.scene else ""), flush=True)
    about = {
        "module": module,
        "case": case.name,
        "what": case.what,
        "scene": case.scene,
        "peer": case.peer_name,
        "goal": case.goal,
    }
    if case.missing:
        return {**about, "missing": case.missing, "goals_met": True}
    clock = CLOCKS[options.clock]
    moment = machine.moment(clock)
    print(bands.moment_text([moment]), flush=True)
    repeat = options.repeat or case.repeat or 7
    return {**about, **moment, **measure(case, repeat, clock, options.seconds)}


def measure(
    case: Case, repeat: int, clock: Callable[[], float] = time.perf_counter, seconds: float | None = None
) -> dict:
    """Run a case and return its figures as a JSON-able dict; times in ms of the clock, memory in MiB.

    Args:
        case: what is run.
        repeat: number of timed pairs.
        clock: returns seconds.
        seconds: after this long no further pair is run, if there are two.
    """
    pair = case.make()
    results = []
    functions = [lambda run=run: results.append(run()) for run in (pair.segzoo, pair.peer)]
    peaks = []
    for function in functions:  # warms up both
        if case.slow:
            peaks.append(peak_memory(function, case.memory))
        else:
            function()
    verdict = pair.compare(*results)
    results.clear()
    ours, theirs = [], []
    began = time.perf_counter()
    for index in range(repeat):
        if seconds is not None and index >= 2 and time.perf_counter() - began > seconds:
            break
        runs = [(pair.segzoo, ours), (pair.peer, theirs)]
        for function, times in runs if index % 2 else reversed(runs):
            gc.collect()
            start = clock()
            function()
            times.append(1e3 * (clock() - start))
    peaks = peaks or [peak_memory(function, case.memory) for function in (pair.segzoo, pair.peer)]
    our_peak, their_peak = (peak / MEBIBYTE for peak in peaks)
    ratio = statistics.median(theirs) / statistics.median(ours)
    same = verdict is True or (isinstance(verdict, str) and not verdict.startswith("DIFFERENT"))
    pair_ratios = [their / our for our, their in zip(ours, theirs, strict=True)]
    memory_ok = case.memory_goal is None or our_peak <= case.memory_goal * their_peak
    return {
        "case": case.name,
        "segzoo_ms": statistics.median(ours),
        "peer_ms": statistics.median(theirs),
        "ratio": ratio,
        "ratio_low": min(pair_ratios),
        "ratio_high": max(pair_ratios),
        "goal": case.goal,
        "segzoo_mib": our_peak,
        "peer_mib": their_peak,
        "memory": case.memory,
        "memory_goal": case.memory_goal,
        "repeat": len(ours),
        "result": {True: "equal", False: "DIFFERENT"}.get(verdict, verdict),
        "goals_met": bool(same and memory_ok and (case.goal is None or ratio >= case.goal)),
    }


def peak_memory(function: Callable[[], Any], kind: str) -> int:
    """Return the peak of bytes allocated during a run, beyond those allocated before."""
    gc.collect()
    if kind == "torch":
        return _peak_tensor_bytes(function)
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        function()
        return tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()


def _peak_tensor_bytes(function: Callable[[], Any]) -> int:
    with torch.profiler.profile(
        activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True, acc_events=True
    ) as profile:
        result = function()
    del result
    events = [event for event in profile.profiler.kineto_results.events() if event.name() == "[memory]"]
    held = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        held += event.nbytes()
        peak = max(peak, held)
    return peak


def table(figures: list[dict]) -> str:
    rows = []
    for figure in figures:
        if figure.get("missing"):
            rows.append([figure["case"], *[""] * 5, f"not installed: pip install {figure['missing']}", ""])
            continue
        goal = "" if figure["goal"] is None else f"{figure['goal']:g}x"
        memory_goal = "" if figure["memory_goal"] is None else f" (goal {figure['memory_goal']:g} of it)"
        rows.append(
            [
                figure["case"],
                f"{figure['segzoo_ms']:.2f}",
                f"{figure['peer_ms']:.2f}",
                f"{figure['ratio']:.1f}x [{figure['ratio_low']:.1f}-{figure['ratio_high']:.1f}]",
                goal,
                f"{figure['segzoo_mib']:.1f} / {figure['peer_mib']:.1f}{memory_goal}",
                figure["result"],
                "" if figure["goals_met"] else "MISSED",
            ]
        )
    headers = ["case", "segzoo ms", "peer ms", "ratio", "goal", "peak MiB", "result", ""]
    return tabulate(rows, headers, disable_numparse=True)


if __name__ == "__main__":
    end(main())
