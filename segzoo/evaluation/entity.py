"""Class-agnostic average precision of non-overlapping entities (Qi et al., Open World Entity Segmentation).

Shape shorthand: S segments of an image, H W pixels.
"""

import json
import logging
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from scipy.ndimage import find_objects
from tabulate import tabulate

from segzoo.utils.errors import InputError
from segzoo.utils.files import write_text
from segzoo.utils.lazy_masks import LazyMasks, is_on_device, planes, stored_masks

from . import prediction_io
from .average_precision import ImageMatches, accumulate, match_image, summarize
from .base import BackgroundEvaluator, check_same_size, to_numpy
from .instance_base import cpu_masks
from .options import ENTITY_AREAS, OF_BOX, OF_MASK, EvaluationOptions
from .segments import SegmentMap, boundary_overlap, image_entry, overlap, take_segment_map

logger = logging.getLogger(__name__)


class EntityRecord(NamedTuple):
    """Record of one image: its matches, the number of cut masks, and its annotation if saved."""

    image_id: int | str
    matches: ImageMatches
    num_overlapping: int
    annotation: dict | None


class EntityEvaluator(BackgroundEvaluator):
    """Evaluator of `entity_seg`, (id map (H, W) with 0 for none, list of {"id", "score"}), or `instances`.

    Every non-crowd segment of the panoptic ground truth is one entity of a single class; areas are mask
    areas. The numbers equal pycocotools' with all categories set to 1 (and ids that start at 1: COCOeval
    never counts a true segment with id 0 as matched). There are no crowds: a prediction on crowd or unlabeled
    pixels is a false positive.

    `entity_area` "box" reproduces AP and AR by size of EntitySeg's evaluation, in which a true entity has the
    area of its box, and a predicted one that of its mask. AP over all sizes does not depend on it.

    An id map has no overlaps. If masks of `instances` overlap, each pixel is assigned to the best-scoring
    mask, masks without pixels are dropped, and the number of changed masks is logged.

    `save_predictions` writes `entity_predictions/<name>.png` and `entity_predictions.json` as a COCO panoptic
    pair with scores.

    Args:
        detections_per_image: maximum number of entities that the model predicts, for the protocol; None if
            unknown.
        entity_area: size of a true entity in metrics by size: the area of its "mask" or of its "box".

    See `BackgroundEvaluator` for the remaining arguments.
    """

    task_key = "entity_seg"
    title = "Entity AP (class-agnostic)"

    def __init__(
        self,
        dataset_name: str,
        output_dir: str | Path | None = None,
        *,
        detections_per_image: int | None = None,
        entity_area: str = OF_MASK,
        **options,
    ):
        super().__init__(dataset_name, output_dir, **options)
        if entity_area not in ENTITY_AREAS:
            raise InputError(f"entity_area {entity_area!r}: expected one of {', '.join(ENTITY_AREAS)}")
        self.detections_per_image = detections_per_image
        self.entity_area = entity_area

    @classmethod
    def from_options(cls, options: EvaluationOptions) -> dict[str, Any]:
        own = {"detections_per_image": options.detections_per_image, "entity_area": options.entity_area}
        return {**super().from_options(options), **own}

    def protocol(self) -> Mapping[str, Any]:
        limit = self.detections_per_image
        area = {} if self.entity_area == OF_MASK else {"entity_area": self.entity_area}
        return area if limit is None else {"detections_per_image": limit, **area}

    def take(self, output: dict, file_name: str) -> tuple[SegmentMap, int]:
        num_overlapping = 0
        if "entity_seg" in output:
            prediction = take_segment_map(output["entity_seg"], file_name)
        else:
            instances = output["instances"]
            scores = to_numpy(instances.scores)
            masks = stored_masks(instances)
            if is_on_device(masks):
                ids, segments, num_overlapping = resolve_overlaps_on_device(masks, scores)
            else:
                ids, segments, num_overlapping = resolve_overlaps(cpu_masks(instances), scores)
            prediction = SegmentMap(ids, segments)
        for segment in prediction.segments:
            try:
                is_finite = math.isfinite(segment["score"])
            except (KeyError, TypeError, OverflowError):
                is_finite = False
            if not is_finite:
                raise InputError(
                    f"{file_name}: entity {segment['id']} has score {segment.get('score')!r}, "
                    "expected a finite number"
                )
        return prediction, num_overlapping

    def score(self, dataset_dict: dict, prediction: tuple[SegmentMap, int]) -> EntityRecord:
        entities, num_overlapping = prediction
        file_name = dataset_dict["file_name"]
        ground_truth = SegmentMap(*self.metadata.load_panoptic(dataset_dict))
        check_same_size(file_name, entities.ids, ground_truth.ids)
        matches = self.match(file_name, ground_truth, entities)
        annotation = None
        if self.save_predictions:
            png = f"{self.prediction_names[file_name]}.png"
            prediction_io.save_ids(self.folder / prediction_io.ENTITY_NAME / png, entities.ids)
            segments = [
                {"id": int(entity["id"]), "category_id": 1, "score": float(entity["score"])}
                for entity in entities.segments
            ]
            annotation = image_entry(dataset_dict, png, segments)
        return EntityRecord(dataset_dict["image_id"], matches, num_overlapping, annotation)

    def match(self, file_name: str, ground_truth: SegmentMap, entities: SegmentMap) -> ImageMatches:
        return entity_matches(file_name, ground_truth, entities, entity_area=self.entity_area)

    def summarize(self, merged: list[EntityRecord]) -> dict:
        if self.save_predictions:
            categories = [{"id": 1, "name": "entity", "isthing": 1}]
            document = {"annotations": [record.annotation for record in merged], "categories": categories}
            write_text(self.folder / f"{prediction_io.ENTITY_NAME}.json", json.dumps(document))
        self.report_overlaps(merged)
        # COCOeval orders the images by ascending id; equal scores keep that order.
        ordered = sorted(merged, key=image_order)
        self.precision, self.recall = accumulate([record.matches for record in ordered])
        metrics = summarize(self.precision, self.recall)
        if not any(record.matches.num_segments[0] for record in merged):
            logger.warning(
                "%s: none of its %d images has a non-crowd segment, so there is no entity AP",
                self.dataset_name,
                self.image_count,
            )
        table = tabulate([metrics.values()], list(metrics), tablefmt="pipe", floatfmt=".3f")
        logger.info(f"{self.title} on {self.dataset_name}, {self.image_count} images:\n{table}")
        return metrics

    def report_overlaps(self, records: list[EntityRecord]) -> None:
        """Log the number of masks that were cut because they overlapped others."""
        changed = [record.num_overlapping for record in records if record.num_overlapping]
        if changed:
            logger.warning(
                f"{sum(changed)} entity masks of {len(changed)} images overlapped a better-scoring one "
                "and were cut: entities must not overlap"
            )
        else:
            logger.info(f"No predicted entities overlap on any of {len(records)} images")


