#!/usr/bin/env python
"""Checks a copy of a dataset: reads every image and label file as training does, counts, and draws.

    python tools/check_dataset.py camvid --output out/          # all splits of a built-in dataset
    python tools/check_dataset.py camvid_val                    # one split
    python tools/check_dataset.py roads.yaml --json             # your own, for a script
    python tools/check_dataset.py --config-file configs/semantic/camvid/maskformer_r18.yaml

Says which layout was found where; whether all published images are there; which files cannot be read, hold
labels that are no class, or differ in size from their image; how often each class occurs; and which images
two splits share. With --output, writes a picture of examples per split, and report.json.

The exit status is 0 if all is well, 1 if problems were found, 2 if the command was wrong.
"""

import argparse
import json
import logging
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import segzoo  # noqa: F401  before Detectron2: makes the installed library versions work together

# isort: split
from command_line import CommandLine, end, explained, path_value, whole_number
from dataset_argument import given_splits, splits_of
from dataset_checks.checked import CheckedSplit, Finding
from dataset_checks.contact_sheet import write_contact_sheet
from dataset_checks.findings import of_missing_split, of_split, of_warnings
from dataset_checks.report import as_json
from dataset_checks.splits import across_splits
from dataset_checks.text import describe_split, finding_lines
from detectron2.data import DatasetCatalog
from tqdm import tqdm

from segzoo.data import label_reader
from segzoo.data.inspection import ImageReport, SplitReport, inspect_records
from segzoo.utils.errors import InputError

# With this many images, hashing all of them does not take long.
HASHED_BY_DEFAULT = 5000


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = CommandLine(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_dataset()
    parser.add_argument("--split", nargs="+", metavar="NAME", help="only these of its splits")
    parser.add_argument(
        "--output", type=path_value, metavar="DIR", help="folder for the pictures and report.json"
    )
    parser.add_argument("--number", type=whole_number(1), default=12, help="examples in a picture (12)")
    parser.add_workers()
    parser.add_argument(
        "--hash",
        action="store_true",
        help=f"look for equal images of different names in sets of more than {HASHED_BY_DEFAULT} images, too",
    )
    parser.add_argument("--json", action="store_true", help="print the report as JSON instead of tables")
    parser.add_overrides()
    parsed = parser.parse_args(arguments)
    parsed.title = parsed.dataset or parsed.config_file or "DATASETS"
    return parsed


def find_splits(name: str, chosen: Sequence[str] | None) -> list[str]:
    """The names of a dataset's splits to check; of several names of the same images, the first.

    Raises:
        InputError: no such dataset or split, or a wrong YAML.
    """
    names = splits_of(name)
    dataset = label_reader(names[0]).dataset
    if chosen and names == [name]:
        raise InputError(f"--split {chosen[0]}: {name} is a split itself; give its dataset, or no --split")
    for split in chosen or ():
        if split not in names:
            raise InputError(f"--split {split}: {dataset.path.name} has {', '.join(names)}")
    if chosen:
        return list(dict.fromkeys(chosen))
    distinct = {tuple(sorted(dataset.splits[split].items())): split for split in reversed(names)}
    return [split for split in names if split in distinct.values()]


def of_configuration(args: argparse.Namespace) -> list[str]:
    """The names of the splits that a configuration trains and tests on.

    Raises:
        InputError: it has none, or not the ones that are chosen.
    """
    names = given_splits(args)
    missing = [split for split in args.split or () if split not in names]
    if missing or not names:
        what = f"--split {missing[0]}" if missing else "DATASETS"
        raise InputError(f"{what}: the configuration has {', '.join(names) or 'no dataset'}")
    for name in names:
        label_reader(name)  # of a dataset YAML
    return [name for name in names if name in (args.split or names)]


def with_progress(reports: Iterator[ImageReport], split: str, total: int) -> Iterator[ImageReport]:
    """Shows the way and the time left; seldom where it goes to a file."""
    seconds = 0.2 if sys.stderr.isatty() else 30.0
    pace = {"mininterval": seconds, "maxinterval": seconds, "delay": seconds}
    return tqdm(reports, split, total, unit="image", leave=False, **pace)


def check_split(
    split: str, records: Sequence[Mapping[str, Any]], workers: int, with_digest: bool
) -> CheckedSplit:
    """Reads all files of a split."""
    reader = label_reader(split)
    report = SplitReport(len(reader.is_thing))
    # Starting a process takes longer than reading a few files.
    reports = inspect_records(records, reader, min(workers, len(records) // 8), with_digest)
    for image in with_progress(reports, split, len(records)):
        report.add(image)
    return CheckedSplit(split, reader.dataset, records, report)


@contextmanager
def warnings_of(package: str) -> Iterator[list[logging.LogRecord]]:
    """Collects what a package warns of, which would come out between the lines of the report."""
    found: list[logging.LogRecord] = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = found.append
    logger = logging.getLogger(package)
    propagates, logger.propagate = logger.propagate, False
    logger.addHandler(handler)
    try:
        yield found
    finally:
        logger.removeHandler(handler)
        logger.propagate = propagates


def check(args: argparse.Namespace) -> tuple[list[CheckedSplit], list[Finding]]:
    """Checks the splits; prints each as soon as it is done, unless JSON is wanted.

    Raises:
        InputError: no such dataset or split.
    """
    names = find_splits(args.dataset, args.split) if args.dataset else of_configuration(args)
    say = (lambda *lines: None) if args.json else (lambda *lines: print(*lines, sep="\n"))
    records: dict[str, Sequence[Mapping[str, Any]]] = {}
    checked: list[CheckedSplit] = []
    findings: list[Finding] = []
    said: dict[str, list[Finding]] = {}
    for name in names:
        with warnings_of("segzoo") as warnings:
            try:
                records[name] = DatasetCatalog.get(name)
            except InputError as error:
                findings += of_missing_split(label_reader(name).dataset, name, error)
                say(f"\n{name}", *finding_lines(findings[-1:]))
        said[name] = of_warnings(name, warnings)
    with_digest = args.hash or sum(map(len, records.values())) <= HASHED_BY_DEFAULT
    for name in records:
        checked.append(check_split(name, records[name], args.workers, with_digest))
        found = [*said[name], *of_split(checked[-1])]
        say(describe_split(checked[-1]), *finding_lines(found))
        if args.output:
            path = write_contact_sheet(checked[-1], Path(args.output), args.number)
            say(f"  examples in {path}" if path else "  no examples: no file could be read")
        findings += found
    shared = across_splits(checked)
    if shared:
        say("\nbetween splits", *finding_lines(shared))
    return checked, findings + shared


@explained
def main(arguments: Sequence[str] | None = None) -> int:
    args = parse_arguments(arguments)
    if args.output:
        Path(args.output).mkdir(parents=True, exist_ok=True)
    checked, findings = check(args)
    report = json.dumps(as_json(args.title, checked, findings), indent=1)
    if args.output:
        (Path(args.output) / "report.json").write_text(report + "\n", encoding="utf-8")
    problems = sum(finding.is_problem for finding in findings)
    if args.json:
        print(report)
    else:
        several = "" if problems == 1 else "s"
        verdict = f"{problems} problem{several}, see above" if problems else "all is well"
        print(f"\n{args.title}: {verdict}")
    return 1 if problems else 0


if __name__ == "__main__":
    end(main())
