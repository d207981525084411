"""What is to be said about a checked split: problems, which fail the check, and notes, which do not.

Letters: K classes.
"""

import logging
import math
import os
from collections.abc import Mapping, Sequence
from itertools import chain, combinations
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from detectron2.data import MetadataCatalog

from segzoo.data import DatasetFile, PixelRange, dataset_range
from segzoo.data.dataset_file import is_builtin
from segzoo.data.encodings import IndexEncoding
from segzoo.data.inspection import (
    ALL_VOID,
    LOSSY_LABEL,
    PALETTE,
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
from segzoo.data.messages import RemediedError, some
from segzoo.data.templates import match
from segzoo.errors import InputError

from .annotations import of_annotations
from .remedies import (
    Files,
    Option,
    as_text,
    counting_from_1,
    differing,
    in_words,
    mask_per_class,
    options_for,
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
    PALETTE: "if the colors are right, set encoding: rgb, if the indices are, encoding: palette",
}
WRONG_ANNOTATION = "correct these annotations, or export the JSON again"
# How label files are read, which other keys may change.
OF_ENCODING = (UNKNOWN_LABEL, WRONG_LABEL, PALETTE)


class Finding(NamedTuple):
    """One thing to know.

    Attributes:
        is_problem: False for a note, which does not fail the check.
        split: registered name.
        text, remedy: one line each.
        files: messages that name the files, all of them.
        options: what the remedy writes into the YAML, where that is all there is to do: one of these.
    """

    is_problem: bool
    split: str
    text: str
    remedy: str = ""
    files: tuple[str, ...] = ()
    options: tuple[Option, ...] = ()


class CheckedSplit(NamedTuple):
    """A split whose files were all read."""

    name: str
    dataset: DatasetFile
    records: Sequence[Mapping[str, Any]]
    report: SplitReport

    @property
    def has_labels(self) -> bool:
        return self.name not in self.dataset.without_labels

    def files(self) -> Files | None:
        """Its semantic label files, where it has such."""
        layout = self.records[0]["layout"] if self.records else 0
        encoding = self.dataset.layouts[layout].encoding
        if encoding is None or not self.has_labels or not self.report.stored.files:
            return None
        return Files(self.dataset, self.name, layout, encoding, self.report.stored)

    def label_files(self) -> set[str]:
        """All label files of the split."""
        found: set[str] = set()
        for record in self.records:
            for key in ("sem_seg_file_name", "pan_seg_file_name"):
                names = record.get(key, ())
                found.update([names] if isinstance(names, str) else names)
        return found


def of_missing_split(dataset: DatasetFile, name: str, error: InputError) -> list[Finding]:
    """A split that is not there, or cannot be read; one without labels is not needed to train."""
    optional = name in dataset.without_labels
    message = str(error).removeprefix(f"{name}: ")
    text = f"not there, and only needed for submissions ({message})" if optional else message
    # The message says so in words.
    options = (Option(error.keys),) if isinstance(error, RemediedError) else ()
    return [Finding(not optional, name, text, options=options)]


def of_warnings(name: str, warnings: Sequence[logging.LogRecord]) -> list[Finding]:
    """What was said while a split was found; of the range of its images, `of_split` says more."""
    told = (one for one in warnings if one.name != dataset_range.__name__)
    return [Finding(False, name, message) for message in dict.fromkeys(one.getMessage() for one in told)]


def of_split(split: CheckedSplit) -> list[Finding]:
    """All that is to be said about one split."""
    report, files = split.report, split.files()
    options = options_for(files) if files is not None else ()
    found = [*_counts(split), *_broken_files(split, options), *_as_read(split)]
    copies = [files for files in report.files_of.values() if len(files) > 1]
    if copies:
        text = (
            f"{sum(map(len, copies)) - len(copies):,} of the images are copies of others in the split, first "
            f"{os.path.basename(copies[0][1])} of {os.path.basename(copies[0][0])}"
        )
        listed = tuple(" = ".join(files) for files in copies)
        found.append(Finding(False, split.name, text, "keep one of each", listed))
    if not split.has_labels:
        return found
    if report.pixels.any():
        found += _classes(split, options)
    said = set(split.report.problems) & set(OF_ENCODING)
    is_said = bool(said) or (bool(options) and any(finding.options == options for finding in found))
    return [
        *found,
        *(() if is_said or files is None else _misread(split, files, options)),
        *_instances(split),
    ]


def _misread(split: CheckedSplit, files: Files, options: tuple[Option, ...]) -> list[Finding]:
    """Files that every encoding would read without an error, though they mean something else."""
    if files.encoding.name == "palette":
        return []  # said so
    if mask_per_class(files):
        text = f"{files.stored.files:,} label files are by their names the mask of a class, but read as maps"
    elif isinstance(files.encoding, IndexEncoding) and differing(files.stored):
        text = "palettes differ from file to file: the same indices are drawn in different colors"
    else:
        return []
    remedy = as_text(options, split.dataset.path.name) or in_words(files, ()).partition(": ")[2]
    return [Finding(True, split.name, text, remedy, options=options)]


def _instances(split: CheckedSplit) -> list[Finding]:
    """What the segments and instances say."""
    report, names, source = split.report, split.dataset.space.classes, split.dataset.path.name
    found = [
        Finding(one.is_problem, split.name, one.text, one.remedy) for one in of_annotations(split.records)
    ]
    if report.segments is None:
        return found
    if report.empty and report.pixels[:-1].any():
        text = f"{report.empty:,} of {report.segments.sum():,} instances have no pixel in their image"
        remedy = "training passes over them, and evaluation counts them as missed; correct or remove them"
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
            "give each instance a number of its own: 1000 times the id of its class, and more",
        )
    if crowds.sum() == things.sum():
        text = f"all {things.sum():,} instances are crowds (groups), which are neither trained nor scored"
        is_problem = True
    else:
        listed = some((repr(names[index]) for index in only), 8)
        text = f"only crowds (groups), which are neither trained nor scored, are there of {listed}"
        is_problem = not is_builtin(split.dataset.path)
    remedy = remedy or f"if they are objects, {as_text(options, source)}"
    return [*found, Finding(is_problem, split.name, text, remedy, options=options)]


