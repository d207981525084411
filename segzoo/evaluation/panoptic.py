"""Compute panoptic quality (Kirillov et al., Panoptic Segmentation, CVPR 2019, section 4) from histograms.

Shape shorthand: K classes, S segments of an image, H W pixels.
"""

import json
import logging
from dataclasses import dataclass, field

import numpy as np
from detectron2.utils.logger import log_first_n
from tabulate import tabulate

from segzoo.utils.errors import InputError
from segzoo.utils.files import write_text
from segzoo.utils.json_values import shown

from . import prediction_io
from .base import BackgroundEvaluator, check_same_size, class_table
from .segments import SegmentMap, boundary_overlap, image_entry, overlap, take_segment_map

logger = logging.getLogger(__name__)


@dataclass
class ImageQuality:
    """Record of one image: its contribution to the sums, in panopticapi's order."""

    matched: list[tuple[int, float]] = field(default_factory=list)  # class and IoU of each true positive
    missed: list[int] = field(default_factory=list)  # class of each false negative
    spurious: list[int] = field(default_factory=list)  # class of each false positive
    # A line for each area in a JSON that differs from the PNG, in the ground truth and in the prediction.
    stated: list[str] = field(default_factory=list)
    predicted_stated: list[str] = field(default_factory=list)
    annotation: dict | None = None  # for predictions.json


class PanopticEvaluator(BackgroundEvaluator):
    """Evaluator of `panoptic_seg`: (id map (H, W), 0 for void; segments_info with contiguous category_id).

    Per class, IoU sum, TP, FP, FN and thus PQ, SQ and RQ equal bitwise a single-process run of panopticapi
    over the images in the dataset's order: a pair of one class matches above IoU 0.5, with void excluded from
    the union; crowd segments are never false negatives; a prediction with more than half of its pixels on
    void and crowds of its class is not a false positive. Areas are counted from pixels; a warning gives the
    number of areas in the JSON that differ.

    `save_predictions` writes `predictions/<name>.png` and `predictions.json` in COCO panoptic format with the
    dataset's own category ids, which panopticapi and evaluation servers accept.
    """

    task_key = "panoptic_seg"
    title = "Panoptic quality"

    def take(self, output: dict, file_name: str) -> SegmentMap:
        prediction = take_segment_map(output["panoptic_seg"], file_name)
        for segment in prediction.segments:
            if not 0 <= segment["category_id"] < len(self.class_names):
                raise InputError(
                    f"{file_name}: segment {segment['id']} has category {segment['category_id']}, "
                    f"expected a contiguous class id in [0, {len(self.class_names)})"
                )
        return prediction

    def score(self, dataset_dict: dict, prediction: SegmentMap) -> ImageQuality:
        file_name = dataset_dict["file_name"]
        ground_truth = SegmentMap(*self.metadata.load_panoptic(dataset_dict))
        check_same_size(file_name, prediction.ids, ground_truth.ids)
        quality = self.match(file_name, ground_truth, prediction)
        if self.save_predictions:
            png = f"{self.prediction_names[file_name]}.png"
            prediction_io.save_ids(self.folder / prediction_io.PANOPTIC_NAME / png, prediction.ids)
            quality.annotation = image_entry(dataset_dict, png, self._dataset_segments(prediction.segments))
        return quality

    def match(self, file_name: str, ground_truth: SegmentMap, prediction: SegmentMap) -> ImageQuality:
        return image_quality(file_name, ground_truth, prediction)

    def summarize(self, merged: list[ImageQuality]) -> dict:
        if self.save_predictions:
            document = {
                "annotations": [quality.annotation for quality in merged],
                "categories": self._categories(),
            }
            write_text(self.folder / f"{prediction_io.PANOPTIC_NAME}.json", json.dumps(document))
        source = self.metadata.get("panoptic_json", self.dataset_name)
        _report_stated([line for quality in merged for line in quality.stated], source)
        predicted = [line for quality in merged for line in quality.predicted_stated]
        _report_stated(predicted, f"{self.dataset_name}, predictions")
        self.class_sums = ClassSums(len(self.class_names))
        for quality in merged:
            self.class_sums.add(quality)
        if not self.class_sums.truths():
            logger.warning(
                "%s: none of its %d images has a non-crowd segment, so there is no panoptic quality; "
                "`segzoo check-data` shows the content of its labels",
                self.dataset_name,
                self.image_count,
            )
        isthing = np.asarray(self.metadata.isthing, bool)
        groups = {"All": (np.ones_like(isthing), ""), "Things": (isthing, "_th"), "Stuff": (~isthing, "_st")}
        metrics: dict[str, float] = {}
        rows = []
        per_class = self.class_sums.per_class()
        for group, (members, suffix) in groups.items():
            means, count = self.class_sums.average(members)
            metrics |= {f"{measure}{suffix}": 100 * value for measure, value in means.items()}
            rows.append([group, *(100 * value for value in means.values()), count])
        table = tabulate(rows, ["", "PQ", "SQ", "RQ", "#classes"], tablefmt="pipe", floatfmt=".3f")
        percent = [[100 * value for value in values] for values in per_class]
        classes = class_table(self.class_names, ["PQ", "SQ", "RQ"], percent)
        logger.info(f"{self.title} on {self.dataset_name}, {self.image_count} images, per class:\n{classes}")
        logger.info(f"{self.title} on {self.dataset_name}:\n{table}")
        for name, values in zip(self.class_names, per_class, strict=True):
            metrics |= {
                f"{measure}-{name}": 100 * value for measure, value in zip(_MEASURES, values, strict=True)
            }
        return metrics

    def _dataset_segments(self, segments: list[dict]) -> list[dict]:
        dataset_id = self.metadata.contiguous_id_to_dataset_id
        result = []
        for segment in segments:
            entry: dict[str, int | float] = {
                "id": int(segment["id"]),
                "category_id": int(dataset_id[segment["category_id"]]),
            }
            if "score" in segment:
                entry["score"] = float(segment["score"])
            result.append(entry)
        return result

    def _categories(self) -> list[dict]:
        meta = self.metadata
        rows = zip(meta.contiguous_id_to_dataset_id, self.class_names, meta.isthing, strict=True)
        return [{"id": int(number), "name": name, "isthing": int(thing)} for number, name, thing in rows]


