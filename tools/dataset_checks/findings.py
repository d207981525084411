"""What is to be said about a checked split: problems, which fail the check, and notes, which do not.

Letters: K classes.
"""

import math
import os
from collections.abc import Mapping, Sequence
from itertools import chain, combinations
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from segzoo.data import DatasetFile, PixelRange
from segzoo.data.inspection import (
    ALL_VOID,
    LOSSY_LABEL,
    TURNED,
    UNKNOWN_LABEL,
    UNREADABLE_IMAGE,
    UNREADABLE_LABEL,
    UNSUITABLE,
    WRONG_FACTS,
    WRONG_LABEL,
    WRONG_SIZE,
    SplitReport,
    shared_images,
    unknown_labels,
)

# Of 255: where no pixel of a split reaches this, nobody can see anything.
DARK = 32
# Files named in one finding; the report in JSON names all.
EXAMPLES = 5

REMEDIES = {
    UNREADABLE_IMAGE: "download or export these files again, or train with DATALOADER.ON_ERROR skip",
    UNREADABLE_LABEL: "download or export these files again, or train with DATALOADER.ON_ERROR skip",
    WRONG_SIZE: "export image and labels in one size; labels are never resized to fit",
    UNKNOWN_LABEL: "give each a class with label_map, or list it under encoding: void",
    LOSSY_LABEL: "export them again as PNG from where they were drawn; converting them keeps the damage",
    TURNED: "set exif: ignore in the dataset's YAML, so that images are not turned",
    UNSUITABLE: "do what the lines below say",
    WRONG_LABEL: "choose another encoding, or export these files again",
}


class Finding(NamedTuple):
    """One thing to know.

    Attributes:
        is_problem: False for a note, which does not fail the check.
        split: registered name.
        text, remedy: one line each.
        files: messages that name the files, all of them.
    """

    is_problem: bool
    split: str
    text: str
    remedy: str = ""
    files: tuple[str, ...] = ()


class CheckedSplit(NamedTuple):
    """A split whose files were all read."""

    name: str
    dataset: DatasetFile
    records: Sequence[Mapping[str, Any]]
    report: SplitReport

    @property
    def has_labels(self) -> bool:
        return self.name not in self.dataset.without_labels

    def label_files(self) -> set[str]:
        """All label files of the split."""
        found: set[str] = set()
        for record in self.records:
            for key in ("sem_seg_file_name", "pan_seg_file_name"):
                names = record.get(key, ())
                found.update([names] if isinstance(names, str) else names)
        return found


def of_missing_split(dataset: DatasetFile, name: str, message: str) -> list[Finding]:
    """A split that is not there; one without labels is not needed to train."""
    optional = name in dataset.without_labels
    message = message.removeprefix(f"{name}: ")
    text = f"not there, and only needed for submissions ({message})" if optional else message
    return [Finding(not optional, name, text)]


def of_split(split: CheckedSplit) -> list[Finding]:
    """All that is to be said about one split."""
    report = split.report
    found = [*_counts(split), *_broken_files(split), *_as_read(split)]
    copies = [files for files in report.files_of.values() if len(files) > 1]
    if copies:
        text = (
            f"{sum(map(len, copies)) - len(copies):,} of the images are copies of others in the split, first "
            f"{os.path.basename(copies[0][1])} of {os.path.basename(copies[0][0])}"
        )
        listed = tuple(" = ".join(files) for files in copies)
        found.append(Finding(False, split.name, text, "keep one of each", listed))
    if split.has_labels and report.pixels.any():
        found += _classes(split)
    return found


def _counts(split: CheckedSplit) -> list[Finding]:
    found, published = [], split.dataset.image_counts.get(split.name)
    if published not in (None, split.report.images):
        remedy = (
            "complete the copy" if split.report.images < published else "remove what does not belong here"
        )
        text = f"{split.report.images:,} images, but {published:,} were published"
        found.append(Finding(True, split.name, text, f"{remedy}; numbers on it cannot be compared"))
    lone = _lone_label_files(split)
    if lone:
        text = f"{len(lone):,} label files belong to no image of the split, first {min(lone)}"
        found.append(Finding(False, split.name, text, "add the images, if they should be used", tuple(lone)))
    return found


def _lone_label_files(split: CheckedSplit) -> list[str]:
    """Files beside the label files, of their kind, that are not used. With a list, others are expected."""
    layout = split.dataset.layouts[split.records[0]["layout"]] if split.records else None
    if layout is None or layout.list_file is not None:
        return []
    used = split.label_files()
    suffixes = {Path(name).suffix for name in used}
    beside = (entry for folder in {os.path.dirname(name) for name in used} for entry in os.scandir(folder))
    # Several splits may lie in one folder, and two encodings may: only names of the same pattern count.
    ending = os.path.basename(layout.labels or "").rpartition("}")[2]
    return sorted(
        entry.path
        for entry in beside
        if entry.path not in used
        and Path(entry.name).suffix in suffixes
        and entry.name.endswith(ending if "*" not in ending else "")
    )


def _broken_files(split: CheckedSplit) -> list[Finding]:
    found = []
    for kind, problems in split.report.problems.items():
        messages = tuple(problem.message for problem in problems)
        several = f"{len(problems):,} images" if len(problems) > 1 else "1 image"
        if kind == ALL_VOID:
            remedy = "training takes nothing from them; remove them from the list, or label them"
            found.append(Finding(False, split.name, f"{several}: {kind}", remedy, messages))
            continue
        if kind == WRONG_FACTS:
            found.append(_wrong_facts(split, messages))
            continue
        text = f"{several}: {kind}"
        if kind == UNKNOWN_LABEL:
            counts = [f"{label} in {count:,}" for label, count in unknown_labels(problems).items()]
            text += f" ({', '.join(counts[:8])}{', ...' if len(counts) > 8 else ''} files)"
        remedy = REMEDIES[kind] + (f" in {split.dataset.path.name}" if kind == UNKNOWN_LABEL else "")
        found.append(Finding(True, split.name, text, remedy, messages))
    return found


