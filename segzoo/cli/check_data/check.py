"""Read all files of the splits of a dataset, and report what was found."""

import argparse
import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

from detectron2.data import DatasetCatalog

from segzoo.cli.parallel import map_files
from segzoo.data import label_reader
from segzoo.utils.errors import InputError
from segzoo.utils.files import write_text

from . import HASHED_BY_DEFAULT
from .checked import CheckedSplit, Finding
from .contact_sheet import write_contact_sheet
from .findings import missing_split_findings, split_findings, warning_findings
from .inspection import SplitReport, inspect_image
from .report import as_json
from .splits import shared_image_findings
from .text import describe_split, finding_lines


def check_split(
    split: str, records: Sequence[Mapping[str, Any]], workers: int, with_digest: bool
) -> CheckedSplit:
    """Read all files of a split."""
    reader = label_reader(split)
    report = SplitReport(len(reader.is_thing))
    inspect = partial(inspect_image, reader=reader, with_digest=with_digest)
    for image in map_files(inspect, records, workers, split, least=8):
        report.add(image)
    return CheckedSplit(split, reader.dataset, records, report)


@contextmanager
def warnings_of(package: str) -> Iterator[list[logging.LogRecord]]:
    """Collect a package's warnings, which would be printed between the lines of the report."""
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


def check(arguments: argparse.Namespace, names: Sequence[str]) -> tuple[list[CheckedSplit], list[Finding]]:
    """Check the splits; print each as soon as it is done, unless with --json."""
    show = (lambda *lines: None) if arguments.json else (lambda *lines: print(*lines, sep="\n"))
    records: dict[str, Sequence[Mapping[str, Any]]] = {}
    checked: list[CheckedSplit] = []
    findings: list[Finding] = []
    warned: dict[str, list[Finding]] = {}
    for name in names:
        with warnings_of("segzoo") as warnings:
            try:
                records[name] = DatasetCatalog.get(name)
            except InputError as error:
                findings += missing_split_findings(label_reader(name).dataset, name, error)
                show(f"\n{name}", *finding_lines(findings[-1:]))
        warned[name] = warning_findings(name, warnings)
    with_digest = arguments.hash or sum(map(len, records.values())) <= HASHED_BY_DEFAULT
    for name in records:
        checked.append(check_split(name, records[name], arguments.workers, with_digest))
        found = [*warned[name], *split_findings(checked[-1])]
        show(describe_split(checked[-1]), *finding_lines(found))
        if arguments.output:
            path = write_contact_sheet(checked[-1], arguments.output, arguments.number)
            show(f"  examples in {path}" if path else "  no examples: no file could be read")
        findings += found
    shared = shared_image_findings(checked)
    if shared:
        show("\nbetween splits", *finding_lines(shared))
    return checked, findings + shared


def check_data(arguments: argparse.Namespace, names: Sequence[str]) -> int:
    """Check the named splits, print and write the report; return the exit status, 1 with problems."""
    title = arguments.dataset or arguments.config_file or "DATASETS"
    if arguments.output:
        arguments.output.mkdir(parents=True, exist_ok=True)
    checked, findings = check(arguments, names)
    report = json.dumps(as_json(title, checked, findings), indent=1)
    if arguments.output:
        write_text(arguments.output / "report.json", report + "\n")
    problems = sum(finding.is_problem for finding in findings)
    if arguments.json:
        print(report)
    else:
        several = "" if problems == 1 else "s"
        verdict = f"{problems} problem{several}, see above" if problems else "no problems"
        print(f"\n{title}: {verdict}")
    return 1 if problems else 0
