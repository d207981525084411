"""Findings on files that cannot be read as the dataset's YAML says, with a remedy for each problem."""

from segzoo.data.encodings import IndexEncoding

from .checked import CheckedSplit, Finding
from .inspection import (
    ALL_VOID,
    LOSSY_LABEL,
    PALETTE,
    TURNED,
    UNKNOWN_LABEL,
    UNREADABLE_IMAGE,
    UNREADABLE_LABEL,
    UNSUITABLE,
    WRONG_GEOMETRY,
    WRONG_LABEL,
    WRONG_SIZE,
    unknown_labels,
)
from .instances import geometry_finding
from .remedies import (
    Files,
    Option,
    advice,
    as_text,
    differing,
    mask_per_class,
)

REMEDIES = {
    UNREADABLE_IMAGE: "download or export these files again, or train with DATALOADER.ON_ERROR skip",
    UNREADABLE_LABEL: "download or export these files again, or train with DATALOADER.ON_ERROR skip",
    WRONG_SIZE: "export image and labels in one size; labels are never resized to fit",
    UNKNOWN_LABEL: "give each a class with label_map, or list it under encoding: void",
    LOSSY_LABEL: "export them again as PNG from the annotation tool; converting them keeps the damage",
    TURNED: "set exif: ignore in the dataset's YAML, so that images are not turned",
    UNSUITABLE: "follow the remedies below",
    WRONG_LABEL: "follow the remedies below, choose another encoding, or export these files again",
    PALETTE: "if the colors are right, set encoding: rgb, if the indices are, encoding: palette",
}
WRONG_ANNOTATION = "correct these annotations, or export the JSON again"
# Problems that another encoding may solve.
ENCODING_PROBLEMS = (UNKNOWN_LABEL, WRONG_LABEL, PALETTE)


def broken_file_findings(split: CheckedSplit, options: tuple[Option, ...]) -> list[Finding]:
    """Return a finding for each kind of problem. `options`: YAML keys that fit the label files better."""
    found, source = [], split.dataset.path.name
    remedies, files = dict(REMEDIES), split.files()
    for kind in (UNKNOWN_LABEL, PALETTE):
        remedies[kind] += f" in {source}"
    if files is None:
        remedies[WRONG_LABEL] = WRONG_ANNOTATION
    else:
        unknown = list(unknown_labels(split.report.problems.get(UNKNOWN_LABEL, ())))
        text = advice(files, unknown)
        remedies |= dict.fromkeys((UNKNOWN_LABEL, WRONG_LABEL), text) if text else {}
    for kind, problems in split.report.problems.items():
        messages = tuple(problem.message for problem in problems)
        several = f"{len(problems):,} images" if len(problems) > 1 else "1 image"
        if kind == ALL_VOID:
            remedy = "training learns nothing from them; remove them from the list, or label them"
            if "annotations" in split.records[0]:
                remedy = "training treats them as images without objects; remove those not labeled yet"
            found.append(Finding(False, split.name, f"{several}: {kind}", remedy, messages))
            continue
        if kind == WRONG_GEOMETRY:
            found.append(geometry_finding(split, messages))
            continue
        text = f"{several}: {kind}"
        if kind == UNKNOWN_LABEL:
            counts = [f"{label} in {count:,}" for label, count in unknown_labels(problems).items()]
            text += f" ({', '.join(counts[:8])}{', ...' if len(counts) > 8 else ''} files)"
        fitting = options if kind in ENCODING_PROBLEMS and files is not None else ()
        fitting = (Option({"exif": "ignore"}),) if kind == TURNED else fitting
        remedy = as_text(fitting, source) or remedies[kind]
        found.append(Finding(True, split.name, text, remedy, messages, fitting))
    return found


def misread_file_findings(split: CheckedSplit, files: Files, options: tuple[Option, ...]) -> list[Finding]:
    """Return a finding on label files that are read without an error, but misinterpreted."""
    if files.encoding.name == "palette":
        return []  # the YAML says that indices count
    if mask_per_class(files):
        text = f"{files.stored.files:,} label files are named like masks of one class, but read as class maps"
    elif isinstance(files.encoding, IndexEncoding) and differing(files.stored):
        text = "palettes differ from file to file: the same indices are drawn in different colors"
    else:
        return []
    remedy = as_text(options, split.dataset.path.name) or advice(files, ()).partition(": ")[2]
    return [Finding(True, split.name, text, remedy, options=options)]
