"""The report of a check as plain data, for JSON."""

from collections.abc import Sequence
from typing import Any

from .checked import CheckedSplit, Finding


def as_json(name: str, splits: Sequence[CheckedSplit], findings: Sequence[Finding]) -> dict[str, Any]:
    """Return the whole report as plain data."""
    return {
        "dataset": name,
        "problems": sum(finding.is_problem for finding in findings),
        "splits": {split.name: _split_as_json(split) for split in splits},
        "findings": [_finding_as_json(finding) for finding in findings],
    }


def _finding_as_json(finding: Finding) -> dict[str, Any]:
    # As YAML text, since its keys may be numbers.
    options = [{"if": option.meaning, "set": option.as_yaml()} for option in finding.options]
    return {**finding._asdict(), "files": list(finding.files), "options": options}


def _split_as_json(split: CheckedSplit) -> dict[str, Any]:
    report, classes = split.report, split.dataset.space.classes
    layout = split.records[0]["layout"] if split.records else None
    rows = []
    for index, name in enumerate(classes if split.has_labels else ()):
        row = {
            "name": name,
            "pixels": int(report.pixels[index]),
            "images": int(report.images_with[index]),
        }
        if report.segments is not None:
            row["segments"] = int(report.segments[index])
        rows.append(row)
    return {
        "layout": layout,
        "images": report.images,
        "published_images": split.dataset.image_counts.get(split.name),
        "label_files": len(split.label_files()),
        "sizes": {f"{width}x{height}": count for (width, height), count in report.sizes.most_common()},
        "void_pixels": int(report.pixels[-1]),
        "classes": rows,
    }
