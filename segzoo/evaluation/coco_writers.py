"""Write predictions for images without ground truth in the formats of COCO's evaluation server."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from segzoo.utils.errors import InputError
from segzoo.utils.files import write_text
from segzoo.utils.lazy_masks import LazyMasks

from . import prediction_io
from .cityscapes_instance import COCO_INSTANCES
from .entity import image_order
from .histogram import argmax_labels
from .instance import (
    InstanceEvaluator,
    InstanceRecord,
    encode_mask,
    instance_record,
    predicts_boxes,
    runs_or_masks,
)
from .instance_base import Prediction, check_mask_size
from .mask_runs import MaskRuns
from .panoptic import ImageQuality, PanopticEvaluator
from .prediction_writer import PredictionWriter
from .segments import SegmentMap, image_entry
from .unscored import warn_unscored

#: The category of COCO's stuff task that stands for all things.
OTHER = 183


class PanopticWriter(PanopticEvaluator):
    """Evaluator of a panoptic split without labels that writes its predictions and scores nothing.

    `predictions/<name>.png` and `predictions.json` are those of `PanopticEvaluator`, saved if there is an
    `output_dir`, whatever `save_predictions` is. The only "metric" is the number of images.
    """

    task_key = "panoptic_predictions"

    @classmethod
    def writes(cls, submission: str) -> bool:
        return submission == "panoptic"

    def __init__(self, dataset_name: str, output_dir: str | Path | None = None, **options):
        super().__init__(dataset_name, output_dir, **{**options, "save_predictions": output_dir is not None})
        if output_dir is not None:
            warn_unscored(dataset_name, self.folder / f"{prediction_io.PANOPTIC_NAME}.json")

    def score(self, dataset_dict: dict, prediction: SegmentMap) -> ImageQuality:
        quality = ImageQuality()
        if self.save_predictions:
            png = f"{self.prediction_names[dataset_dict['file_name']]}.png"
            prediction_io.save_ids(self.folder / prediction_io.PANOPTIC_NAME / png, prediction.ids)
            entry = image_entry(dataset_dict, png, self._dataset_segments(prediction.segments))
            quality.annotation = {**entry, "image_id": coco_id(dataset_dict)}
        return quality

    def summarize(self, merged: list[ImageQuality]) -> dict:
        if self.save_predictions:
            annotations = [quality.annotation for quality in merged]
            document = {"annotations": annotations, "categories": self._categories()}
            write_text(self.folder / f"{prediction_io.PANOPTIC_NAME}.json", json.dumps(document))
        return {"images": self.image_count}


class ResultsWriter(InstanceEvaluator):
    """Evaluator of a COCO split without labels that writes its instances and scores nothing.

    `coco_instances_results.json` is saved if there is an `output_dir`, whatever `save_predictions` is. It has
    boxes only where the model predicts them, since COCO's tools take the area of an instance with a box from
    the box. The only "metric" is the number of images.
    """

    task_key = "instance_predictions"
    box_key, other_keys = None, ()

    @classmethod
    def writes(cls, submission: str) -> bool:
        return submission in COCO_INSTANCES

    def __init__(self, dataset_name: str, output_dir: str | Path | None = None, **options):
        super().__init__(dataset_name, output_dir, **{**options, "save_predictions": output_dir is not None})
        if output_dir is not None:
            warn_unscored(dataset_name, self.folder / self.saved_as)

    def protocol(self) -> Mapping[str, Any]:
        return {}

    def take_masks(self, instances: Any) -> np.ndarray | LazyMasks | MaskRuns:
        return runs_or_masks(instances)

    def score(self, dataset_dict: dict, prediction: Prediction) -> InstanceRecord:
        height, width = dataset_dict.get("height"), dataset_dict.get("width")
        if height is not None and width is not None:
            check_mask_size(prediction.masks, (height, width), dataset_dict["file_name"])
        # Only a score needs the size.
        return instance_record(coco_id(dataset_dict), (0, 0), [], prediction)

    def summarize(self, merged: list[InstanceRecord]) -> dict:
        if self.save_predictions:
            records = sorted(merged, key=image_order)
            document = []
            for record in records:
                left_out = () if predicts_boxes(record) else ("bbox",)
                for entry in self._results(record):
                    document.append({key: entry[key] for key in entry if key not in left_out})
            write_text(self.folder / self.saved_as, json.dumps(document))
        return {"images": self.image_count}


class StuffWriter(PredictionWriter):
    """Evaluator of a split of COCO-Stuff without labels that writes its predictions and scores nothing.

    `coco_stuff_results.json` lists a mask for each class of an image, in the format of COCO's stuff task
    (github.com/nightrome/cocostuffapi), where 183 stands for all things. Beside it are the PNGs of
    `PredictionWriter`, which tell things apart.
    """

    @classmethod
    def writes(cls, submission: str) -> bool:
        return submission == "coco_stuff"

    def __init__(self, dataset_name: str, output_dir: str | Path | None = None, **options):
        super().__init__(dataset_name, output_dir, **options)
        self.categories = np.where(self.metadata.isthing, OTHER, self.metadata.contiguous_id_to_dataset_id)
        if output_dir is not None:
            warn_unscored(dataset_name, self.folder / f"{prediction_io.STUFF_NAME}.json")

    def score(self, dataset_dict: dict, prediction: np.ndarray | torch.Tensor) -> tuple[np.ndarray, list]:
        labels = argmax_labels(prediction) if isinstance(prediction, torch.Tensor) else prediction
        table, _ = super().score(dataset_dict, labels)
        if not self.save_predictions:
            return table, []
        ids = self.categories[labels]
        image_id = coco_id(dataset_dict)
        return table, [
            {"image_id": image_id, "category_id": int(category), "segmentation": encode_mask(ids == category)}
            for category in np.unique(ids)
        ]

    def summarize(self, merged: tuple[np.ndarray, list]) -> dict:
        if self.save_predictions:
            # Scoring threads and ranks have no order.
            document = sorted(merged[1], key=lambda entry: (entry["image_id"], entry["category_id"]))
            write_text(self.folder / f"{prediction_io.STUFF_NAME}.json", json.dumps(document))
        return super().summarize(merged)


def coco_id(dataset_dict: dict) -> int:
    """Return COCO's id of an image, which its file is named by.

    Raises:
        InputError: the image has another name.
    """
    image_id = dataset_dict["image_id"]
    try:
        return int(image_id)
    except ValueError:
        raise InputError(
            f"{dataset_dict['file_name']}: has the id {image_id!r}, but COCO's server expects numbers; name "
            "images as COCO does, 000000000139.jpg"
        ) from None
