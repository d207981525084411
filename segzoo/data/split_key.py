"""What the records of a split with an annotation file depend on, for the cache of `record_cache.py`."""

from pathlib import Path
from typing import Any, NamedTuple

from .dataset_file import DatasetFile
from .layouts import FoundLayout, finds_images_by_id
from .templates import fill, without_open_fields

# Bytes. A file is not worth one in the cache if it is smaller.
_SMALLEST_FILE = 4 << 20


class SplitKey(NamedTuple):
    """What the records of a split depend on.

    Attributes:
        values: values that JSON can hold.
        is_large: whether the records are worth a file, and not this process's memory alone.
    """

    values: dict[str, Any]
    is_large: bool


def cache_key(dataset: DatasetFile, split: str, found: FoundLayout) -> SplitKey | None:
    """Return all that the records of a split depend on.

    The content of folders is represented by their time, which changes with every file that is added or
    removed directly in them.

    Returns:
        None if the records depend on more, as on the images that a folder lists.
    """
    layout, fields = dataset.layouts[found.index], dataset.splits[split]
    template = layout.annotations or layout.instances
    if template is None or found.images or finds_images_by_id(layout):
        return None
    annotations = found.root / fill(template, fields)
    try:
        status = annotations.stat()
        folders = [
            [str(folder), folder.stat().st_mtime_ns]
            for place in (layout.images, layout.panoptic, layout.labels)
            if place is not None
            for folder in (_folder(found.root / without_open_fields(fill(place, fields))),)
        ]
        described = dataset.path.read_bytes().decode("utf-8", "replace")
    except OSError:
        return None
    space = dataset.space
    values = {
        "annotations": [
            str(annotations),
            status.st_size,
            status.st_mtime_ns,
            status.st_ctime_ns,
            status.st_ino,
        ],
        "folders": folders,
        "dataset": [str(dataset.path.resolve()), described],
        "split": [
            split,
            sorted(fields.items()),
            found.index,
            str(found.root),
            split in dataset.without_labels,
        ],
        "classes": [[entry.name, entry.id, entry.isthing] for entry in dataset.classes],
        "space": [
            list(space.classes),
            list(space.ids),
            repr(list(space.label_map.items())),
            space.ignore_label,
        ],
        "reading": [
            dataset.exif,
            dataset.background,
            dataset.crowds_are_instances,
            dataset.has_relative_coordinates,
        ],
    }
    return SplitKey(values, status.st_size >= _SMALLEST_FILE)


def _folder(path: Path) -> Path:
    return path if path.is_dir() else path.parent
