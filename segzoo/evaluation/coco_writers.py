"""Write predictions for images without ground truth in the formats of COCO's evaluation server."""

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from segzoo.utils.files import write_text

from . import prediction_io
from .entity import image_order
from .instance import InstanceEvaluator, InstanceRecord, instance_record
from .instance_base import Prediction, check_mask_size
from .panoptic import ImageQuality, PanopticEvaluator
from .segments import SegmentMap, image_entry

logger = logging.getLogger(__name__)


class PanopticWriter(PanopticEvaluator):
    """Evaluator of a panoptic split without labels that writes its predictions and scores nothing.

    `predictions/<name>.png` and `predictions.json` are those of `PanopticEvaluator`, saved if there is an
    `output_dir`, whatever `save_predictions` is. The only "metric" is the number of images.
    """

    task_key = "panoptic_predictions"
    #: The datasets, by the type of their labels, that this writer is for.
    labels_types = ("panoptic",)

    def __init__(self, dataset_name: str, output_dir: str | Path | None = None, **options):
        super().__init__(dataset_name, output_dir, **{**options, "save_predictions": output_dir is not None})
        if output_dir is not None:
            _say(dataset_name, self.folder / f"{prediction_io.PANOPTIC_NAME}.json")

    def score(self, dataset_dict: dict, prediction: SegmentMap) -> ImageQuality:
        quality = ImageQuality()
        if self.save_predictions:
            png = f"{self.prediction_names[dataset_dict['file_name']]}.png"
            prediction_io.save_ids(self.folder / prediction_io.PANOPTIC_NAME / png, prediction.ids)
            quality.annotation = image_entry(dataset_dict, png, self._dataset_segments(prediction.segments))
        return quality

    def summarize(self, merged: list[ImageQuality]) -> dict:
        if self.save_predictions:
            annotations = [quality.annotation for quality in merged]
            document = {"annotations": annotations, "categories": self._categories()}
            write_text(self.folder / f"{prediction_io.PANOPTIC_NAME}.json", json.dumps(document))
        return {"images": self.image_count}


class ResultsWriter(InstanceEvaluator):
    """Evaluator of a COCO split without labels that writes its instances and scores nothing.

    `coco_instances_results.json` is that of `InstanceEvaluator`, saved if there is an `output_dir`, whatever
    `save_predictions` is. The only "metric" is the number of images.
    """

    task_key = "instance_predictions"
    box_key, other_keys = None, ()
    labels_types = ("coco_instances", "panoptic")

    def __init__(self, dataset_name: str, output_dir: str | Path | None = None, **options):
        super().__init__(dataset_name, output_dir, **{**options, "save_predictions": output_dir is not None})
        if output_dir is not None:
            _say(dataset_name, self.folder / self.saved_as)

    def protocol(self) -> Mapping[str, Any]:
        return {}

    def score(self, dataset_dict: dict, prediction: Prediction) -> InstanceRecord:
        height, width = dataset_dict.get("height"), dataset_dict.get("width")
        if height is not None and width is not None:
            check_mask_size(prediction.masks, (height, width), dataset_dict["file_name"])
        # Only a score needs the size.
        return instance_record(dataset_dict["image_id"], (0, 0), [], prediction)

    def summarize(self, merged: list[InstanceRecord]) -> dict:
        if self.save_predictions:
            records = sorted(merged, key=image_order)
            document = [entry for record in records for entry in self._results(record)]
            write_text(self.folder / self.saved_as, json.dumps(document))
        return {"images": self.image_count}


def _say(dataset_name: str, path: Path) -> None:
    logger.warning(
        "%s has no ground truth: its predictions are written to %s and not scored", dataset_name, path
    )
