"""Findings on segments and instances."""

import numpy as np

from segzoo.data.dataset_file import is_builtin
from segzoo.utils.text import some

from .annotations import annotation_findings
from .checked import CheckedSplit, Finding
from .inspection import (
    WRONG_GEOMETRY,
)
from .remedies import (
    Option,
    as_text,
)


def instance_findings(split: CheckedSplit) -> list[Finding]:
    """Return findings on segments and instances."""
    report, names, source = split.report, split.dataset.space.classes, split.dataset.path.name
    found = annotation_findings(split)
    if report.segments is None:
        return found
    if report.empty and report.pixels[:-1].any():
        text = f"{report.empty:,} of {report.segments.sum():,} instances have no pixel in their image"
        remedy = "training ignores them, and evaluation counts them as missed; correct or remove them"
        found.append(Finding(report.empty > 0.1 * report.segments.sum(), split.name, text, remedy))
    is_thing = [entry.isthing for entry in split.dataset.classes]
    things, crowds = report.segments * is_thing, report.crowds * is_thing
    only = np.flatnonzero((things > 0) & (crowds == things))
    if not len(only):
        return found
    options, remedy = (Option({"crowd": "instances"}),), ""
    if any("sem_seg_file_name" in record and "pan_seg_file_name" not in record for record in split.records):
        options, remedy = (
            (),
            "give each instance a value of its own: 1000 times the id of its class plus a number",
        )
    if crowds.sum() == things.sum():
        text = f"all {things.sum():,} instances are crowds (groups), which are neither trained on nor scored"
        is_problem = True
    else:
        listed = some((repr(names[index]) for index in only), 8)
        text = f"all instances of {listed} are crowds (groups), which are neither trained on nor scored"
        is_problem = not is_builtin(split.dataset.path)
    remedy = remedy or f"if they are objects, {as_text(options, source)}"
    return [*found, Finding(is_problem, split.name, text, remedy, options=options)]


def geometry_finding(split: CheckedSplit, messages: tuple[str, ...]) -> Finding:
    """Return the finding on areas and boxes that do not match their masks."""
    which = (
        f"{len(messages):,} {WRONG_GEOMETRY}"
        if len(messages) > 1
        else "1 area or box does not match its mask"
    )
    text = f"{which}, by more than a factor of two, first {messages[0]}"
    if any("annotations" in record for record in split.records):
        remedy = (
            "APs, APm and APl use the areas of the JSON, as pycocotools does: write those of the masks, or "
            "leave the keys out, and they are computed"
        )
    else:
        remedy = "they are computed here, but other programs divide by them: write the pixels of the PNGs"
    return Finding(False, split.name, text, remedy, messages)
