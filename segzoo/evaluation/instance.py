"""Average precision of the masks and boxes of instances by COCO's rules (Lin et al., Microsoft COCO, sec. 6).

Shape shorthand: n predicted instances of an image, K classes, H W pixels.
"""

import json
import logging
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from pycocotools import mask as mask_tools

from segzoo.utils.errors import InputError
from segzoo.utils.files import write_text
from segzoo.utils.lazy_masks import LazyMasks, is_on_device, stored_masks

from . import prediction_io
from .average_precision import summarize
from .base import class_table, to_numpy
from .boxes import mask_boxes, predicted_boxes
from .coco_engine import evaluate_boxes, evaluate_masks, installed_engine
from .entity import image_order
from .instance_base import InstanceTaskEvaluator, Prediction, check_mask_size, cpu_masks
from .mask_runs import MaskRuns, find_runs
from .options import ALWAYS, BOX_AP, NEVER, PREDICTED, EvaluationOptions
from .results import ENGINE
from .rle import encode_rle

logger = logging.getLogger(__name__)


class InstanceRecord(NamedTuple):
    """Record of one image: COCOeval's dicts with RLE masks, without `image_id`.

    boxes: (n, 4) float64 x, y, width, height of the detections; None if they are the boxes of the masks.
    """

    image_id: int | str
    size: tuple[int, int]
    truths: list[dict]
    detections: list[dict]
    boxes: np.ndarray | None = None


class InstanceEvaluator(InstanceTaskEvaluator):
    """Evaluator of instances by COCO's rules.

    Metrics are AP, AP50, AP75, APs, APm, APl, AR... and `AP-<class>` in percent, as COCOeval computes them
    with its default parameters: at most 100 instances per image. Crowds and predictions on them are ignored.

    The result has those of masks under "segm" and those of boxes, `pred_boxes`, under "bbox". By default the
    latter are reported for models that predict boxes: unless the boxes of all images are those of their
    masks, or zeros. Detectron2's COCOEvaluator reports both for every model, but Mask2Former fills its boxes
    with zeros, so that its box AP is 0; segzoo's mask classification models return the boxes of their masks.

    Ground truth is the dataset's COCO JSON of instances or, for a panoptic dataset, its segments of thing
    classes, with mask areas. True boxes are those of the JSON, as COCOeval reads them; without a usable one,
    and for a panoptic dataset, they are those of the masks. As in COCOeval the size of a true instance is its
    `area`, that of a predicted one the area of its mask or box. Masks are encoded as RLE image by image, and
    masks that are drawn on demand group by group, so that they are never all in memory at full size. The runs
    of masks on a GPU are found there, and only they are copied.

    `save_predictions` writes `coco_instances_results.json` in COCO's results format, with the dataset's own
    category ids; `bbox` is the predicted box, or else that of the mask.

    Args:
        box_ap: whether box AP is reported: "predicted", as above; "always", with the boxes of masks for
            instances without `pred_boxes`; or "never".
        engine: "pycocotools", "faster_coco_eval" or "hotcoco", which give the same numbers (see
            `coco_engine`); None for the fastest one that is installed. The protocol has its name.

    See `InstanceTaskEvaluator` for the remaining arguments.
    """

    saved_as = f"{prediction_io.INSTANCE_NAME}.json"
    title = "Instance AP"
    rules = "COCO"
    #: The key of box AP; None in an evaluator of masks only.
    box_key: str | None = "bbox"
    other_keys: tuple[str, ...] = ("bbox",)
    #: Whether `ious` replaces the IoUs of masks, which not every engine can evaluate.
    replaces_ious = False

    def __init__(
        self,
        dataset_name: str,
        output_dir: str | Path | None = None,
        *,
        engine: str | None = None,
        box_ap: str = PREDICTED,
        **options,
    ):
        super().__init__(dataset_name, output_dir, **options)
        self.engine = engine or installed_engine(self.replaces_ious)
        if box_ap not in BOX_AP:
            raise InputError(f"box_ap {box_ap!r}: expected one of {', '.join(BOX_AP)}")
        self.box_ap = box_ap
        if box_ap == NEVER:
            self.box_key, self.other_keys = None, ()

    @classmethod
    def from_options(cls, options: EvaluationOptions) -> dict[str, Any]:
        return {**super().from_options(options), "box_ap": options.box_ap}

    def protocol(self) -> Mapping[str, Any]:
        return {**super().protocol(), ENGINE: self.engine}

    def take_masks(self, instances: Any) -> np.ndarray | LazyMasks | MaskRuns:
        # A subclass that scores by itself reads masks.
        own = type(self).score is not InstanceEvaluator.score
        return super().take_masks(instances) if own else runs_or_masks(instances)

    def take(self, output: dict, file_name: str) -> Prediction:
        prediction = super().take(output, file_name)
        if self.box_key is None and not self.save_predictions:
            return prediction
        return prediction._replace(boxes=predicted_boxes(output["instances"], file_name))

    def score(self, dataset_dict: dict, prediction: Prediction) -> InstanceRecord:
        truths, size = self.ground_truth(dataset_dict)
        check_mask_size(prediction.masks, size, dataset_dict["file_name"])
        return instance_record(dataset_dict["image_id"], size, truths, prediction)

    def summarize(self, merged: list[InstanceRecord]) -> dict:
        # COCOeval orders the images by ascending id; equal scores keep that order.
        records = sorted(merged, key=image_order)
        if self.save_predictions:
            document = [entry for record in records for entry in self._results(record)]
            write_text(self.folder / self.saved_as, json.dumps(document))
        truths = _numbered(record.truths for record in records)
        detections = _numbered(record.detections for record in records)
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
            truths, detections, [record.size for record in records], self.things.tolist(), self.engine, ious
        )
        return self._metrics(self.title, self.precision, self.recall)

    def metrics_by_key(self, merged: list[InstanceRecord]) -> dict[str, dict]:
        metrics = super().metrics_by_key(merged)
        if self.box_key is not None and (self.box_ap == ALWAYS or any(map(predicts_boxes, merged))):
            metrics[self.box_key] = self.summarize_boxes(merged)
        return metrics

    def summarize_boxes(self, merged: list[InstanceRecord]) -> dict:
        """Compute the metrics of boxes as `summarize` computes those of masks, and log them."""
        records = sorted(merged, key=image_order)
        truths, detections = _numbered(map(_true_boxes, records)), _numbered(map(_detected_boxes, records))
        self.box_precision, self.box_recall = evaluate_boxes(
            truths, detections, [record.size for record in records], self.things.tolist(), self.engine
        )
        return self._metrics("Box AP", self.box_precision, self.box_recall)

    def _metrics(self, title: str, precision: np.ndarray, recall: np.ndarray) -> dict:
        """Return the metrics of all classes together and the AP of each, and log the latter."""
        names = [self.class_names[category] for category in self.things]
        per_class = [summarize(precision[:, :, index], recall[:, index])["AP"] for index in range(len(names))]
        table = class_table(names, ["AP"], [[value] for value in per_class])
        logger.info(
            f"{title} on {self.dataset_name}, {self.image_count} images, by {self.engine}, per class:"
            f"\n{table}"
        )
        metrics = summarize(precision, recall)
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
        boxes = _mask_boxes(record.detections) if record.boxes is None else record.boxes
        return [
            {
                "image_id": record.image_id,
                "category_id": int(dataset_ids[entry["category_id"]]),
                "bbox": box,
                "score": entry["score"],
                "segmentation": entry["segmentation"],
            }
            for entry, box in zip(record.detections, boxes.tolist(), strict=True)
        ]