_MEASURES = ("PQ", "SQ", "RQ")


class ClassSums:
    """Sums over all images: `iou` (K,) float64 and `tp`, `fp`, `fn` (K,) int64.

    The rounding of a sum depends on its order, so `add` is called in the order of the dataset and adds the
    IoUs one by one, as panopticapi does.
    """

    def __init__(self, num_classes: int):
        self.iou = np.zeros(num_classes)
        self.tp, self.fp, self.fn = (np.zeros(num_classes, np.int64) for _ in range(3))

    def add(self, quality: ImageQuality) -> None:
        for category, iou in quality.matched:
            self.iou[category] += iou
            self.tp[category] += 1
        for category in quality.missed:
            self.fn[category] += 1
        for category in quality.spurious:
            self.fp[category] += 1

    def truths(self) -> int:
        """Return the number of true segments that are not ignored."""
        return int(self.tp.sum() + self.fn.sum())

    def per_class(self) -> list[tuple[float, float, float]]:
        """Return (PQ, SQ, RQ) of every class in [0, 1]; NaN for a class that does not occur."""
        return [self._quality(category) for category in range(len(self.iou))]

    def average(self, members: np.ndarray) -> tuple[dict[str, float], int]:
        """Return averages over the classes of `members` (K,) bool that occur (or NaN), and their number."""
        sums, count = [0.0, 0.0, 0.0], 0
        for category in np.flatnonzero(members):
            values = self._quality(category)
            if np.isnan(values[0]):
                continue
            count += 1
            sums = [total + value for total, value in zip(sums, values, strict=True)]
        return {
            name: total / count if count else np.nan for name, total in zip(_MEASURES, sums, strict=True)
        }, count

    def _quality(self, category: int) -> tuple[float, float, float]:
        iou = float(self.iou[category])
        tp, fp, fn = int(self.tp[category]), int(self.fp[category]), int(self.fn[category])
        if tp + fp + fn == 0:
            return (np.nan, np.nan, np.nan)
        weight = tp + 0.5 * fp + 0.5 * fn
        return iou / weight, iou / tp if tp else 0.0, tp / weight


