"""Visualizations of predictions during training: validation images, ground truth and predictions.

Images and visualizations are RGB arrays (H, W, 3) uint8. H W: size of an image.
"""

import logging
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.utils.events import EventStorage
from pycocotools import mask as mask_tools
from torch import nn

from segzoo.data import SegmentationMapper, load_image
from segzoo.modeling import as_segmentor
from segzoo.modeling.protocols import build_inference_protocol
from segzoo.utils.dataset_records import dataset_records
from segzoo.visualization.draw import (
    default_threshold,
    draw_entity,
    draw_instances,
    draw_panoptic,
    draw_result,
    draw_semantic,
)
from segzoo.visualization.panels import stack, strip

from .evaluation_loop import evaluation_mode, tested_model
from .model_description import classes_metadata

logger = logging.getLogger(__name__)

Mapper = Callable[[Mapping[str, Any]], dict[str, Any]]

# Height of a row in pixels; larger images are resized.
MAX_HEIGHT = 320


def put_visualizations(
    cfg: CfgNode, model: nn.Module, storage: EventStorage, mapper: Mapper | None = None
) -> None:
    """Put `prediction_visualizations` into the storage, for TensorBoard; errors are logged only."""
    try:
        for name, figure in prediction_visualizations(cfg, model, mapper):
            storage.put_image(f"predictions/{name}", figure.transpose(2, 0, 1))
    except Exception as error:
        logger.warning("TEST.NUM_PICTURES: no visualizations, %s: %s", type(error).__name__, error)
        logger.debug("Traceback:", exc_info=True)


def prediction_visualizations(
    cfg: CfgNode, model: nn.Module, mapper: Mapper | None = None
) -> Iterator[tuple[str, np.ndarray]]:
    """Yield visualizations of a model's predictions on TEST.NUM_PICTURES fixed images of the first test set.

    Args:
        mapper: from a dataset dict to the model's input; None: the standard one for evaluation.

    Yields:
        The name of the image, and a figure with a row for each of TEST.TASKS: image, ground truth (where the
        dataset has it) and prediction.
    """
    name = cfg.DATASETS.TEST[0]
    records = dataset_records(name)
    # Spread over the whole set: consecutive images are often frames of one video.
    indices = np.linspace(0, len(records) - 1, min(cfg.TEST.NUM_PICTURES, len(records)))
    mapper = mapper or SegmentationMapper(cfg, False)
    protocol = build_inference_protocol(cfg)
    # A center crop cannot be drawn on the whole image.
    cropped = protocol is not None and protocol.mode == "center_crop"
    tested = as_segmentor(model) if cropped else tested_model(cfg, model, name)
    for index in np.unique(indices.astype(int)):
        inputs = mapper(records[index])
        with evaluation_mode(tested), torch.no_grad():
            (result,) = tested([inputs], tasks=cfg.TEST.TASKS, semantic="labels")
        yield Path(inputs["file_name"]).stem, draw_row_per_task(cfg, name, inputs, result)


def draw_row_per_task(
    cfg: CfgNode, dataset_name: str, inputs: Mapping[str, Any], result: Mapping[str, Any]
) -> np.ndarray:
    """Return the figure of one image; `inputs`: its dataset dict with size; `result`: its predictions."""
    metadata = MetadataCatalog.get(dataset_name)
    image = load_image(inputs, configured=cfg.INPUT.IMAGE_RANGE)
    classes, colors = metadata.classes, metadata.colors
    rows = []
    for task in cfg.TEST.TASKS:
        panels, titles = [image], [Path(inputs["file_name"]).name]
        truth = draw_truth(image, inputs, task, metadata)
        if truth is not None:
            panels.append(truth)
            titles.append(f"{task}: ground truth")
        known = (classes, colors)
        if task == "instance":
            model, prefix = classes_metadata(cfg), "thing_" if cfg.TASK == "instance" else ""
            known = tuple(model.get(f"{prefix}{field}") for field in ("classes", "colors"))
        drawn_from = default_threshold(task)
        panels.append(draw_result(image, result, task, *known, confidence_threshold=drawn_from))
        titles.append(f"{task}: prediction")
        rows.append(strip(panels, titles, min(MAX_HEIGHT, image.shape[0])))
    return stack(rows)


def draw_truth(image: np.ndarray, inputs: Mapping[str, Any], task: str, metadata: Any) -> np.ndarray | None:
    """Return the ground truth of a task drawn on its image; None where the dataset has none."""
    if task == "semantic":
        if inputs["dataset"] in metadata.label_reader.dataset.without_labels:
            return None
        return draw_semantic(image, metadata.load_sem_seg(inputs), metadata.classes, metadata.colors)
    if task == "instance" and metadata.get("load_instances") is not None:
        return _draw_true_instances(image, metadata.load_instances(inputs), metadata.classes)
    if metadata.get("load_panoptic") is None:
        return None
    ids, segments = metadata.load_panoptic(inputs)
    if task == "instance":
        segments = [one for one in segments if metadata.isthing[one["category_id"]]]
    if task == "entity":
        return draw_entity(image, ids, [one for one in segments if not one["iscrowd"]])
    return draw_panoptic(image, ids, segments, metadata.classes, metadata.colors)


def _draw_true_instances(image: np.ndarray, instances: list[dict], classes: list[str]) -> np.ndarray:
    masks = [mask_tools.decode(one["segmentation"]).astype(bool) for one in instances]
    # The largest below, so that all are visible: higher scores are drawn on top.
    scores = [-int(mask.sum()) for mask in masks]
    stacked = np.stack(masks) if masks else np.zeros((0, *image.shape[:2]), bool)
    categories = [one["category_id"] for one in instances]
    return draw_instances(image, stacked, categories, scores, classes, names=False)