def instance_record(
    image_id: int | str, size: tuple[int, int], truths: list[dict], prediction: Prediction
) -> InstanceRecord:
    """Return the record of an image with the predicted masks as RLE."""
    detections = [
        {"category_id": category, "score": value, "segmentation": encode_mask(mask)}
        for mask, value, category in prediction.rows()
    ]
    boxes = prediction.boxes
    if boxes is not None and np.array_equal(boxes, _mask_boxes(detections)):
        boxes = None
    return InstanceRecord(image_id, size, truths, detections, boxes)


def _numbered(images: Iterable[list[dict]]) -> list[dict]:
    """Return the dicts of all images with `image_id`, the number of the image from 1."""
    return [{**entry, "image_id": number} for number, entries in enumerate(images, 1) for entry in entries]


def predicts_boxes(record: InstanceRecord) -> bool:
    """Return whether the boxes of an image are neither those of the masks nor zeros."""
    return record.boxes is not None and bool(record.boxes.any())


def _mask_boxes(instances: list[dict]) -> np.ndarray:
    """Return the boxes of COCOeval's dicts with RLE masks; see `mask_boxes`."""
    return mask_boxes([one["segmentation"] for one in instances])


def _detected_boxes(record: InstanceRecord) -> list[dict]:
    """Return an image's detections for `evaluate_boxes`."""
    boxes = _mask_boxes(record.detections) if record.boxes is None else record.boxes
    return [
        {"category_id": one["category_id"], "score": one["score"], "bbox": box}
        for one, box in zip(record.detections, boxes.tolist(), strict=True)
    ]


def _true_boxes(record: InstanceRecord) -> list[dict]:
    """Return an image's true instances for `evaluate_boxes`."""
    measured = iter(_mask_boxes([one for one in record.truths if "bbox" not in one]).tolist())
    return [
        {key: one[key] for key in ("category_id", "iscrowd", "area")}
        | {"bbox": one["bbox"] if "bbox" in one else next(measured)}
        for one in record.truths
    ]


def runs_or_masks(instances: Any) -> np.ndarray | LazyMasks | MaskRuns:
    """Return the masks of predicted instances for `instance_record`.

    Those of an image are a hundred megabytes at full size: runs leave a GPU. On a CPU they are not found
    here, but by the scoring threads.
    """
    masks = stored_masks(instances)
    return find_runs(masks) if is_on_device(masks) else cpu_masks(instances)


def encode_mask(mask: np.ndarray | torch.Tensor | dict) -> dict:
    """Encode an (H, W) mask, bool or numbers other than 0, as RLE {"size": [H, W], "counts": str}.

    An RLE is returned as it is.
    """
    if isinstance(mask, dict):
        return mask
    return encode_rle(to_numpy(mask).astype(bool, copy=False))


def _json_rle(rle: dict) -> dict:
    """Return an RLE with JSON types."""
    counts = rle["counts"]
    text = counts.decode("ascii") if isinstance(counts, bytes) else counts
    return {"size": [int(side) for side in rle["size"]], "counts": text}
