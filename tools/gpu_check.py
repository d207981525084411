#!/usr/bin/env python
"""Test and measure segzoo on one GPU in a few minutes, and write a JSON file and a Markdown page.

    python tools/gpu_check.py --output gpu_check
    python tools/gpu_check.py --output gpu_check --wheels wheels/ --minutes 6
    python tools/gpu_check.py --output gpu_check --sections step,inference
    python tools/gpu_check.py --output try --device cpu --small    # tries the script itself

Needs torch and segzoo's requirements. --wheels installs the wheels of a folder for this run only, without a
network: what the machine lacks of requirements.txt, and the peers transformers and detectron2. A peer or a
tool that is missing makes its rows say "not installed".

Sections, in this order, each in a process of its own with a limit on its time:
{sections}

A section that fails or runs out of time keeps its rows so far, and the report says why it ended. The
folder has `gpu_check.json` with all rows, `gpu_check.md` with the tables, `images_per_second.json` with the
zoo's models at batch 16 in the form that `segzoo zoo --plot` reads, and `<section>.log`, what
a section printed.

Exit status: 0 all sections were complete, 1 one was not, 2 wrong input.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

TOOLS = Path(__file__).resolve().parent
sys.path[:0] = [str(path) for path in (TOOLS, TOOLS.parent) if str(path) not in sys.path]

from gpu_checks import SECTIONS, Settings  # noqa: E402
from gpu_checks.report import markdown  # noqa: E402

# Seconds that a section gets at least; with less time left it is not started.
LEAST = 5.0


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
    parser.add_argument("--minutes", type=float, default=6.0, help="time for all sections (default 6)")
    parser.add_argument("--device", default="cuda", help="cuda (default), cuda:1, ..., or cpu")
    parser.add_argument("--small", action="store_true", help="small sizes and networks, to try the script")
    parser.add_argument("--wheels", type=Path, help="folder of wheels to install for this run")
    parser.add_argument("--run", metavar="SECTION", help=argparse.SUPPRESS)  # the process of a section
    args = parser.parse_args(arguments)
    names = args.sections.split(",")
    for name in names:
        if name not in SECTIONS:
            parser.error(f"--sections: {name!r} is unknown; expected some of {', '.join(SECTIONS)}")
    args.sections = [name for name in SECTIONS if name in names]
    if args.minutes <= 0:
        parser.error(f"--minutes {args.minutes}: expected a number above 0")
    return args


def install(wheels: Path, folder: Path) -> None:
    """Install the wheels into a folder, and let this process's children find them there."""
    files = [str(file) for file in sorted(wheels.glob("*.whl"))]
    command = [sys.executable, "-m", "pip", "install", "-q", "--no-index", "--no-deps", "--upgrade"]
    subprocess.run([*command, "--target", str(folder), *files], check=True)
    # Last, so that the machine's own torch and numpy stay the ones in use.
    paths = [path for path in (os.environ.get("PYTHONPATH"), str(folder)) if path]
    os.environ["PYTHONPATH"] = os.pathsep.join(paths)


def command(name: str, args: argparse.Namespace) -> list[str]:
    """Return the command of a section's process."""
    words = [sys.executable, __file__, "--run", name, "--output", str(args.output), "--device", args.device]
    return words + ["--small"] * args.small


def run_process(words: Sequence[str], log: Path, limit: float) -> str:
    """Run a command with its output in a file; return "" or why it did not end well."""
    with log.open("w", encoding="utf-8") as output:
        process = subprocess.Popen(words, stdout=output, stderr=subprocess.STDOUT, start_new_session=True)
        try:
            status = process.wait(timeout=limit)
        except subprocess.TimeoutExpired:
            # With the data-loader workers that it has started.
            os.killpg(process.pid, 9)
            process.wait()
            return f"ended after its limit of {limit:.0f} s"
    if not status:
        return ""
    lines = [line for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    how = f"signal {-status}" if status < 0 else f"exit status {status}"
    return f"failed with {how}: {lines[-1].strip() if lines else 'no output'}"


def run_sections(args: argparse.Namespace) -> dict:
    """Run the sections one after the other within --minutes; return the report, which is written too."""
    args.output.mkdir(parents=True, exist_ok=True)
    report: dict = {"device": args.device, "small": args.small, "sections": {}}
    until = time.monotonic() + 60 * args.minutes
    for name in args.sections:
        started = time.monotonic()
        limit = min(SECTIONS[name].limit, until - started)
        rows = args.output / f"{name}.json"
        rows.unlink(missing_ok=True)
        if limit < LEAST:
            problem = "not started: no time was left"
        else:
            print(f"{name}, at most {limit:.0f} s ...", flush=True)
            problem = run_process(command(name, args), args.output / f"{name}.log", limit)
        report["sections"][name] = {
            "about": SECTIONS[name].about,
            "seconds": round(time.monotonic() - started, 1),
            "problem": problem,
            "rows": json.loads(rows.read_text(encoding="utf-8")) if rows.exists() else [],
        }
        print(f"{name}: {problem or 'complete'}", flush=True)
        (args.output / "gpu_check.json").write_text(json.dumps(report, indent=1), encoding="utf-8")
        (args.output / "gpu_check.md").write_text(markdown(report), encoding="utf-8")
    return report


def main(arguments: Sequence[str] | None = None) -> int:
    args = parse(arguments)
    if args.run:
        settings = Settings(args.device, args.small, args.output)
        SECTIONS[args.run].load().run(settings, settings.rows(args.run))
        return 0
    if args.wheels and not any(args.wheels.glob("*.whl")):
        print(f"error: --wheels {args.wheels}: holds no wheel (*.whl)", file=sys.stderr)
        sys.exit(2)
    if args.wheels:
        args.output.mkdir(parents=True, exist_ok=True)
        install(args.wheels, args.output / "packages")
    report = run_sections(args)
    return int(any(section["problem"] for section in report["sections"].values()))


if __name__ == "__main__":
    sys.exit(main())
