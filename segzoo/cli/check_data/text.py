"""The report of a checked split as text for a terminal."""

import textwrap
from collections.abc import Iterator, Sequence
from itertools import chain, zip_longest

import numpy as np
from detectron2.data import MetadataCatalog
from tabulate import tabulate

from .checked import CheckedSplit, Finding

# Number of files listed for a problem; the report in JSON lists all.
EXAMPLES = 5

# Numbers of image sizes and of absent classes that are listed.
SIZES, ABSENT = 4, 40


def describe_split(split: CheckedSplit) -> str:
    """Return a few lines on where the split was found and what it holds, and a table of its classes."""
    lines = [f"\n{split.name}", *_where(split), *_counts(split)]
    if split.report.pixels.any():
        lines += ["", *(f"  {line}" for line in _class_table(split).splitlines())]
    return "\n".join(lines)


def _where(split: CheckedSplit) -> Iterator[str]:
    if not split.records:
        return
    dataset = split.dataset
    index = split.records[0]["layout"]
    layout = dataset.layouts[index]
    which = f"{index + 1} of {len(dataset.layouts)} in {dataset.path.name}"
    yield f"  layout   {which}, in {MetadataCatalog.get(split.name).dataset_root}"
    yield f"  images   {layout.images}" + (f", listed in {layout.list_file}" if layout.list_file else "")
    if not split.has_labels:
        yield "  labels   none: for inference and submission only"
    elif layout.panoptic is not None:
        yield f"  labels   {layout.panoptic}, panoptic, with {MetadataCatalog.get(split.name).panoptic_json}"
    elif layout.instances is not None:
        yield f"  labels   instances of {MetadataCatalog.get(split.name).json_file}"
    else:
        yield f"  labels   {layout.labels}, encoding {layout.encoding.name}"


def _counts(split: CheckedSplit) -> Iterator[str]:
    report, published = split.report, split.dataset.image_counts.get(split.name)
    count = f"{report.images:,} images" + (f" of {published:,} published" if published else "")
    if split.has_labels:
        instances = sum(len(record.get("annotations", ())) for record in split.records)
        count += f", {instances:,} instances" if instances else f", {len(split.label_files()):,} label files"
    yield f"  found    {count}"
    if not report.sizes:
        return
    common = report.sizes.most_common(SIZES)
    listed = ", ".join(f"{width}x{height} ({number:,})" for (width, height), number in common)
    if len(report.sizes) > SIZES:
        sides = np.array(list(report.sizes.elements()))
        low, middle, high = (np.quantile(sides, share, axis=0).astype(int) for share in (0, 0.5, 1))
        listed += (
            f" and {len(report.sizes) - SIZES:,} other sizes\n           width {low[0]} to {high[0]} "
            f"(median {middle[0]}), height {low[1]} to {high[1]} (median {middle[1]})"
        )
    yield f"  sizes    {listed}"


def _class_table(split: CheckedSplit) -> str:
    report, names = split.report, (*split.dataset.space.classes, "void")
    total = max(1, int(report.pixels.sum()))
    header = ["", "class", "pixels", "images"] + ["segments"] * (report.segments is not None)
    absent = set(report.absent)
    rows = []
    for index, name in enumerate(names):
        if index in absent:
            continue
        number = "" if name == "void" else index
        row = [number, name, f"{100 * report.pixels[index] / total:.2f} %", f"{report.images_with[index]:,}"]
        if report.segments is not None:
            row.append("" if name == "void" else f"{report.segments[index]:,}")
        rows.append(row)
    columns = 1 if len(rows) <= 24 else 2 if len(header) > 4 or len(rows) <= 80 else 3
    height = -(-len(rows) // columns)
    parts = [rows[start : start + height] for start in range(0, len(rows), height)]
    empty = [""] * len(header)
    joined = [list(chain(*together)) for together in zip_longest(*parts, fillvalue=empty)]
    aligned = ("right", "left", *["right"] * (len(header) - 2)) * len(parts)
    table = tabulate(joined, header * len(parts), tablefmt="plain", disable_numparse=True, colalign=aligned)
    if not absent:
        return table
    listed = f"absent: {', '.join(names[index] for index in report.absent[:ABSENT])}"
    if len(absent) > ABSENT:
        listed += f" and {len(absent) - ABSENT} more (--json lists all)"
    return table + "\n" + textwrap.fill(listed, 106, break_on_hyphens=False)


def finding_lines(findings: Sequence[Finding]) -> Iterator[str]:
    """Yield lines for the terminal, with the first files of each problem."""
    for finding in findings:
        mark = "PROBLEM" if finding.is_problem else "note   "
        yield f"  {mark}  {finding.text}" + (f"; {finding.remedy}" if finding.remedy else "")
        shown = finding.files[:EXAMPLES] if finding.is_problem else ()
        yield from (f"           {line}" for line in shown)
        if finding.is_problem and len(finding.files) > EXAMPLES:
            yield f"           ... and {len(finding.files) - EXAMPLES:,} more (--json lists all)"
