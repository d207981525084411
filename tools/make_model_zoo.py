#!/usr/bin/env python
"""Write MODEL_ZOO.md and docs/zoo/ from the tables in `segzoo/model_zoo/weights/`.

--measure counts parameters and GFLOPs and writes them into the tables.

python tools/make_model_zoo.py
python tools/make_model_zoo.py --check
python tools/make_model_zoo.py --measure --missing
python tools/make_model_zoo.py --measure semantic/ade20k/maskformer_swin_tiny
"""

import argparse
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import segzoo  # noqa: F401  before Detectron2: makes the installed library versions work together

# isort: split
from command_line import EXIT_STATUS, CommandLine, end, report_errors
from zoo_maintenance.documents import INDEX, PAGES, documents
from zoo_maintenance.editing import write_reproduced

from segzoo.config.files import zoo_name
from segzoo.model_zoo.measure import count, rounded
from segzoo.model_zoo.registry import TABLES, known_models, sections
from segzoo.utils.errors import InputError
from segzoo.utils.text import did_you_mean

ROOT = Path(__file__).resolve().parent.parent


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = CommandLine(
        description=__doc__,
        epilog=f"{EXIT_STATUS}; with --check 1 if a document is out of date",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--measure",
        nargs="*",
        metavar="NAME",
        help="count parameters and GFLOPs of these models, or of all, and write them into the tables",
    )
    parser.add_argument("--missing", action="store_true", help="with --measure: only models not yet counted")
    parser.add_argument(
        "--check", action="store_true", help="write nothing; exit status 1 if a document is out of date"
    )
    return parser.parse_args(arguments)


def run(args: argparse.Namespace) -> int:
    if args.missing and args.measure is None:
        raise InputError("--missing goes with --measure; add it")
    if args.check and args.measure is not None:
        raise InputError("--check writes nothing, but --measure does; give one of them")
    failed = 0 if args.measure is None else measure(args.measure, args.missing)
    texts = documents(ROOT)
    stale = out_of_date(texts)
    if args.check:
        for name in stale:
            print(f"{name} is out of date: run python tools/make_model_zoo.py", file=sys.stderr)
        print(f"{len(texts) - len(stale)} of {len(texts)} documents are up to date")
        return 1 if stale else 0
    for name in stale:
        file = ROOT / name
        if name in texts:
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(texts[name], encoding="utf-8")
        else:
            file.unlink()
    print(
        f"{INDEX} and {len(texts) - 1} pages in {PAGES}/: {len(known_models())} models, {len(stale)} changed"
    )
    return 2 if failed else 0


def out_of_date(texts: Mapping[str, str]) -> list[str]:
    """Return the documents that are missing, have another text, or are no longer generated."""
    left = {str(file.relative_to(ROOT)) for file in (ROOT / PAGES).glob("*.md")} - texts.keys()
    stale = [
        name
        for name, text in texts.items()
        if not (ROOT / name).is_file() or (ROOT / name).read_text(encoding="utf-8") != text
    ]
    return [*stale, *sorted(left)]


def measure(names: Sequence[str], missing: bool) -> int:
    """Count parameters and GFLOPs and write each result at once; return the number of failures."""
    known = known_models()
    names = [zoo_name(name) for name in names]
    for name in names:
        if name not in known:
            raise InputError(f"{name} has no row in the tables{did_you_mean(name, known)}")
    selected = [name for name in names or known if not (missing and known[name].reproduced)]
    files = {name: file for file in sorted(TABLES.glob("*.yaml")) for name in names_in(file)}
    failed = 0
    for index, name in enumerate(selected, start=1):
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
        change = (
            "unchanged" if not changed else f"was {before.params} M, {before.gflops} G" if before else "new"
        )
        print(
            f"{index}/{len(selected)} {name}: {result.params:.2f} M, {result.gflops:.1f} G "
            f"@ {height}x{width} ({change}, {time.perf_counter() - start:.1f} s)",
            flush=True,
        )
    known_models.cache_clear()
    sections.cache_clear()
    return failed


def names_in(file: Path) -> list[str]:
    """Return the model names in a table."""
    from segzoo.model_zoo.table_reader import read_table

    return [info.name for section in read_table(file) for info in section.models]


@report_errors
def main(arguments: Sequence[str] | None = None) -> int:
    """Run the tool; return the exit status: 0, 1 for a document out of date, 2 for wrong input."""
    return run(parse_arguments(arguments))


if __name__ == "__main__":
    end(main())
