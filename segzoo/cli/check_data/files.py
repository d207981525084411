"""Findings on missing, unused and duplicate files."""

import os
import re
from collections import Counter
from pathlib import Path

from detectron2.data import MetadataCatalog

from segzoo.data.templates import match
from segzoo.utils.text import some

from .checked import CheckedSplit, Finding


def file_findings(split: CheckedSplit) -> list[Finding]:
    """Return findings on the names of the files, and on equal images."""
    found, published = [], split.dataset.image_counts.get(split.name)
    if published not in (None, split.report.images):
        remedy = "complete the copy" if split.report.images < published else "remove the others"
        text = f"{split.report.images:,} images, but {published:,} were published"
        found.append(Finding(True, split.name, text, f"{remedy}; results are not comparable"))
    if not split.records:
        text, remedy = "no images", "compare the list, or the JSON, with what should be there"
        found.append(Finding(True, split.name, text, remedy))
    unused = _unused_images(split)
    if unused:
        text = f"{len(unused):,} image files are not used, as images has another suffix: {some(unused, 1)}"
        source = split.dataset.path.name
        remedy = f"give images in {source} the suffix .* if they belong to the split"
        found.append(Finding(False, split.name, text, remedy, tuple(unused)))
    unused = _unused_label_files(split)
    if unused:
        several = f"{len(unused):,} label files belong" if len(unused) > 1 else "1 label file belongs"
        text = f"{several} to no image of the split, first {min(unused)}"
        remedy = "add the images, if they should be used"
        found.append(Finding(False, split.name, text, remedy, tuple(unused)))
    return [*found, *_repeated(split), *_shared_labels(split), *_copies(split)]


def _repeated(split: CheckedSplit) -> list[Finding]:
    """Return a finding on images that are listed more than once."""
    times = Counter(record["file_name"] for record in split.records)
    repeated = [name for name, count in times.items() if count > 1]
    if not repeated:
        return []
    several = f"{len(repeated):,} images are" if len(repeated) > 1 else "1 image is"
    text = f"{several} listed more than once, first {repeated[0]}, and trained on and scored as often"
    return [Finding(False, split.name, text, "list each once, unless that is intended", tuple(repeated))]


def _copies(split: CheckedSplit) -> list[Finding]:
    distinct = (list(dict.fromkeys(files)) for files in split.report.files_of.values())
    copies = [files for files in distinct if len(files) > 1]
    if not copies:
        return []
    number = sum(map(len, copies)) - len(copies)
    several = f"{number:,} images are copies of others" if number > 1 else "1 image is a copy of another"
    first = f"{os.path.basename(copies[0][1])} of {os.path.basename(copies[0][0])}"
    listed = tuple(" = ".join(files) for files in copies)
    return [Finding(False, split.name, f"{several} in the split, first {first}", "keep one of each", listed)]


def _shared_labels(split: CheckedSplit) -> list[Finding]:
    """Return a finding on label files of several images: `images` has a field that `labels` lacks."""
    images_of: dict[str, dict[str, None]] = {}
    for record in split.records:
        names = record.get("sem_seg_file_name", ())
        for name in [names] if isinstance(names, str) else names:
            images_of.setdefault(name, {})[record["file_name"]] = None
    shared = {name: images for name, images in images_of.items() if len(images) > 1}
    if not shared:
        return []
    name, images = next(iter(shared.items()))
    several = f"{len(shared):,} label files are" if len(shared) > 1 else "1 label file is"
    text = f"{several} used for more than one image, first {name} for {some(images, 2)}"
    layout = split.dataset.layouts[split.records[0]["layout"]]
    fields = [field for field in re.findall(r"{\w+}", layout.images) if field not in (layout.labels or "")]
    source = split.dataset.path.name
    remedy = "if each image has its own labels, "
    remedy += f"write {some(fields)} into labels of {source}" if fields else "name them in the list"
    listed = tuple(f"{name}: {', '.join(images)}" for name, images in shared.items())
    return [Finding(False, split.name, text, remedy, listed)]


def _unused_images(split: CheckedSplit) -> list[str]:
    """Return image files that differ from `images` in their suffix only, as a.JPG where it has .jpg."""
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


def _unused_label_files(split: CheckedSplit) -> list[str]:
    """Return unused files named like the label files beside them; with a list these are expected: []."""
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
        and not entry.name.startswith(".")
        and Path(entry.name).suffix in suffixes
        and entry.name.endswith(ending if "*" not in ending else "")
    )
