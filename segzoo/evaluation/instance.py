"""Average precision of instance masks (Lin et al., Microsoft COCO, section 6; the rules of cocodataset.org).

Letters: n predicted instances of an image, K classes, H W pixels.
"""

import json
import logging
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from pycocotools import mask as mask_tools

from ..errors import InputError
from . import files
from .average_precision import summarize
from .base import BackgroundEvaluator, to_numpy
from .class_table import class_table
from .coco_engine import evaluate_masks, installed_engine
from .entity import image_order

logger = logging.getLogger(__name__)

_FIELDS = ("pred_masks", "scores", "pred_classes")


class Prediction(NamedTuple):
    """masks: (n, H, W) bool; scores: (n,) float64; classes: (n,) int64 indices of the dataset's classes."""

    masks: np.ndarray
    scores: np.ndarray
    classes: np.ndarray


class InstanceRecord(NamedTuple):
    """One image: dicts as COCOeval takes them, with run lengths for masks, still without `image_id`."""

    image_id: int | str
    size: tuple[int, int]
    truths: list[dict]
    detections: list[dict]


class InstanceEvaluator(BackgroundEvaluator):
    """Scores `instances`, Detectron2's Instances with `pred_masks` (n, H, W), `scores` and `pred_classes`.

    AP, AP50, AP75, APs, APm, APl, AR... and `AP-<class>` in percent, as COCOeval computes them with its own
    parameters: at most 100 instances an image. Crowds are neither missed nor, where predicted, wrong.

    Ground truth is the dataset's COCO JSON of instances or, of a panoptic dataset, its segments of thing
    classes; then areas are mask areas. Masks are turned into run lengths image by image.

    `save_predictions` writes `coco_instances_results.json` in COCO's results format, with the dataset's own
    category ids.

    Args:
        As BackgroundEvaluator.
        things_only: whether `pred_classes` counts the thing classes only, or all classes.
        engine: "pycocotools" or "faster_coco_eval", which give the same numbers (see `coco_engine`); None:
            the faster one that is installed.
    """

    task_key = "segm"

    def __init__(
        self,
        dataset_name: str,
        output_dir: str | Path | None = None,
        *,
        things_only: bool = True,
        engine: str | None = None,
        **options,
    ):
        super().__init__(dataset_name, output_dir, **options)
        self.things = np.flatnonzero(self.metadata.isthing)
        self.predicted_classes = self.things if things_only else np.arange(len(self.class_names))
        self.engine = engine or installed_engine()
        if not len(self.things):
            raise InputError(
                f"TEST.TASKS: {dataset_name} has no thing classes, so no instances; mark classes with "
                "isthing: true in its YAML file, or leave the task instance out"
            )

    def take(self, output: dict, file_name: str) -> Prediction:
        if "instances" not in output:
            raise InputError(
                f"{file_name}: the model returned {', '.join(output) or 'nothing'}, expected instances; "
                "add the task instance to TEST.TASKS"
            )
        instances = output["instances"]
        missing = [field for field in _FIELDS if not instances.has(field)]
        if missing:
            raise InputError(f"{file_name}: the predicted instances lack {missing[0]}")
        masks, scores, classes = (to_numpy(instances.get(field)) for field in _FIELDS)
        if masks.ndim != 3 or len(masks) != len(scores) or len(scores) != len(classes):
            raise InputError(
                f"{file_name}: pred_masks {masks.shape}, scores {scores.shape} and pred_classes "
                f"{classes.shape} do not fit; expected (n, H, W), (n,) and (n,)"
            )
        if not np.isfinite(scores).all():
            raise InputError(f"{file_name}: an instance has the score {scores[~np.isfinite(scores)][0]}")
        number = len(self.predicted_classes)
        wrong = classes[(classes < 0) | (classes >= number)]
        if len(wrong):
            raise InputError(
                f"{file_name}: an instance has the class {wrong[0]}, expected one of [0, {number})"
            )
        return Prediction(masks, scores.astype(np.float64), self.predicted_classes[classes.astype(np.int64)])

    def score(self, dataset_dict: dict, prediction: Prediction) -> InstanceRecord:
        truths, size = self._ground_truth(dataset_dict)
        if prediction.masks.shape[1:] != size:
            raise InputError(
                f"{dataset_dict['file_name']}: the predicted masks are {_size(prediction.masks.shape[1:])} "
                f"but the image is {_size(size)} (height x width); predictions must have the size of the "
                "original image"
            )
        detections = [
            {"category_id": int(category), "score": float(value), "segmentation": encode_mask(mask)}
            for mask, value, category in zip(*prediction, strict=True)
        ]
        return InstanceRecord(dataset_dict["image_id"], size, truths, detections)

    def summarize(self, merged: list[InstanceRecord]) -> dict:
        # COCOeval goes through the images by ascending id; equal scores keep that order.
        records = sorted(merged, key=image_order)
        if self.save_predictions:
            document = [entry for record in records for entry in self._results(record)]
            files.write_text_atomically(self.output_dir / f"{files.INSTANCE_NAME}.json", json.dumps(document))
        truths, detections = (
            [
                {**entry, "image_id": number}
                for number, record in enumerate(records, 1)
                for entry in getattr(record, kind)
            ]
            for kind in ("truths", "detections")
        )
        categories = [int(category) for category in self.things]
        if not detections:
            logger.warning("%s: no instance was predicted in any image", self.dataset_name)
        self.precision, self.recall = evaluate_masks(
            truths, detections, [record.size for record in records], categories, self.engine
        )
        metrics = summarize(self.precision, self.recall)
        per_class = [
            summarize(self.precision[:, :, index], self.recall[:, index])["AP"]
            for index in range(len(categories))
        ]
        names = [self.class_names[category] for category in categories]
        table = class_table(names, ["AP"], [[value] for value in per_class])
        logger.info(
            f"Instance AP on {self.dataset_name}, {self.image_count} images, by {self.engine}, per class:"
            f"\n{table}"
        )
        return {**metrics, **{f"AP-{name}": value for name, value in zip(names, per_class, strict=True)}}

    def _ground_truth(self, dataset_dict: dict) -> tuple[list[dict], tuple[int, int]]:
        """The image's true instances as COCOeval takes them, and its (height, width)."""
        load_instances = self.metadata.get("load_instances")
        if load_instances is not None:
            size = dataset_dict["height"], dataset_dict["width"]
            return [
                {**one, "segmentation": _as_text(one["segmentation"])} for one in load_instances(dataset_dict)
            ], size
        ids, segments = self.metadata.load_panoptic(dataset_dict)
        truths = []
        for segment in segments:
            if not self.metadata.isthing[segment["category_id"]]:
                continue
            code = encode_mask(ids == segment["id"])
            facts = {"category_id": int(segment["category_id"]), "iscrowd": int(segment["iscrowd"])}
            truths.append({**facts, "area": float(mask_tools.area(code)), "segmentation": code})
        return truths, ids.shape

    def _results(self, record: InstanceRecord) -> list[dict]:
        """The image's predictions in COCO's results format."""
        dataset_ids = self.metadata.contiguous_id_to_dataset_id
        return [
            {
                "image_id": record.image_id,
                "category_id": int(dataset_ids[entry["category_id"]]),
                "bbox": mask_tools.toBbox(entry["segmentation"]).tolist(),
                "score": entry["score"],
                "segmentation": entry["segmentation"],
            }
            for entry in record.detections
        ]


def encode_mask(mask: np.ndarray | torch.Tensor) -> dict:
    """(H, W) bool or numbers, of which all but 0 are inside, to {"size": [H, W], "counts": text}."""
    return _as_text(mask_tools.encode(np.asfortranarray(to_numpy(mask) != 0, dtype=np.uint8)))


def _as_text(code: dict) -> dict:
    """Run lengths as JSON can hold them."""
    counts = code["counts"]
    text = counts.decode("ascii") if isinstance(counts, bytes) else counts
    return {"size": [int(side) for side in code["size"]], "counts": text}


def _size(shape: tuple[int, ...]) -> str:
    return " x ".join(str(side) for side in shape)