def _as_read(split: CheckedSplit) -> list[Finding]:
    """What the images look like once they are read: turned, or dark."""
    found, report, source = [], split.report, split.dataset.path.name
    if report.orientations and split.dataset.exif == "apply":
        files = tuple(chain.from_iterable(report.orientations.values()))
        listed = ", ".join(f"{key} in {len(of)}" for key, of in sorted(report.orientations.items()))
        several = f"{len(files):,} images have" if len(files) > 1 else "1 image has"
        text = f"{several} an EXIF orientation ({listed}), which is applied"
        if split.has_labels:
            text += "; labels are taken to lie on the turned image"
        remedy = f"if they lie on the pixels as stored, set exif: ignore in {source}"
        found.append(Finding(False, split.name, text, remedy if split.has_labels else "", files))
    given = [record["image_range"] for record in split.records[:1] if "image_range" in record]
    pixel_range = PixelRange(*given[0]) if given else None
    if pixel_range is not None and pixel_range.source:
        text = f"images of more than 8 bits are read with 0 as black and {pixel_range.high} as white"
        remedy = (
            f"that fits a sample of them; set image_range: [0, {pixel_range.high}] in {source} to be sure"
        )
        found.append(Finding(False, split.name, text, remedy))
    if report.sizes and report.brightest < DARK:
        text = f"the images are almost black: the brightest pixel of the split is {report.brightest} of 255"
        remedy = f"look at the files; values of fewer bits need image_range in {source}"
        low, high = (pixel_range or PixelRange(0, 255))[:2]
        # The largest value of a file that becomes the brightest one, and that of all its bits.
        largest = (report.brightest + 1) * (high - low + 1) / 256 - 1
        if largest >= 1:
            all_bits = 2 ** math.ceil(math.log2(largest + 1)) - 1
            remedy = f"set image_range: [{low}, {low + all_bits}] in {source}, so that they use all of 0..255"
        found.append(Finding(True, split.name, text, remedy))
    return found


def _wrong_facts(split: CheckedSplit, messages: tuple[str, ...]) -> Finding:
    text = f"{len(messages):,} {WRONG_FACTS}, by more than a factor of two, first {messages[0]}"
    if any("annotations" in record for record in split.records):
        remedy = (
            "APs, APm and APl sort by the area of the JSON, as pycocotools does: write those of the masks, "
            "or leave the keys out, and they are measured"
        )
    else:
        remedy = "they are measured here, but other programs divide by them: write the pixels of the PNGs"
    return Finding(False, split.name, text, remedy, messages)


def _classes(split: CheckedSplit) -> list[Finding]:
    """What the histogram of the classes says."""
    report, names = split.report, split.dataset.space.classes
    present = np.flatnonzero(report.pixels[:-1])
    void = report.pixels[-1]
    source = split.dataset.path.name
    if len(present) == 1 and len(names) > 1:
        only = names[present[0]]
        if present[0] == 0 and void:
            text = f"no class but {only!r} occurs, the rest is void: are these masks of 0 and 255?"
            remedy = f"set encoding: binary, or label_map: {{255: {names[1]}}}, in {source}"
        else:
            text = f"no class but {only!r} occurs"
            remedy = f"compare the values in the label files with classes and encoding in {source}"
        return [Finding(True, split.name, text, remedy)]
    found = []
    if report.absent:
        text = f"{len(report.absent)} of {len(names)} classes do not occur"
        remedy = f"if they should, compare encoding and classes in {source} with the files"
        found.append(Finding(False, split.name, text, remedy))
    share = void / report.pixels.sum()
    # What no instance covers is background, and learned as such.
    if share > 0.5 and not any("annotations" in record for record in split.records):
        text = f"{share:.0%} of the pixels are void, neither trained on nor scored"
        remedy = f"if they are background, add a class for it in {source}"
        found.append(Finding(False, split.name, text, remedy))
    return found


def across_splits(splits: Sequence[CheckedSplit]) -> list[Finding]:
    """Images that are in two splits."""
    found = []
    for first, second in combinations(splits, 2):
        pairs = shared_images(first.records, second.records, (first.report.files_of, second.report.files_of))
        if not pairs:
            continue
        text = f"{len(pairs):,} images are in both {first.name} and {second.name}, first {pairs[0][1]}"
        meant = _may_overlap(first.name, second.name)
        remedy = "" if meant else "remove them from one: scores on images that were trained on are worthless"
        files = tuple(f"{one} = {other}" for one, other in pairs)
        found.append(Finding(not meant, second.name, text, remedy, files))
    return found


def _may_overlap(first: str, second: str) -> bool:
    """Whether two splits are meant to share images, as train and trainval are; never with a test set."""
    names = (first, second)
    # One of two: where both say it, it belongs to the dataset's name.
    if sum("test" in name.split("_") for name in names) == 1:
        return False
    trains = ["train" in name for name in names]
    return any("trainval" in name for name in names) or all(trains)


def as_json(name: str, splits: Sequence[CheckedSplit], findings: Sequence[Finding]) -> dict[str, Any]:
    """The whole report as plain data."""
    return {
        "dataset": name,
        "problems": sum(finding.is_problem for finding in findings),
        "splits": {split.name: _split_as_json(split) for split in splits},
        "findings": [{**finding._asdict(), "files": list(finding.files)} for finding in findings],
    }


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