def entity_matches(
    file_name: str,
    ground_truth: SegmentMap,
    entities: SegmentMap,
    boundary: int | None = None,
    entity_area: str = OF_MASK,
) -> ImageMatches:
    """Match the entities of one image.

    Args:
        file_name: for error messages.
        ground_truth: true segments.
        entities: predicted segments with scores.
        boundary: width in pixels for boundary IoU, where a pair's IoU is the minimum of mask and boundary
            IoU; None for mask IoU.
        entity_area: see `EntityEvaluator`.

    Raises:
        InputError: the id map and its list disagree.
    """
    shared = overlap(file_name, ground_truth, entities)
    counts, row, column = shared
    rows = [row[segment["id"]] for segment in ground_truth.segments if not segment["iscrowd"]]
    columns = [column[entity["id"]] for entity in entities.segments]
    scores = np.array([float(entity["score"]) for entity in entities.segments])
    places = np.ix_(rows, columns)
    most = None
    if boundary is not None:
        edges = boundary_overlap(ground_truth, entities, shared, boundary)
        union = edges.sum(axis=1)[rows][:, None] + edges.sum(axis=0)[columns] - edges[places]
        most = edges[places] / union
    # Areas are of whole masks, with their pixels on crowd and unlabeled regions.
    areas = counts.sum(axis=1)[rows]
    sizes = None
    if entity_area == OF_BOX:
        sizes = _box_areas(ground_truth.ids, np.array(list(row)))[rows]
    return match_image(counts[places], areas, counts.sum(axis=0)[columns], scores, most, sizes)


