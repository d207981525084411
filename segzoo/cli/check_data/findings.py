"""The findings on a checked split: problems, which fail the check, and notes, which do not."""

import logging
from collections.abc import Sequence

from segzoo.data import DatasetFile, dataset_range
from segzoo.data.checks import RemediedError
from segzoo.utils.errors import InputError

from .broken import ENCODING_PROBLEMS, broken_file_findings, misread_file_findings
from .checked import CheckedSplit, Finding
from .classes import class_findings
from .files import file_findings
from .images import image_findings
from .instances import instance_findings
from .remedies import (
    Option,
    options_for,
)


def missing_split_findings(dataset: DatasetFile, name: str, error: InputError) -> list[Finding]:
    """Return the finding on a split that is missing or cannot be read; it is optional without labels."""
    optional = name in dataset.without_labels
    message = str(error).removeprefix(f"{name}: ")
    text = f"missing, and only needed for submissions ({message})" if optional else message
    # The message contains the remedy.
    options = (Option(error.keys),) if isinstance(error, RemediedError) else ()
    return [Finding(not optional, name, text, options=options)]


def warning_findings(name: str, warnings: Sequence[logging.LogRecord]) -> list[Finding]:
    """Return notes on a split's warnings, except on the range of its images: see `image_findings`."""
    others = (one for one in warnings if one.name != dataset_range.__name__)
    return [Finding(False, name, message) for message in dict.fromkeys(one.getMessage() for one in others)]


def split_findings(split: CheckedSplit) -> list[Finding]:
    """Return all findings on one split."""
    report, files = split.report, split.files()
    options = options_for(files) if files is not None else ()
    found = [*file_findings(split), *broken_file_findings(split, options), *image_findings(split)]
    if not split.has_labels:
        return found
    if report.pixels.any():
        found += class_findings(split, options)
    reported = bool(set(split.report.problems) & set(ENCODING_PROBLEMS))
    reported |= bool(options) and any(finding.options == options for finding in found)
    return [
        *found,
        *(() if reported or files is None else misread_file_findings(split, files, options)),
        *instance_findings(split),
    ]
