"""The description in a checkpoint: enough to run its model anywhere, without the run that wrote it."""

from collections.abc import Mapping
from typing import Any

from detectron2.config import CfgNode
from detectron2.data import Metadata, MetadataCatalog

import segzoo
from segzoo.config.load import new_config
from segzoo.data.class_metadata import DATASET_METADATA
from segzoo.utils.dataset_names import classes_dataset
from segzoo.utils.errors import InputError

from .saved_config import config_in_checkpoint


def describe_checkpoint(cfg: CfgNode, metadata: Metadata) -> dict[str, Any]:
    """Return the entry "segzoo" of a checkpoint: `describe`, the dataset's metadata, and the configuration.

    Args:
        metadata: metadata of the dataset whose classes the model predicts; see `segzoo.data`.

    Returns:
        Strings, numbers, lists and dicts only.
    """
    fields = {key: plain(metadata.get(key)) for key in DATASET_METADATA if metadata.get(key) is not None}
    return {**describe(cfg, metadata), **fields, "config": config_in_checkpoint(cfg, new_config())}


def take_trained_range(cfg: CfgNode, description: Mapping[str, Any] | None) -> None:
    """Set an empty INPUT.IMAGE_RANGE to the one in a checkpoint's description, if any."""
    trained = (description or {}).get("image_range", ())
    if trained and not cfg.INPUT.IMAGE_RANGE:
        cfg.defrost()
        cfg.INPUT.IMAGE_RANGE = tuple(trained)
        cfg.freeze()


def describe(cfg: CfgNode, metadata: Metadata) -> dict[str, Any]:
    """Return what prediction needs beside the weights, as a checkpoint stores it under the key "segzoo".

    Args:
        metadata: metadata of the dataset whose classes the model predicts; see `segzoo.data`.

    Returns:
        Strings, numbers, lists and dicts only: version, task, dataset, classes, colors, isthing,
        ignore_label, label_map, image_format, image_range, pixel_mean, pixel_std.
    """
    return {
        "version": segzoo.__version__,
        "task": cfg.TASK,
        "dataset": metadata.get("described_as") or metadata.get("name", ""),
        "classes": plain(metadata.get("classes", [])),
        "colors": plain(metadata.get("colors", [])),
        "isthing": plain(metadata.get("isthing", [])),
        "ignore_label": int(metadata.get("ignore_label", cfg.MODEL.SEM_SEG_HEAD.IGNORE_VALUE)),
        "label_map": plain(metadata.get("label_map", {})),
        "image_format": cfg.INPUT.FORMAT,
        "image_range": plain(cfg.INPUT.IMAGE_RANGE),
        "pixel_mean": [float(value) for value in cfg.MODEL.PIXEL_MEAN],
        "pixel_std": [float(value) for value in cfg.MODEL.PIXEL_STD],
    }


def classes_metadata(cfg: CfgNode) -> Metadata:
    """Return the metadata of the dataset whose classes the model predicts.

    Raises:
        InputError: no dataset is configured.
    """
    name = classes_dataset(cfg)
    if not name:
        raise InputError(
            "DATASETS: TRAIN, TEST and CLASSES_FROM are empty, so the classes are unknown; name a dataset"
        )
    return MetadataCatalog.get(name)


def plain(value: Any) -> Any:
    """Convert tuples to lists and numpy numbers to Python's, recursively."""
    if isinstance(value, dict):
        return {plain(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return value.item() if hasattr(value, "item") else value