def image_quality(
    file_name: str, ground_truth: SegmentMap, prediction: SegmentMap, boundary: int | None = None
) -> ImageQuality:
    """Match the segments of one image.

    Args:
        file_name: for error messages.
        ground_truth: segments with id, category_id, iscrowd; `area`, or `stated_areas` of a dataset's
            `load_panoptic`, are compared with the pixels.
        prediction: segments with id and category_id; an `area` is also compared.
        boundary: width in pixels for boundary IoU, where a pair's IoU is the minimum of mask and boundary
            IoU; None for mask IoU.
    """
    shared = overlap(file_name, ground_truth, prediction)
    table, row, column = shared
    true_area, predicted_area = table.sum(axis=1).tolist(), table.sum(axis=0).tolist()
    if boundary is not None:
        edges = boundary_overlap(ground_truth, prediction, shared, boundary)
        true_edge, predicted_edge = edges.sum(axis=1), edges.sum(axis=0)
    true = {segment["id"]: segment for segment in ground_truth.segments}
    predicted = {segment["id"]: segment for segment in prediction.segments}
    true_ids, predicted_ids = list(row), list(column)
    quality = ImageQuality(
        stated=_stated(file_name, ground_truth.segments, true_area, row),
        predicted_stated=_stated(file_name, prediction.segments, predicted_area, column),
    )
    matched_true, matched_predicted = set(), set()
    counts = table.tolist()  # Python's numbers are faster one by one, and give the same quotients
    # Pairs in ascending order of (true id, predicted id): the order of panopticapi's sums.
    for i, j in (np.argwhere(table[1:-1, 1:-1]) + 1).tolist():
        true_segment, predicted_segment = true[true_ids[i]], predicted[predicted_ids[j]]
        category = true_segment["category_id"]
        if true_segment["iscrowd"] or category != predicted_segment["category_id"]:
            continue
        shared_area = counts[i][j]
        iou = shared_area / (predicted_area[j] + true_area[i] - shared_area - counts[0][j])
        if boundary is not None:
            iou = min(iou, edges[i, j] / (predicted_edge[j] + true_edge[i] - edges[i, j] - edges[0, j]))
        if iou > 0.5:
            quality.matched.append((category, float(iou)))
            matched_true.add(true_ids[i])
            matched_predicted.add(predicted_ids[j])

    crowd = {}
    for segment_id, segment in true.items():
        if segment_id in matched_true:
            continue
        if segment["iscrowd"]:
            crowd[segment["category_id"]] = row[segment_id]
        else:
            quality.missed.append(segment["category_id"])

    for segment_id, segment in predicted.items():
        if segment_id in matched_predicted:
            continue
        j = column[segment_id]
        ignored = counts[0][j]
        if segment["category_id"] in crowd:
            ignored += counts[crowd[segment["category_id"]]][j]
        if ignored / predicted_area[j] <= 0.5:
            quality.spurious.append(segment["category_id"])
    return quality


def _report_stated(stated: list[str], source: str) -> None:
    """Log, once per process, the areas in a JSON file that differ from the pixels."""
    if stated:
        message = (
            f"{source}: the areas of {len(stated)} segments differ from the PNGs, first {stated[0]}; "
            "the pixels of the PNGs are used"
        )
        log_first_n(logging.WARNING, message, name=__name__, key="message")


def _stated(file_name: str, segments: list[dict], areas: list[int], position: dict[int, int]) -> list[str]:
    """Return a line for each area in a JSON file that differs from the map, with both values."""
    lines = []
    for segment in segments:
        measured = areas[position[segment["id"]]]
        differing = list(segment.get("stated_areas", ()))
        stated = segment.get("area", measured)
        if isinstance(stated, bool) or stated != measured:
            differing.append((segment["id"], shown(stated), measured))
        lines += [
            f"{file_name}, segment {segment_id}: area {found}, measured {pixels}"
            for segment_id, found, pixels in differing
        ]
    return lines
