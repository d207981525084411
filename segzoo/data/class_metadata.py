"""What Detectron2's metadata says of a dataset's classes; and classes without a dataset, of a checkpoint."""

from collections.abc import Mapping, Sequence
from typing import Any

from segzoo.utils.errors import InputError

from . import catalogs
from .dataset_classes import DatasetClass, generated_color

# Of what a checkpoint says about its dataset, beside the classes' names, colors and isthing.
DATASET_METADATA = ("evaluator_type", "flip_pairs", "contiguous_id_to_dataset_id", "dataset_file")


def class_metadata(classes: Sequence[DatasetClass]) -> dict[str, Any]:
    """Names, colors, ids and things, by the names that Detectron2's panoptic datasets have."""
    things = [index for index, entry in enumerate(classes) if entry.isthing]
    names, colors = [entry.name for entry in classes], [entry.color for entry in classes]
    return {
        "classes": names,
        "colors": colors,
        "isthing": [entry.isthing for entry in classes],
        "contiguous_id_to_dataset_id": [entry.id for entry in classes],
        # "stuff" is every class there.
        "stuff_classes": names,
        "stuff_colors": colors,
        "stuff_dataset_id_to_contiguous_id": {entry.id: index for index, entry in enumerate(classes)},
        "thing_classes": [names[index] for index in things],
        "thing_colors": [colors[index] for index in things],
        "thing_dataset_id_to_contiguous_id": {classes[index].id: index for index in things},
        "label_divisor": 1000,
    }


def register_described(about: Mapping[str, Any], source: str) -> str:
    """Register the classes that a checkpoint was trained for, as a dataset that has no images.

    Args:
        about: what the checkpoint says of itself: `classes`, and where it does `dataset`, `task`, `colors`,
            `isthing`, `ignore_label`, `label_map` and `DATASET_METADATA`.
        source: name of its file.

    Returns:
        The registered name. Registering another checkpoint of the same name replaces it; metadata that is in
        use stays as it is.

    Raises:
        InputError: it says nothing of its classes, or of another number of them than of colors and the like.
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
        raise InputError(f"{source}: does not say which classes it was trained for; give --config-file FILE")
    for key in ("contiguous_id_to_dataset_id", "colors", "isthing"):
        count = len(about.get(key) or classes)
        if count != len(classes):
            raise InputError(
                f"{source}: names {len(classes)} classes, but has {count} {key}; give --config-file FILE"
            )


_EVALUATORS = {"semantic": "sem_seg", "instance": "coco_instances"}


def _no_images(name: str) -> list[dict[str, Any]]:
    raise InputError(f"{name}: only its classes are known, from the checkpoint; name a dataset with images")
