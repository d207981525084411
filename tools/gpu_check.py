#!/usr/bin/env python
"""Test and measure segzoo on one GPU in a few minutes, and write a JSON file and a Markdown page.

    python tools/gpu_check.py --output gpu_check
    python tools/gpu_check.py --output gpu_check --wheels wheels/ --minutes 9
    python tools/gpu_check.py --output gpu_check --sections step,inference
    python tools/gpu_check.py --output try --device cpu --small    # tries the script itself
    python tools/gpu_check.py --make-wheels wheels/                # for a machine without a network
    python tools/gpu_check.py --make-wheels wheels/ timm numba     # these, and Detectron2

Needs torch and segzoo's requirements. --wheels installs the wheels of a folder for this run only, without a
network, and only those whose packages the machine lacks. --make-wheels writes them on a machine that has one,
with the same version of Python and kind of processor; by default Detectron2 and what images for machine
learning often lack. A peer or a tool that is missing makes its rows say "not installed".

Sections, in this order, each in a process of its own with a limit on its time:
{sections}

A section that fails or runs out of time keeps its rows so far, and the report says why it ended. It is
written every few seconds, so that it is there even if this script is killed. The folder has `gpu_check.json`
with all rows, `gpu_check.md` with the tables, `images_per_second.json` with the zoo's models at batch 16 in
the form that `segzoo zoo --plot` reads, and `<section>.log`, what a section printed.

Exit status: 0 all sections were complete, 1 one was not, 2 wrong input.
"""

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

TOOLS = Path(__file__).resolve().parent
sys.path[:0] = [str(path) for path in (TOOLS, TOOLS.parent) if str(path) not in sys.path]

from gpu_checks import SECTIONS, Settings, replace, wheels  # noqa: E402
from gpu_checks.report import markdown  # noqa: E402

