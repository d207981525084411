#!/usr/bin/env python
"""Writes MODEL_ZOO.md from the tables of `segzoo/model_zoo/weights/`, and counts what the tables lack.

python tools/make_model_zoo.py
python tools/make_model_zoo.py --check
python tools/make_model_zoo.py --measure --missing
python tools/make_model_zoo.py --measure semantic/ade20k/maskformer_swin_tiny
"""

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import segzoo  # noqa: F401  before Detectron2: makes the installed library versions work together

# isort: split
from command_line import EXIT_STATUS, CommandLine, end, explained
from zoo_maintenance.editing import write_reproduced
from zoo_maintenance.tables import render

from segzoo.config.files import zoo_name
from segzoo.model_zoo.measure import count, rounded
from segzoo.model_zoo.registry import TABLES, known_models, sections
from segzoo.utils.errors import InputError
from segzoo.utils.text import did_you_mean

DOCUMENT = Path(__file__).resolve().parent.parent / "MODEL_ZOO.md"


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = CommandLine(
        description=__doc__,
        epilog=f"{EXIT_STATUS}; with --check 1 if the document is out of date",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--measure",
        nargs="*",
        metavar="NAME",
        help="count parameters and GFLOPs of these models, or of all, and write them into the tables",
    )
    parser.add_argument("--missing", action="store_true", help="with --measure: those not yet counted")
    parser.add_argument(
        "--check", action="store_true", help="write nothing; exit status 1 if MODEL_ZOO.md is out of date"
    )
    return parser.parse_args(arguments)


def run(args: argparse.Namespace) -> int:
    if args.missing and args.measure is None:
        raise InputError("--missing goes with --measure; add it")
    if args.check and args.measure is not None:
        raise InputError("--check writes nothing, but --measure does; give one of them")
    failed = 0 if args.measure is None else measure(args.measure, args.missing)
    text = render(DOCUMENT.parent)
    if args.check:
        if DOCUMENT.is_file() and DOCUMENT.read_text(encoding="utf-8") == text:
            print(f"{DOCUMENT.name} is up to date")
            return 0
        print(f"{DOCUMENT.name} is out of date: run python tools/make_model_zoo.py", file=sys.stderr)
        return 1
    DOCUMENT.write_text(text, encoding="utf-8")
    print(f"{DOCUMENT.name} written: {len(known_models())} models")
    return 2 if failed else 0


def measure(names: Sequence[str], missing: bool) -> int:
    """Counts the models and writes each result at once; returns how many could not be counted."""
    known = known_models()
    names = [zoo_name(name) for name in names]
    for name in names:
        if name not in known:
            raise InputError(f"{name} has no row in the tables{did_you_mean(name, known)}")
    wanted = [name for name in names or known if not (missing and known[name].reproduced)]
    files = {name: file for file in sorted(TABLES.glob("*.yaml")) for name in names_in(file)}
    failed = 0
    for index, name in enumerate(wanted, start=1):
        start = time.perf_counter()
        try:
            before = known[name].reproduced
            result = rounded(count(name), before.metrics if before else None)
            changed = write_reproduced(files[name], name, result)
        except InputError as error:
            failed += 1
            print(f"error: {name}: {error}", file=sys.stderr)
            continue
        height, width = result.size
        news = (
            "unchanged" if not changed else f"was {before.params} M, {before.gflops} G" if before else "new"
        )
        print(
            f"{index}/{len(wanted)} {name}: {result.params:.2f} M, {result.gflops:.1f} G @ {height}x{width} "
            f"({news}, {time.perf_counter() - start:.1f} s)",
            flush=True,
        )
    known_models.cache_clear()
    sections.cache_clear()
    return failed


def names_in(file: Path) -> list[str]:
    """The rows of a table."""
    from segzoo.model_zoo.table_reader import read_table

    return [info.name for section in read_table(file) for info in section.models]


@explained
def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the tool; returns its exit status: 0, 1 for a document out of date, 2 for wrong input."""
    return run(parse_arguments(arguments))


if __name__ == "__main__":
    end(main())
