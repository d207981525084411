"""Findings on the number of pixels of each class, and of void."""

import numpy as np

from segzoo.utils.text import some

from .checked import CheckedSplit, Finding
from .remedies import (
    Option,
    as_text,
    counting_from_1,
)


def class_findings(split: CheckedSplit, options: tuple[Option, ...]) -> list[Finding]:
    """Return findings on the class histogram. `options`: YAML keys that fit the label files better."""
    report, names = split.report, split.dataset.space.classes
    present = np.flatnonzero(report.pixels[:-1])
    void = report.pixels[-1]
    source, values = split.dataset.path.name, set(report.stored.values)
    if not len(present):
        remedy = as_text(options, source) or _why_nothing(split)
        return [Finding(True, split.name, _nothing(split), remedy, options=options)]
    if len(present) == 1 and len(names) > 1:
        only = names[present[0]]
        remedy = f"compare the values in the label files with classes and encoding in {source}"
        text = f"no class but {only!r} occurs" + (", the rest is void" if void else "")
        if values == {0, 255} and present[0] == 0:
            text += ": are these masks of 0 and 255?"
            remedy = f"if 255 is one of the other classes, say which in {source}: label_map: {{255: <class>}}"
        elif "annotations" in split.records[0]:
            remedy = f"compare the categories of the annotations with classes in {source}"
        remedy = as_text(options, source) or remedy
        return [Finding(True, split.name, text, remedy, options=options)]
    found = []
    if report.absent:
        text = f"{len(report.absent)} of {len(names)} classes do not occur"
        remedy = f"if they should, compare encoding and classes in {source} with the files"
        from_1 = counting_from_1(split.files()) if 0 in report.absent and not options else ()
        remedy += f"; {as_text(from_1, source)}" if from_1 else ""
        found.append(Finding(False, split.name, text, remedy, options=from_1))
    if report.stored.transparent:
        part = report.stored.transparent / report.pixels.sum()
        text = f"{part:.0%} of the pixels of label files are transparent, which is ignored"
        remedy = "if that means unlabeled, give these pixels a value of their own, such as 255"
        found.append(Finding(False, split.name, text, remedy))
    share = void / report.pixels.sum()
    # Pixels without an instance are background, and learned as such.
    if share > 0.5 and not any("annotations" in record for record in split.records):
        text = f"{share:.0%} of the pixels are void, neither trained on nor scored"
        per_class = split.files() is not None and split.files().encoding.name == "binary_files"
        remedy = f"if they are background, add a class for it in {source}"
        if per_class:
            remedy = (
                f"if they are of a class, set encoding: {{type: binary_files, rest: <class>}} in {source}"
            )
        remedy = as_text(options, source) or remedy
        found.append(Finding(False, split.name, text, remedy, options=options))
    return found


def _nothing(split: CheckedSplit) -> str:
    segments = split.report.segments
    if segments is None:
        return "nothing is labeled: no class has a pixel, all is void"
    if not segments.sum():
        return "nothing is annotated: there is no instance in any image"
    return f"no class has a pixel: none of {segments.sum():,} instances or segments covers any"


def _why_nothing(split: CheckedSplit) -> str:
    source, stored = split.dataset.path.name, split.report.stored
    if stored.values:
        return (
            f"the files hold {some(sorted(stored.values))} only; label them, or say in {source} which class "
            "that is, with encoding or label_map"
        )
    return "export the annotations again, with masks in pixels of the images"
