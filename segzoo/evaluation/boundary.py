"""Evaluators of Boundary IoU beside the standard ones: TEST.EVALUATORS ("boundary",).

Boundary AP and boundary PQ follow Cheng et al., "Boundary IoU: Improving Object-Centric Image Segmentation
Evaluation", CVPR 2021: they equal AP and PQ, but the IoU of a pair of masks is the minimum of mask IoU and
boundary IoU. For semantic maps there is no published definition; see `BoundarySemanticEvaluator`.

Shape shorthand: K classes, D detections and G true instances of an image, H W pixels.
"""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from pycocotools import mask as mask_tools

from segzoo.utils.errors import InputError

from .average_precision import DETECTION_LIMITS, ImageMatches
from .base import BackgroundEvaluator, class_table
from .boundaries import DILATION, boundary_width, map_boundaries, mask_boundary
from .cityscapes_ap import Matches, Regions
from .cityscapes_instance import CityscapesInstanceEvaluator
from .entity import EntityEvaluator, EntityRecord, entity_matches
from .histogram import label_dtype, label_histogram
from .instance import InstanceEvaluator, encode_mask
from .instance_base import Prediction, check_mask_size
from .options import EvaluationOptions
from .panoptic import ImageQuality, PanopticEvaluator, image_quality
from .segments import SegmentMap
from .semantic import SemanticEvaluator

logger = logging.getLogger(__name__)


class BoundaryEvaluator(BackgroundEvaluator):
    """Mixin that adds a boundary width and a title to an evaluator of masks.

    It writes no predictions, since the standard evaluators, which run beside it, do.

    Args:
        dilation: width of a boundary relative to the image's diagonal, in (0, 1); None for the dataset's
            (`boundary_dilation` in its YAML file), or 0.02.
        options: arguments of the evaluator of masks.
    """

    title = ""

    def __init__(
        self,
        dataset_name: str,
        output_dir: str | Path | None = None,
        *,
        dilation: float | None = None,
        **options: Any,
    ):
        super().__init__(dataset_name, output_dir, **options)
        if dilation is None:
            dilation = self.metadata.get("boundary_dilation") or DILATION
        if not 0 < dilation < 1:
            raise InputError(f"dilation {dilation}: expected a share of the diagonal above 0 and below 1")
        self.dilation = float(dilation)
        self.title = f"{type(self).title} ({100 * self.dilation:g} % of the diagonal)"

    @classmethod
    def from_options(cls, options: EvaluationOptions) -> dict[str, Any]:
        silent = {"save_predictions": False, "dilation": options.boundary_dilation}
        return {**super().from_options(options), **silent}

    def protocol(self) -> Mapping[str, Any]:
        return {**super().protocol(), "boundary_dilation": self.dilation}

    def width(self, size: tuple[int, ...]) -> int:
        """Return the width in pixels for an image of (height, width)."""
        return boundary_width(size, self.dilation)


class BoundaryPanopticEvaluator(BoundaryEvaluator, PanopticEvaluator):
    """Evaluator of boundary PQ, SQ and RQ of `panoptic_seg`, reported as by PanopticEvaluator.

    Void is excluded from the union of boundaries as from the union of masks; ignored predictions are
    determined by masks.
    """

    task_key = "boundary_panoptic_seg"
    title = "Boundary panoptic quality"

    def match(self, file_name: str, ground_truth: SegmentMap, prediction: SegmentMap) -> ImageQuality:
        return image_quality(file_name, ground_truth, prediction, self.width(ground_truth.ids.shape))


class BoundaryEntityEvaluator(BoundaryEvaluator, EntityEvaluator):
    """Evaluator of class-agnostic boundary AP of `entity_seg`, reported as by EntityEvaluator."""

    task_key = "boundary_entity_seg"
    title = "Boundary entity AP (class-agnostic)"

    def match(self, file_name: str, ground_truth: SegmentMap, entities: SegmentMap) -> ImageMatches:
        width = self.width(ground_truth.ids.shape)
        return entity_matches(file_name, ground_truth, entities, width, self.entity_area)

    def report_overlaps(self, records: list[EntityRecord]) -> None:
        """Do nothing: the standard evaluator, which runs beside this one, reports them."""


class BoundaryCityscapesEvaluator(BoundaryEvaluator, CityscapesInstanceEvaluator):
    """Evaluator of boundary AP of `instances` by Cityscapes' rules."""

    task_key = "boundary_segm"
    title = "Boundary instance AP"

    def match(self, prediction: Prediction, regions: Regions, boundary: int | None = None) -> Matches:
        return super().match(prediction, regions, self.width(regions.indices.shape))


class BoundaryRecord(NamedTuple):
    """Record of one image: COCOeval's dicts without masks, and {category: (D, G) IoUs of its pairs}."""

    image_id: int | str
    size: tuple[int, int]
    truths: list[dict]
    detections: list[dict]
    ious: dict[int, np.ndarray]