# Seconds that a section gets at least; with less time left it is not started.
LEAST = 5.0
# Seconds that wheels may take to install; they are part of --minutes.
INSTALLATION = 60.0
# Seconds between two reports while a section runs.
REPORT_EVERY = 5.0


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    width = max(map(len, SECTIONS))
    sections = "\n".join(
        f"    {name:<{width}}  {one.limit:3d} s  {one.about}" for name, one in SECTIONS.items()
    )
    parser = argparse.ArgumentParser(
        description=__doc__.replace("{sections}", sections),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--output", type=Path, default=Path("gpu_check"), help="folder (default gpu_check)")
    parser.add_argument(
        "--sections", default=",".join(SECTIONS), help="those to run, separated by commas (default: all)"
    )
    parser.add_argument("--minutes", type=float, default=9.5, help="time for everything (default 9.5)")
    parser.add_argument("--device", default="cuda", help="cuda (default), cuda:1, ..., or cpu")
    parser.add_argument("--small", action="store_true", help="small sizes and networks, to try the script")
    parser.add_argument("--wheels", type=Path, help="folder of wheels to install for this run")
    parser.add_argument(
        "--make-wheels",
        nargs="+",
        metavar=("FOLDER", "PACKAGE"),
        help="only write wheels of packages and Detectron2",
    )
    # The process of a section, and its limit.
    parser.add_argument("--run", metavar="SECTION", help=argparse.SUPPRESS)
    parser.add_argument("--limit", type=float, default=float("inf"), help=argparse.SUPPRESS)
    args = parser.parse_args(arguments)
    names = args.sections.split(",")
    for name in names:
        if name not in SECTIONS:
            parser.error(f"--sections: {name!r} is unknown; expected some of {', '.join(SECTIONS)}")
    args.sections = [name for name in SECTIONS if name in names]
    if args.minutes <= 0:
        parser.error(f"--minutes {args.minutes}: expected a number above 0")
    return args


def install(folder: Path, packages: Path, seconds: float) -> list[str]:
    """Install wheels for this process and its children; return what was not installed and why."""
    problems = wheels.install(folder, packages, seconds)
    paths = [path for path in (os.environ.get("PYTHONPATH"), str(packages.resolve())) if path]
    os.environ["PYTHONPATH"] = os.pathsep.join(paths)
    sys.path.append(str(packages.resolve()))
    return problems


def command(name: str, args: argparse.Namespace, limit: float) -> list[str]:
    """Return the command of a section's process, which is ended after `limit` seconds."""
    words = [sys.executable, __file__, "--run", name, "--limit", f"{limit:.1f}"]
    return words + ["--output", str(args.output), "--device", args.device] + ["--small"] * args.small


def run_process(words: Sequence[str], log: Path, limit: float, meanwhile: Callable[[], None]) -> str:
    """Run a command with its output in a file; return "" or why it did not end well.

    `meanwhile` is called every few seconds.
    """
    until = time.monotonic() + limit
    with log.open("w", encoding="utf-8") as output:
        process = subprocess.Popen(words, stdout=output, stderr=subprocess.STDOUT, start_new_session=True)
        try:
            while process.poll() is None and time.monotonic() < until:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(timeout=max(min(REPORT_EVERY, until - time.monotonic()), 0.01))
                meanwhile()
            status = process.poll()
        finally:
            if process.poll() is None:
                # With the data-loader workers that it has started.
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
    if status is None:
        return f"ended after its limit of {limit:.0f} s"
    if not status:
        return ""
    lines = [line for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    how = f"signal {-status}" if status < 0 else f"exit status {status}"
    return f"failed with {how}: {lines[-1].strip() if lines else 'no output'}"


def run_sections(args: argparse.Namespace, problems: Sequence[str], until: float) -> dict:
    """Run the sections one after the other; return the report, which is written too.

    Args:
        problems: what to say at the top.
        until: `time.monotonic()` at which the last section is ended.
    """
    args.output.mkdir(parents=True, exist_ok=True)
    report: dict = {"device": args.device, "small": args.small, "problems": list(problems), "sections": {}}
    for name in args.sections:
        started = time.monotonic()
        limit = min(SECTIONS[name].limit, until - started)
        rows = args.output / f"{name}.json"
        rows.unlink(missing_ok=True)

        def write(
            problem: str = "was running when the script ended",
            name: str = name,
            rows: Path = rows,
            started: float = started,
        ) -> None:
            report["sections"][name] = {
                "about": SECTIONS[name].about,
                "seconds": round(time.monotonic() - started, 1),
                "problem": problem,
                "rows": _read_rows(rows),
            }
            replace(args.output / "gpu_check.json", json.dumps(report, indent=1))
            replace(args.output / "gpu_check.md", markdown(report))

        problem = "not started: no time was left"
        if limit >= LEAST:
            print(f"{name}, at most {limit:.0f} s ...", flush=True)
            write()
            log = args.output / f"{name}.log"
            problem = run_process(command(name, args, limit), log, limit, write)
        write(problem)
        print(f"{name}: {problem or 'complete'}", flush=True)
    return report


def _read_rows(file: Path) -> list[dict]:
    """Return the rows of a section; those that are just being written come with the next report."""
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return []


def main(arguments: Sequence[str] | None = None) -> int:
    args = parse(arguments)
    if args.run:
        # First, so that the versions of libraries that are imported after it fit together.
        import segzoo  # noqa: F401

        settings = Settings(args.device, args.small, args.output, args.limit)
        SECTIONS[args.run].load().run(settings, settings.rows(args.run))
        return 0
    if args.make_wheels:
        folder, *names = args.make_wheels
        wheels.make(Path(folder), names or wheels.USUALLY_MISSING)
        return 0
    if args.wheels and not any(args.wheels.glob("*.whl")):
        print(f"error: --wheels {args.wheels}: holds no wheel (*.whl)", file=sys.stderr)
        sys.exit(2)
    problems = []
    until = time.monotonic() + 60 * args.minutes
    if args.wheels:
        args.output.mkdir(parents=True, exist_ok=True)
        problems += install(args.wheels, args.output / "packages", min(INSTALLATION, 60 * args.minutes))
    if missing := wheels.missing_modules():
        problems.append(f"not installed: {', '.join(missing)}")
    for problem in problems:
        print(problem, file=sys.stderr)
    # As an error, so that the running section is ended, too.
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        report = run_sections(args, problems, until)
    finally:
        signal.signal(signal.SIGTERM, before)
    return int(any(section["problem"] for section in report["sections"].values()))


if __name__ == "__main__":
    sys.exit(main())