def _counts(split: CheckedSplit) -> list[Finding]:
    found, published = [], split.dataset.image_counts.get(split.name)
    if published not in (None, split.report.images):
        remedy = (
            "complete the copy" if split.report.images < published else "remove what does not belong here"
        )
        text = f"{split.report.images:,} images, but {published:,} were published"
        found.append(Finding(True, split.name, text, f"{remedy}; numbers on it cannot be compared"))
    if not split.records:
        text, remedy = "no images", "compare the list, or the JSON, with what should be there"
        found.append(Finding(True, split.name, text, remedy))
    lone = _lone_images(split)
    if lone:
        text = f"{len(lone):,} image files are not used, for suffixes that images lacks: {some(lone, 1)}"
        source = split.dataset.path.name
        remedy = f"give images in {source} the suffix .* if they belong to the split"
        found.append(Finding(False, split.name, text, remedy, tuple(lone)))
    lone = _lone_label_files(split)
    if lone:
        text = f"{len(lone):,} label files belong to no image of the split, first {min(lone)}"
        found.append(Finding(False, split.name, text, "add the images, if they should be used", tuple(lone)))
    return found


def _lone_images(split: CheckedSplit) -> list[str]:
    """Image files that `images` does not fit for their suffix alone, as a.JPG beside a.jpg."""
    layout = split.dataset.layouts[split.records[0]["layout"]] if split.records else None
    suffix = Path(layout.images).suffix if layout is not None else ""
    if layout is None or layout.list_file is not None or suffix in ("", ".*") or "{" in suffix:
        return []
    root, fields = Path(MetadataCatalog.get(split.name).dataset_root), split.dataset.splits[split.name]
    used = {record["file_name"] for record in split.records}
    # Labels may lie beside their images.
    stems = {os.path.splitext(name)[0] for name in used | split.label_files()}
    found = match(root, f"{layout.images.removesuffix(suffix)}.*", fields)
    return sorted(path for path, _ in found if path not in used and os.path.splitext(path)[0] not in stems)


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


def _broken_files(split: CheckedSplit, options: tuple[Option, ...]) -> list[Finding]:
    found, source = [], split.dataset.path.name
    remedies, files = dict(REMEDIES), split.files()
    for kind in (UNKNOWN_LABEL, PALETTE):
        remedies[kind] += f" in {source}"
    if files is None:
        remedies[WRONG_LABEL] = WRONG_ANNOTATION
    else:
        unknown = list(unknown_labels(split.report.problems.get(UNKNOWN_LABEL, ())))
        words = in_words(files, unknown)
        remedies |= dict.fromkeys((UNKNOWN_LABEL, WRONG_LABEL), words) if words else {}
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
        fitting = options if kind in OF_ENCODING and files is not None else ()
        fitting = (Option({"exif": "ignore"}),) if kind == TURNED else fitting
        remedy = as_text(fitting, source) or remedies[kind]
        found.append(Finding(True, split.name, text, remedy, messages, fitting))
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
        as_stored = Option({"exif": "ignore"}, "they lie on the pixels as stored")
        options = (as_stored,) if split.has_labels else ()
        found.append(Finding(False, split.name, text, as_text(options, source), files, options))
    given = [record["image_range"] for record in split.records[:1] if "image_range" in record]
    pixel_range = PixelRange(*given[0]) if given else None
    if pixel_range is not None and pixel_range.source:
        text = f"images of more than 8 bits are read with 0 as black and {pixel_range.high} as white"
        options = (Option({"image_range": [0, pixel_range.high]}),)
        remedy = f"that fits a sample of them; to be sure, {as_text(options, source)}"
        found.append(Finding(False, split.name, text, remedy, options=options))
    if report.sizes and report.brightest < DARK:
        text = f"the images are almost black: the brightest pixel of the split is {report.brightest} of 255"
        remedy, options = f"look at the files; values of fewer bits need image_range in {source}", ()
        low, high = (pixel_range or PixelRange(0, 255))[:2]
        # The largest value of a file that becomes the brightest one, and that of all its bits.
        largest = (report.brightest + 1) * (high - low + 1) / 256 - 1
        if largest >= 1:
            all_bits = 2 ** math.ceil(math.log2(largest + 1)) - 1
            options = (Option({"image_range": [low, low + all_bits]}),)
            remedy = f"{as_text(options, source)}, so that they use all of 0..255"
        found.append(Finding(True, split.name, text, remedy, options=options))
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


def _classes(split: CheckedSplit, options: tuple[Option, ...]) -> list[Finding]:
    """What the histogram of the classes says. `options`: what fits the label files better."""
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
    share = void / report.pixels.sum()
    # What no instance covers is background, and learned as such.
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
        return "nothing is labelled: no class has a pixel, all is void"
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
        "findings": [_finding_as_json(finding) for finding in findings],
    }


def _finding_as_json(finding: Finding) -> dict[str, Any]:
    # As YAML, whose keys may be numbers.
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
