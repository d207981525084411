"""Detectron2's metadata of the classes of a dataset, or of a checkpoint whose dataset is not at hand."""

from collections.abc import Mapping, Sequence
from typing import Any

from segzoo.utils.errors import InputError

from . import catalogs
from .dataset_classes import DatasetClass, generated_color

# Metadata of the dataset that a checkpoint stores, besides the classes' names, colors and isthing.
DATASET_METADATA = ("evaluator_type", "flip_pairs", "contiguous_id_to_dataset_id", "dataset_file")


def class_metadata(classes: Sequence[DatasetClass]) -> dict[str, Any]:
    """Return names, colors, ids and things under the keys of Detectron2's panoptic metadata."""
    things = [index for index, entry in enumerate(classes) if entry.isthing]
    names, colors = [entry.name for entry in classes], [entry.color for entry in classes]
    return {
        "classes": names,
        "colors": colors,
        "isthing": [entry.isthing for entry in classes],
        "contiguous_id_to_dataset_id": [entry.id for entry in classes],
        # In Detectron2's panoptic metadata "stuff" means all classes.
        "stuff_classes": names,
        "stuff_colors": colors,
        "stuff_dataset_id_to_contiguous_id": {entry.id: index for index, entry in enumerate(classes)},
        "thing_classes": [names[index] for index in things],
        "thing_colors": [colors[index] for index in things],
        "thing_dataset_id_to_contiguous_id": {classes[index].id: index for index in things},
        "label_divisor": 1000,
    }


def register_described(about: Mapping[str, Any], source: str) -> str:
    """Register the classes that a checkpoint was trained for, as a dataset without images.

    Args:
        about: description stored in the checkpoint: `classes`, and optionally `dataset`, `task`, `colors`,
            `isthing`, `ignore_label`, `label_map` and `DATASET_METADATA`.
        source: name of the checkpoint file.

    Returns:
        The registered name. Registering another checkpoint of the same name replaces it; metadata objects in
        use are not changed.

    Raises:
        InputError: there are no classes, or their number differs from that of colors, ids or isthing.
    """
    _check_described(about, source)
    dataset = about.get("dataset") or "classes"
    name = f"{dataset} of {source}"
    count = len(about["classes"])
    ids = about.get("contiguous_id_to_dataset_id") or range(count)
    colors = about.get("colors") or [generated_color(index) for index in range(count)]
    isthing = about.get("isthing") or [False] * count
    entries = zip(about["classes"], ids, colors, isthing, strict=True)
    classes = [
        DatasetClass(str(one), int(number), tuple(color), bool(thing), color_is_given=True)
        for one, number, color, thing in entries
    ]
    metadata = dict(
        **class_metadata(classes),
        ignore_label=about.get("ignore_label", 255),
        label_map=dict(about.get("label_map") or {}),
        evaluator_type=about.get("evaluator_type") or _EVALUATORS.get(about.get("task", ""), "panoptic"),
        flip_pairs=[tuple(pair) for pair in about.get("flip_pairs") or ()],
        dataset_file=about.get("dataset_file", ""),
        described_as=dataset,
    )
    catalogs.register(name, lambda: _no_images(name), metadata)
    return name


def _check_described(about: Mapping[str, Any], source: str) -> None:
    classes = about.get("classes")
    if not isinstance(classes, list | tuple) or not classes:
        raise InputError(f"{source}: does not name the classes it was trained for; give --config-file FILE")
    for key in ("contiguous_id_to_dataset_id", "colors", "isthing"):
        count = len(about.get(key) or classes)
        if count != len(classes):
            raise InputError(
                f"{source}: names {len(classes)} classes, but has {count} {key}; give --config-file FILE"
            )


_EVALUATORS = {"semantic": "sem_seg", "instance": "coco_instances"}


def _no_images(name: str) -> list[dict[str, Any]]:
    raise InputError(f"{name}: only its classes are known, from the checkpoint; name a dataset with images")
