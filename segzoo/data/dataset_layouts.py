"""The layouts of a dataset YAML: the paths of the files, and the encoding of label files."""

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

# Path templates. `root` is a path, too, or a list of paths.
PATH_KEYS = ("images", "labels", "list", "panoptic", "annotations", "instances")
LAYOUT_KEYS = ("root", "encoding", *PATH_KEYS)


@dataclass(frozen=True)
class Layout:
    """One arrangement of a dataset's files. Paths are templates, relative to a root: see `layouts.py`.

    Attributes:
        roots: folders to try, relative to the folder of datasets.
        images: image files; with `annotations` or `instances`, the folder of the images that the JSON names;
            with `annotations` alternatively image files by their `{image_id}`.
        labels: semantic label file of an image, or None; decoded by `encoding`. With `*`, several files.
        list_file: text file with the images of the split; None: all images found. `[a:b]` after it selects
            some of its lines.
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
    content: Mapping[str, Any],
    space: LabelSpace,
    classes: tuple[DatasetClass, ...],
    fields: set[str],
    needs_labels: bool,
    stops_at_palettes: bool,
    default_encoding: str,
) -> tuple[Layout, ...]:
    """Return the layouts of a dataset YAML.

    Args:
        fields: template fields that the splits set.
        needs_labels: some split has labels.
        stops_at_palettes: whether a palette that contradicts the colors is an error; in built-in datasets
            palettes are for viewing only.
        default_encoding: encoding of label files with all classes.
    """
    source = space.source
    shared = {key: content[key] for key in LAYOUT_KEYS if key in content}
    listed = content.get("layouts", [{}])
    if not isinstance(listed, list) or not listed:
        raise InputError(f"{source}: layouts is {listed!r}; expected a list of mappings")
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


def _check_layout(entry: Mapping[str, Any], fields: set[str], source: str, needs_labels: bool) -> None:
    for key in PATH_KEYS:
        if key in entry and not isinstance(entry[key], str):
            raise InputError(f"{source}: {key} is {entry[key]!r}; expected a path")
        if "\\" in entry.get(key, "") or re.match("[A-Za-z]:/", entry.get(key, "")):
            raise InputError(
                f"{source}: {key} {entry[key]!r} is a Windows path; write / between folders, and the path on "
                "this machine"
            )
    if "images" not in entry:
        raise InputError(f"{source}: lacks images, the path of the image files")
    roots = entry.get("root", ".")
    if not isinstance(roots, str) and not (
        isinstance(roots, list) and roots and all(isinstance(root, str) for root in roots)
    ):
        raise InputError(f"{source}: root is {roots!r}; expected a folder or a list of folders")
    others = [key for key in ("labels", "list", "panoptic", "annotations") if key in entry]
    if "instances" in entry and others:
        raise InputError(
            f"{source}: {others[0]} cannot be combined with instances, a JSON with the images and all their "
            "masks; remove one of the keys"
        )
    if "panoptic" in entry and "list" in entry:
        raise InputError(
            f"{source}: list cannot be combined with panoptic, whose annotations list the images; remove it"
        )
    if "panoptic" in entry and "*" in entry.get("labels", ""):
        raise InputError(f"{source}: labels with * cannot be combined with panoptic; name one file per image")
    if ("panoptic" in entry) != ("annotations" in entry):
        raise InputError(
            f"{source}: panoptic (folder of PNGs) and annotations (JSON) need each other; set both"
        )
    if not {"panoptic", "labels", "instances"} & set(entry) and needs_labels:
        raise InputError(
            f"{source}: lacks labels, the path of an image's label file (or panoptic, or instances)"
        )
    _check_per_class(entry, fields, source)
    found = set(re.findall(r"{(\w+)}", entry["images"]))
    if "panoptic" not in entry and "instances" not in entry and not found - fields:
        raise InputError(
            f"{source}: images {entry['images']!r} is a single file; write a field for what varies: "
            "images/{stem}.jpg"
        )
    jsons_and_folders = dict.fromkeys(("panoptic", "annotations", "instances"), fields)
    in_labels = found | fields | {"stem", CLASS_FIELD}
    for key, known in {"labels": in_labels, **jsons_and_folders}.items():
        for field in re.findall(r"{(\w+)}", entry.get(key, "")):
            if field not in known:
                raise InputError(
                    f"{source}: {key} {entry[key]!r} has the unknown {{{field}}}{did_you_mean(field, known)}"
                )


def _is_per_class(entry: Mapping[str, Any], fields: set[str]) -> bool:
    """Return whether `{class}` in `labels` is the class of a file, not a field of the images or splits."""
    field = f"{{{CLASS_FIELD}}}"
    return field in entry.get("labels", "") and field not in entry["images"] and CLASS_FIELD not in fields


def _check_per_class(entry: Mapping[str, Any], fields: set[str], source: str) -> None:
    """Raise InputError unless `{class}` and the encoding of a mask per class occur together."""
    encoding = entry.get("encoding")
    if isinstance(encoding, list) and BinaryFilesEncoding.name in map(_encoding_type, encoding):
        raise InputError(
            f"{source}: encoding {BinaryFilesEncoding.name} cannot be combined with another; list only this"
        )
    is_chosen = _encoding_type(encoding) == BinaryFilesEncoding.name
    per_class = _is_per_class(entry, fields)
    if is_chosen and not per_class:
        raise InputError(
            f"{source}: encoding {BinaryFilesEncoding.name} is for a mask per class; name the class in "
            "labels, as in masks/{stem}-{class}.png"
        )
    if per_class and encoding is not None and not is_chosen:
        raise InputError(
            f"{source}: labels with {{{CLASS_FIELD}}} are a mask per class; set encoding: "
            f"{BinaryFilesEncoding.name}, or remove encoding"
        )
    if per_class and "panoptic" in entry:
        raise InputError(
            f"{source}: labels with {{{CLASS_FIELD}}} cannot be combined with panoptic; name one file per "
            "image"
        )


def _encoding_type(encoding: Any) -> Any:
    return encoding.get("type") if isinstance(encoding, Mapping) else encoding


def _check_label_map(space: LabelSpace, layouts: list[Layout]) -> None:
    """Raise InputError for sources of label_map that no file can have; for JSONs `register.py` does."""
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
