"""Average precision of instance masks (Lin et al., Microsoft COCO, section 6; the rules of cocodataset.org).

Shape shorthand: n predicted instances of an image, K classes, H W pixels.
"""

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from pycocotools import mask as mask_tools

from segzoo.utils.files import write_text

from . import prediction_io
from .average_precision import summarize
from .base import class_table, to_numpy
from .coco_engine import evaluate_masks, installed_engine
from .entity import image_order
from .instance_base import InstanceTaskEvaluator, Prediction, check_mask_size
from .rle import encode_rle

logger = logging.getLogger(__name__)


class InstanceRecord(NamedTuple):
    """Record of one image: COCOeval's dicts with RLE masks, without `image_id`."""

    image_id: int | str
    size: tuple[int, int]
    truths: list[dict]
    detections: list[dict]


class InstanceEvaluator(InstanceTaskEvaluator):
    """Evaluator of instances by COCO's rules.

    Metrics are AP, AP50, AP75, APs, APm, APl, AR... and `AP-<class>` in percent, as COCOeval computes them
    with its default parameters: at most 100 instances per image. Crowds and predictions on them are ignored.

    Ground truth is the dataset's COCO JSON of instances or, for a panoptic dataset, its segments of thing
    classes, with mask areas. Masks are encoded as RLE image by image.

    `save_predictions` writes `coco_instances_results.json` in COCO's results format, with the dataset's own
    category ids.

    Args:
        engine: "pycocotools" or "faster_coco_eval", which give the same numbers (see `coco_engine`); None for
            the faster one that is installed.

    See `InstanceTaskEvaluator` for the remaining arguments.
    """

    saved_as = f"{prediction_io.INSTANCE_NAME}.json"
    title = "Instance AP"
    rules = "COCO"

    def __init__(
        self,
        dataset_name: str,
        output_dir: str | Path | None = None,
        *,
        engine: str | None = None,
        **options,
    ):
        super().__init__(dataset_name, output_dir, **options)
        self.engine = engine or installed_engine()

    def score(self, dataset_dict: dict, prediction: Prediction) -> InstanceRecord:
        truths, size = self.ground_truth(dataset_dict)
        check_mask_size(prediction.masks, size, dataset_dict["file_name"])
        detections = [
            {"category_id": int(category), "score": float(value), "segmentation": encode_mask(mask)}
            for mask, value, category in zip(*prediction, strict=True)
        ]
        return InstanceRecord(dataset_dict["image_id"], size, truths, detections)

    def summarize(self, merged: list[InstanceRecord]) -> dict:
        # COCOeval orders the images by ascending id; equal scores keep that order.
        records = sorted(merged, key=image_order)
        if self.save_predictions:
            document = [entry for record in records for entry in self._results(record)]
            write_text(self.folder / self.saved_as, json.dumps(document))
        truths, detections = (
            [
                {**entry, "image_id": number}
                for number, record in enumerate(records, 1)
                for entry in getattr(record, field)
            ]
            for field in ("truths", "detections")
        )
        categories = [int(category) for category in self.things]
        if not detections:
            logger.warning("%s: no instance was predicted in any image", self.dataset_name)
        if all(truth["iscrowd"] for truth in truths):
            reason = f"all of its {len(truths)} instances are crowds" if truths else "it has no instance"
            logger.warning(
                "%s: %s, so there is no AP, which ignores crowds; give single objects iscrowd 0 in its JSON",
                self.dataset_name,
                reason,
            )
        ious = self.ious(records)
        self.precision, self.recall = evaluate_masks(
            truths, detections, [record.size for record in records], categories, self.engine, ious
        )
        metrics = summarize(self.precision, self.recall)
        per_class = [
            summarize(self.precision[:, :, index], self.recall[:, index])["AP"]
            for index in range(len(categories))
        ]
        names = [self.class_names[category] for category in categories]
        table = class_table(names, ["AP"], [[value] for value in per_class])
        logger.info(
            f"{self.title} on {self.dataset_name}, {self.image_count} images, by {self.engine}, per class:"
            f"\n{table}"
        )
        return {**metrics, **{f"AP-{name}": value for name, value in zip(names, per_class, strict=True)}}

    def ious(self, records: list[InstanceRecord]) -> Mapping[tuple[int, int], np.ndarray] | None:
        """Return the IoUs that replace those of the masks (see `evaluate_masks`); None for mask IoUs."""
        return None

    def ground_truth(self, dataset_dict: dict) -> tuple[list[dict], tuple[int, int]]:
        """Return the image's true instances as COCOeval's dicts, and its (height, width)."""
        load_instances = self.metadata.get("load_instances")
        if load_instances is not None:
            size = dataset_dict["height"], dataset_dict["width"]
            return [
                {**one, "segmentation": _json_rle(one["segmentation"])}
                for one in load_instances(dataset_dict)
            ], size
        ids, segments = self.metadata.load_panoptic(dataset_dict)
        truths = []
        for segment in segments:
            if not self.metadata.isthing[segment["category_id"]]:
                continue
            rle = encode_mask(ids == segment["id"])
            fields = {"category_id": int(segment["category_id"]), "iscrowd": int(segment["iscrowd"])}
            truths.append({**fields, "area": float(mask_tools.area(rle)), "segmentation": rle})
        return truths, ids.shape

    def _results(self, record: InstanceRecord) -> list[dict]:
        """Return the image's predictions in COCO's results format."""
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
    """Encode an (H, W) mask, bool or numbers other than 0, as RLE {"size": [H, W], "counts": str}."""
    return encode_rle(to_numpy(mask).astype(bool, copy=False))


def _json_rle(rle: dict) -> dict:
    """Return an RLE with JSON types."""
    counts = rle["counts"]
    text = counts.decode("ascii") if isinstance(counts, bytes) else counts
    return {"size": [int(side) for side in rle["size"]], "counts": text}