class BoundaryInstanceEvaluator(BoundaryEvaluator, InstanceEvaluator):
    """Evaluator of boundary AP of `instances` by COCO's rules, reported as by InstanceEvaluator.

    The sizes of APs, APm and APl are mask areas, and crowds are compared by masks. Records hold the IoUs of
    pairs and no masks.
    """

    task_key = "boundary_segm"
    title = "Boundary instance AP"
    box_key, other_keys = None, ()
    replaces_ious = True

    def score(  # type: ignore[override]  # the base class keeps masks
        self, dataset_dict: dict, prediction: Prediction
    ) -> BoundaryRecord:
        truths, size = self.ground_truth(dataset_dict)
        check_mask_size(prediction.masks, size, dataset_dict["file_name"])
        width, compared = self.width(size), {}
        for category in np.intersect1d(prediction.classes, [truth["category_id"] for truth in truths]):
            (chosen,) = np.nonzero(prediction.classes == category)
            order = np.argsort(-prediction.scores[chosen], kind="stable")[: DETECTION_LIMITS[-1]]
            compared[int(category)] = chosen[order].tolist()
        with_iou = {index for indices in compared.values() for index in indices}
        detections: list[dict] = []
        encoded = {}
        for index, (mask, value, category) in enumerate(prediction.rows()):
            area = float(np.count_nonzero(mask))
            detections.append({"category_id": category, "score": value, "area": area})
            if index in with_iou:
                encoded[index] = encode_mask(mask), encode_mask(mask_boundary(mask, width))
        ious = {
            category: _minimum_ious(
                [encoded[index] for index in indices],
                [truth for truth in truths if truth["category_id"] == category],
                width,
            )
            for category, indices in compared.items()
        }
        without_masks = [
            {key: value for key, value in truth.items() if key != "segmentation"} for truth in truths
        ]
        return BoundaryRecord(dataset_dict["image_id"], size, without_masks, detections, ious)

    def ious(  # type: ignore[override]  # from `score`
        self, records: list[BoundaryRecord]
    ) -> Mapping[tuple[int, int], np.ndarray]:
        return {
            (number, category): iou
            for number, record in enumerate(records, 1)
            for category, iou in record.ious.items()
        }


def _minimum_ious(found: list[tuple[dict, dict]], truths: list[dict], width: int) -> np.ndarray:
    """Return (D, G) minima of mask IoU and boundary IoU; for a crowd, the share of the mask on it.

    Args:
        found: D masks and their boundaries as RLE.
        truths: G true instances.
        width: of a boundary, in pixels.
    """
    is_crowd = [int(truth["iscrowd"]) for truth in truths]
    true_masks = [truth["segmentation"] for truth in truths]
    true_edges = [encode_mask(mask_boundary(mask_tools.decode(mask) > 0, width)) for mask in true_masks]
    masks, edges = (list(rles) for rles in zip(*found, strict=True))
    iou = np.array(mask_tools.iou(masks, true_masks, is_crowd))
    edge_iou = np.array(mask_tools.iou(edges, true_edges, is_crowd))
    return np.where(np.array(is_crowd, bool), iou, np.minimum(iou, edge_iou))


class BoundarySemanticEvaluator(BoundaryEvaluator, SemanticEvaluator):
    """Evaluator of the mean boundary IoU of semantic maps over classes.

    There is no published definition. The pixels of a class form one mask per image; intersections and unions
    of its boundaries in prediction and ground truth are summed over the images, as masks are for mIoU.
    Ignored pixels belong to no class, also in the prediction. The mean is over the classes with a boundary in
    ground truth or prediction.

    Metrics are "mIoU" and `IoU-<class>` in percent; NaN for a class without a boundary. After `evaluate`, row
    K of the (K + 1, K + 1) `confusion_matrix` counts pixels on no predicted boundary, column K pixels on no
    true one.
    """

    task_key = "boundary_sem_seg"
    title = "Boundary IoU of semantic maps"

    def protocol(self) -> Mapping[str, Any]:
        definition = "boundary pixels of a class, summed over the images; no published definition"
        return {**super().protocol(), "definition": definition}

    def score(self, dataset_dict: dict, prediction: np.ndarray | torch.Tensor) -> tuple[np.ndarray, list]:
        labels, ground_truth = self.labels_and_truth(dataset_dict, prediction)
        none = len(self.class_names)
        is_ignored = ground_truth == self.ignore_label

        def edges(values: np.ndarray) -> np.ndarray:
            classes = np.where(is_ignored, none, values).astype(np.int32)
            is_edge = map_boundaries(classes, self.width(classes.shape))
            return np.where(is_edge, classes, none).astype(label_dtype(none + 2))

        try:
            # `none` is counted as an additional class, and the ignore label does not occur.
            table = label_histogram(edges(labels), edges(ground_truth), none + 1, none + 1)
        except ValueError as error:
            raise InputError(f"{dataset_dict['file_name']}: {error}") from None
        return table[:-1, :-1], []

    def summarize(self, merged: tuple[np.ndarray, list]) -> dict:
        self.confusion_matrix, _ = merged
        shared = self.confusion_matrix.diagonal()[:-1]
        union = self.confusion_matrix.sum(axis=0)[:-1] + self.confusion_matrix.sum(axis=1)[:-1] - shared
        iou = np.full(len(shared), np.nan)
        np.divide(100 * shared, union, out=iou, where=union > 0)
        mean = float(np.nanmean(iou)) if (union > 0).any() else float("nan")
        table = class_table(self.class_names, ["IoU"], [[value] for value in iou])
        logger.info(
            f"{self.title} on {self.dataset_name}, {self.image_count} images, ignored pixels left out "
            f"(there is no published definition), per class:\n{table}\nmIoU of boundaries: {mean:.3f}"
        )
        return {"mIoU": mean} | {
            f"IoU-{name}": float(value) for name, value in zip(self.class_names, iou, strict=True)
        }
