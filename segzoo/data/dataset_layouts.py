"""The layouts of a dataset YAML: where the files of a copy lie, and how label files store classes."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from segzoo.utils.errors import InputError
from segzoo.utils.paths import expand_home
from segzoo.utils.text import did_you_mean

from .checks import check_keys
from .class_files import CLASS_FIELD, BinaryFilesEncoding
from .dataset_classes import DatasetClass
from .encodings import Encoding, InstanceIdEncoding, LabelSpace, build_encoding

# Templates of paths. `root` is a path, too, or a list of them.
PATH_KEYS = ("images", "labels", "list", "panoptic", "annotations", "instances")
LAYOUT_KEYS = ("root", "encoding", *PATH_KEYS)


@dataclass(frozen=True)
class Layout:
    """One way in which the files may lie. Paths are templates, relative to a root: see `layouts.py`.

    Attributes:
        roots: folders to try, relative to the folder of datasets.
        images: image files; with `annotations` or `instances`, the folder of the images that it names; with
            `annotations` also image files by their `{image_id}`.
        labels: semantic label file of an image, or None; decoded by `encoding`. With `*`, several files.
        list_file: text file with the images of the split, or None: all that are there. `[a:b]` after it
            takes some of its lines.
        panoptic, annotations: folder of panoptic PNGs and their COCO JSON, or both None.
        instances: COCO JSON of instances, which may overlap, or None; goes with `images` only.
    """

    roots: tuple[str, ...]
    images: str
    labels: str | None
    encoding: Encoding | None
    list_file: str | None
    panoptic: str | None
    annotations: str | None
    instances: str | None = None


def read_layouts(
    facts: Mapping[str, Any],
    space: LabelSpace,
    classes: tuple[DatasetClass, ...],
    fields: set[str],
    needs_labels: bool,
    stops_at_palettes: bool,
    default_encoding: str,
) -> tuple[Layout, ...]:
    """Return `fields` are the template fields that the splits give; `needs_labels`: some split has labels.

    Palettes of built-in datasets are known to be no more than a way to look at them. `default_encoding` is
    that of label files with all classes.
    """
    source = space.source
    shared = {key: facts[key] for key in LAYOUT_KEYS if key in facts}
    listed = facts.get("layouts", [{}])
    if not isinstance(listed, list) or not listed:
        raise InputError(f"{source}: layouts is a list of mappings, found {listed!r}")
    layouts = []
    for entry in listed:
        check_keys(entry, LAYOUT_KEYS, f"{source}: layouts")
        merged = {**shared, **entry}
        _check_layout(merged, fields, source, needs_labels)
        per_class = _is_per_class(merged, fields)
        encoding = merged.get("encoding", BinaryFilesEncoding.name if per_class else default_encoding)
        colors = {one.name: one.color for one in classes if one.color_is_given}
        encoding = build_encoding(encoding, space, colors, stops_at_palettes) if "labels" in merged else None
        roots = merged.get("root", ".")
        paths = {key: expand_home(merged[key]) for key in PATH_KEYS if key in merged}
        layouts.append(
            Layout(
                roots=tuple(map(expand_home, (roots,) if isinstance(roots, str) else roots)),
                images=paths["images"],
                labels=paths.get("labels"),
                encoding=encoding,
                list_file=paths.get("list"),
                panoptic=paths.get("panoptic"),
                annotations=paths.get("annotations"),
                instances=paths.get("instances"),
            )
        )
    if len({layout.panoptic is None for layout in layouts}) > 1:
        raise InputError(f"{source}: either all layouts have panoptic and annotations, or none")
    if len({layout.instances is None for layout in layouts}) > 1:
        raise InputError(f"{source}: either all layouts have instances, or none")
    if len({isinstance(layout.encoding, InstanceIdEncoding) for layout in layouts}) > 1:
        raise InputError(f"{source}: either all layouts have the encoding instance_id, or none")
    _check_label_map(space, layouts)
    return tuple(layouts)


def _check_layout(facts: Mapping[str, Any], fields: set[str], source: str, needs_labels: bool) -> None:
    for key in PATH_KEYS:
        if key in facts and not isinstance(facts[key], str):
            raise InputError(f"{source}: {key} is {facts[key]!r}; it is a path")
        if "\\" in facts.get(key, "") or re.match("[A-Za-z]:/", facts.get(key, "")):
            raise InputError(
                f"{source}: {key} {facts[key]!r} is a path of Windows; write / between folders, and paths as "
                "they are on this machine"
            )
    if "images" not in facts:
        raise InputError(f"{source}: lacks images, the path of the image files")
    roots = facts.get("root", ".")
    if not isinstance(roots, str) and not (
        isinstance(roots, list) and roots and all(isinstance(root, str) for root in roots)
    ):
        raise InputError(f"{source}: root is {roots!r}; it is a folder or a list of folders")
    others = [key for key in ("labels", "list", "panoptic", "annotations") if key in facts]
    if "instances" in facts and others:
        raise InputError(
            f"{source}: {others[0]} does not go with instances, a JSON with the images and all their masks; "
            "remove one of the keys"
        )
    if "panoptic" in facts and "list" in facts:
        raise InputError(
            f"{source}: list does not go with panoptic, whose annotations list the images; remove it"
        )
    if "panoptic" in facts and "*" in facts.get("labels", ""):
        raise InputError(f"{source}: labels with * does not go with panoptic; name one file per image")
    if ("panoptic" in facts) != ("annotations" in facts):
        raise InputError(f"{source}: panoptic (folder of PNGs) and annotations (JSON) go together")
    if not {"panoptic", "labels", "instances"} & set(facts) and needs_labels:
        raise InputError(
            f"{source}: lacks labels, the path of an image's label file (or panoptic, or instances)"
        )
    _check_per_class(facts, fields, source)
    found = set(re.findall(r"{(\w+)}", facts["images"]))
    if "panoptic" not in facts and "instances" not in facts and not found - fields:
        raise InputError(
            f"{source}: images {facts['images']!r} is one file; name what varies: images/{{stem}}.jpg"
        )
    jsons_and_folders = dict.fromkeys(("panoptic", "annotations", "instances"), fields)
    in_labels = found | fields | {"stem", CLASS_FIELD}
    for key, known in {"labels": in_labels, **jsons_and_folders}.items():
        for field in re.findall(r"{(\w+)}", facts.get(key, "")):
            if field not in known:
                raise InputError(
                    f"{source}: {key} {facts[key]!r} has the unknown {{{field}}}{did_you_mean(field, known)}"
                )


def _is_per_class(facts: Mapping[str, Any], fields: set[str]) -> bool:
    """Return whether `{class}` of `labels` is the class of a file, and no field of the images or the splits."""
    field = f"{{{CLASS_FIELD}}}"
    return field in facts.get("labels", "") and field not in facts["images"] and CLASS_FIELD not in fields


def _check_per_class(facts: Mapping[str, Any], fields: set[str], source: str) -> None:
    """Return `{class}` and the encoding of a mask per class go together."""
    encoding = facts.get("encoding")
    if isinstance(encoding, list) and BinaryFilesEncoding.name in map(_encoding_type, encoding):
        raise InputError(f"{source}: encoding {BinaryFilesEncoding.name} goes with no other; list only that")
    is_chosen = _encoding_type(encoding) == BinaryFilesEncoding.name
    per_class = _is_per_class(facts, fields)
    if is_chosen and not per_class:
        raise InputError(
            f"{source}: encoding {BinaryFilesEncoding.name} is for a mask per class; name the class in "
            "labels, as in masks/{stem}-{class}.png"
        )
    if per_class and encoding is not None and not is_chosen:
        raise InputError(
            f"{source}: labels with {{{CLASS_FIELD}}} are a mask per class; set encoding: "
            f"{BinaryFilesEncoding.name}, or leave it out"
        )
    if per_class and "panoptic" in facts:
        raise InputError(
            f"{source}: labels with {{{CLASS_FIELD}}} does not go with panoptic; name one file per image"
        )


def _encoding_type(encoding: Any) -> Any:
    return encoding.get("type") if isinstance(encoding, Mapping) else encoding


def _check_label_map(space: LabelSpace, layouts: list[Layout]) -> None:
    """Find sources of the map that no file can hold. A panoptic JSON has its own: see `register.py`."""
    if any(layout.panoptic or layout.instances for layout in layouts):
        return
    known = set().union(*(layout.encoding.labels for layout in layouts if layout.encoding))
    for label in space.label_map:
        if label not in known:
            names = [name for name in known if isinstance(name, str)]
            raise InputError(
                f"{space.source}: label_map source {label!r} is not a label of the files"
                f"{did_you_mean(label, names)}; name them under encoding.values"
            )
