#!/usr/bin/env python
"""Compare speed and memory with other implementations: segzoo and the peer run alternately in one process.

    python tools/benchmark.py list
    python tools/benchmark.py evaluation --threads 1 --repeat 9 --json benchmark.json
    python tools/benchmark.py all
    python tools/benchmark.py throughput --help   # images per second of the zoo's models, without a peer

A ratio is the peer's median time over segzoo's; [low-high] is the range of the ratios of the single pairs,
which shows how noisy the machine is at the moment. On a busy machine, `--clock cpu` counts processor time
instead of wall time, where no GPU computes. A missed goal or a different result is marked and makes the exit
status 1.

Peak memory is measured in separate, untimed runs: "torch" sums the CPU allocations and releases of tensors
that torch's profiler sees in the calling thread, "numpy" is tracemalloc's peak, of Python and numpy. Neither
sees memory of other C libraries.
"""

import argparse
import gc
import json
import platform
import statistics
import time
import tracemalloc
from collections.abc import Callable, Sequence
from typing import Any

from command_line import CommandLine, end, path_value, report_errors, whole_number

# isort: split
import torch
from benchmark_cases import Case, load_cases, throughput
from tabulate import tabulate

import segzoo
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
    parser.add_argument("--case", default="", help="only the cases whose name contains this")
    parser.add_argument("--threads", type=whole_number(1), default=1, help="torch threads (default 1)")
    parser.add_argument(
        "--repeat", type=whole_number(1), help="timed pairs per case (default 7, or the case's own)"
    )
    parser.add_argument(
        "--clock", choices=list(CLOCKS), default="wall", help="wall time (default) or processor time"
    )
    parser.add_argument("--json", type=path_value, metavar="FILE", help="write the figures as JSON too")
    return parser.parse_args(arguments)


@report_errors
def main(arguments: Sequence[str]) -> int:
    if arguments[:1] == ["throughput"]:
        return throughput.main(arguments[1:])
    modules = load_cases()
    options = parse(arguments, list(modules))
    if "list" in options.what:
        rows = [[name, case.name, case.description] for name, cases in modules.items() for case in cases]
        print(tabulate(rows, ["module", "case", "description"]))
        return 0
    torch.set_num_threads(options.threads)
    chosen = list(modules) if "all" in options.what else options.what
    cases = [(name, case) for name in chosen for case in modules[name] if options.case in case.name]
    if not cases:
        raise InputError(f"--case {options.case}: no case contains it; see: benchmark.py list")
    figures = []
    for name, case in cases:
        print(f"{name} {case.name}: {case.description}", flush=True)
        repeat = options.repeat or case.repeat or 7
        figures.append({"module": name, **measure(case, repeat, CLOCKS[options.clock])})
    print(table(figures))
    if options.json:
        document = {"machine": machine(options.threads), "clock": options.clock, "cases": figures}
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    return 0 if all(figure["goals_met"] for figure in figures) else 1


def measure(case: Case, repeat: int, clock: Callable[[], float] = time.perf_counter) -> dict:
    """Run a case and return its figures as a JSON-able dict; times in ms of the clock, memory in MiB."""
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
    for index in range(repeat):
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
        "description": case.description,
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
        "repeat": repeat,
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


def machine(threads: int) -> dict:
    """Return the conditions of the measurements."""
    return {
        "processor": throughput.processor(),
        "threads": threads,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "segzoo": segzoo.__version__,
    }


if __name__ == "__main__":
    end(main())