def _box_areas(ids: np.ndarray, listed: np.ndarray) -> np.ndarray:
    """Return (n,) the areas of the boxes around the pixels of each listed id of an id map, 0 without pixels.

    Args:
        ids: (H, W) integers.
        listed: (n,) ascending ids; pixels of others count as those of the first one.
    """
    places = np.minimum(np.searchsorted(listed, ids), len(listed) - 1)
    places[listed[places] != ids] = 0
    windows = find_objects(places.astype(np.int32) + 1, len(listed))
    return np.array(
        [0 if found is None else np.prod([side.stop - side.start for side in found]) for found in windows],
        np.int64,
    )


def resolve_overlaps(
    masks: np.ndarray | torch.Tensor | LazyMasks, scores: np.ndarray
) -> tuple[np.ndarray, list[dict], int]:
    """Make masks disjoint: assign each pixel to the best-scoring mask on it, the first one on a tie.

    Args:
        masks: (S, H, W) bool, visited one after the other.
        scores: (S,) floats.

    Returns:
        ids (H, W) int32, mask index + 1 or 0 for none; a list of {"id", "score"} of the masks with pixels,
        in the given order; the number of masks that lost pixels.
    """
    ids = np.zeros(masks.shape[1:], np.int32)
    kept = np.zeros(len(masks), bool)
    num_cut = 0
    order = np.argsort(-scores, kind="stable")
    for index, mask in zip(order, planes(masks, order), strict=True):
        free = mask & (ids == 0)
        num_pixels = np.count_nonzero(free)
        num_cut += num_pixels < np.count_nonzero(mask)
        kept[index] = num_pixels > 0
        ids[free] = index + 1
    segments = [{"id": int(index) + 1, "score": float(scores[index])} for index in np.flatnonzero(kept)]
    return ids, segments, int(num_cut)


def resolve_overlaps_on_device(
    masks: torch.Tensor | LazyMasks, scores: np.ndarray
) -> tuple[np.ndarray, list[dict], int]:
    """Return `resolve_overlaps` of masks on a GPU, from which only the id map and two counts are copied."""
    order = torch.from_numpy(np.argsort(-scores, kind="stable").copy())
    count, height, width = masks.shape
    if not count:
        return np.zeros((height, width), np.int32), [], 0
    ranked = masks[order.to(masks.parts[0].device if isinstance(masks, LazyMasks) else masks.device)]
    groups = ranked.groups() if isinstance(ranked, LazyMasks) else [ranked.bool()]
    areas, rank_of_pixel, first = [], None, 0
    for group in groups:
        areas.append(group.flatten(1).sum(1))
        # The first of several maxima is the best-scoring mask.
        best = group.byte().argmax(0) + first
        own = torch.where(group.any(0), best, count)
        rank_of_pixel = own if rank_of_pixel is None else torch.minimum(rank_of_pixel, own)
        first += len(group)
    assert rank_of_pixel is not None
    won = rank_of_pixel.flatten().bincount(minlength=count + 1)[:count]
    won, area = torch.stack((won, torch.cat(areas))).cpu().numpy()
    # Number 0 is for pixels of no mask, whose rank is the last one.
    numbers = torch.cat((order + 1, torch.zeros(1, dtype=order.dtype))).int().to(rank_of_pixel.device)
    ids = numbers[rank_of_pixel].cpu().numpy()
    kept = np.sort(order.numpy()[won > 0])
    segments = [{"id": int(index) + 1, "score": float(scores[index])} for index in kept]
    return ids, segments, int(np.count_nonzero(won < area))


def image_order(record: Any) -> tuple:
    """Return a sort key of records by `image_id`: numbers first, then strings."""
    number = isinstance(record.image_id, int)
    return (0, record.image_id, "") if number else (1, 0, str(record.image_id))
