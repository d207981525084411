"""The training targets of an image, by name: pure functions of its augmented labels.

Shape shorthand: H, W pixels; S target segments; K classes.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from detectron2.data.transforms import Transform
from detectron2.structures import BitMasks, Boxes, Instances, PolygonMasks, polygons_to_bitmask

from segzoo.utils.registries import NamedRegistry, registered

from .label_reader import IndexMap
from .outlines import Outline, outline_boxes
from .segment_boxes import GroupGeometry, rounded_boxes, transformed_boxes
from .targets import Groups, MaskTargets, Targets, build_mask_targets, build_targets, present_groups

TARGETS_REGISTRY = NamedRegistry("TARGETS")
TARGETS_REGISTRY.__doc__ = """
Functions that return the targets which the mapper adds to the dict of a training image, by the names in
INPUT.TARGETS or in the attribute `mapper_targets` of a meta-architecture.

Called with `AugmentedLabels`; they return entries of the dict: tensors or other objects that can be pickled.
"""


@dataclass(frozen=True)
class AugmentedLabels:
    """The labels of an image after augmentation, and the targets of the task derived from them.

    Attributes:
        task: TASK.
        index_map: the segment of each pixel.
        groups: the assignment of segments to targets of the task.
        class_map_of: function from an index map to (H, W) class indices, with the dataset's ignore label.
        outlines_of: returns the transformed polygons of each segment of `index_map.segments`; None for labels
            that are no polygons.
        mask_format: "polygon" or "bitmask", the form of the masks of `instances`; see INPUT.MASK_FORMAT.
        source: the labels before augmentation, with the same segments; None if unknown.
        transform: what was applied to them; None if unknown.
    """

    task: str
    index_map: IndexMap
    groups: Groups
    class_map_of: Callable[[IndexMap], np.ndarray]
    outlines_of: Callable[[], list[Outline]] | None = None
    mask_format: str = "polygon"
    source: IndexMap | None = None
    transform: Transform | None = None

    @property
    def size(self) -> tuple[int, int]:
        """(H, W)"""
        height, width = self.index_map.indices.shape
        return height, width

    @cached_property
    def outlines(self) -> list[Outline] | None:
        """The polygons of each group; None for a group with a mask that is none; None if no label is one."""
        if self.outlines_of is None:
            return None
        grouped: list[Outline] = [[] for _ in self.groups.classes]
        for group, outline in zip(self.groups.of_segment, self.outlines_of(), strict=True):
            if group >= 0:
                before = grouped[group]
                grouped[group] = None if before is None or outline is None else before + outline
        return grouped

    @cached_property
    def segments(self) -> Targets | MaskTargets:
        """The S targets as a map of indices, or as masks if segments may overlap."""
        if self.index_map.members is None:
            return build_targets(self.index_map, self.groups)
        return build_mask_targets(self.index_map, self.groups)

    @cached_property
    def masks(self) -> np.ndarray:
        """(S, H, W) bool masks of the targets."""
        segments = self.segments
        if isinstance(segments, MaskTargets):
            return segments.masks
        numbers = np.arange(len(segments.classes), dtype=segments.segment_map.dtype)
        return segments.segment_map == numbers[:, None, None]

    @cached_property
    def class_map(self) -> np.ndarray:
        """(H, W) int64 class indices, the dataset's ignore label for void."""
        return self.small_class_map.astype(np.int64)

    @cached_property
    def small_class_map(self) -> np.ndarray:
        """(H, W) uint8 or uint16 class indices, the dataset's ignore label for void."""
        return self.class_map_of(self.index_map)

    @cached_property
    def present_classes(self) -> np.ndarray:
        """(S,) int64, the class of each target."""
        return self.groups.classes[present_groups(self.index_map, self.groups)]

    @cached_property
    def boxes(self) -> np.ndarray:
        """(S, 4) float32: left, top, right, bottom edges in pixels, so that right - left is the width.

        They are the extremes of an annotation's polygons, otherwise those of the mask's pixels.
        """
        geometry = GroupGeometry(self.index_map, self.groups)
        present = np.flatnonzero(geometry.present)
        boxes = geometry.edges[present]
        if self.outlines is not None:
            for index, group in enumerate(present):
                if outline := self.outlines[group]:
                    boxes[index] = outline_boxes([outline], self.size)[0]
        return boxes


AddTargets = Callable[[AugmentedLabels], dict[str, Any]]

# Pixels. Detectron2 leaves out targets with a narrower box.
_SMALLEST_SIDE = 1e-5


def find_targets(names: Iterable[str]) -> list[AddTargets]:
    """Return the registered functions of the given targets.

    Raises:
        InputError: a name is not registered.
    """
    return [registered(TARGETS_REGISTRY, "INPUT.TARGETS", name) for name in names]


@TARGETS_REGISTRY.register(name="segments")
def add_segments(labels: AugmentedLabels) -> dict[str, Any]:
    """Return what "segment_map" returns, and for the task semantic also `sem_seg`."""
    return {**add_segment_map(labels), **(add_sem_seg(labels) if labels.task == "semantic" else {})}


@TARGETS_REGISTRY.register(name="segment_map")
def add_segment_map(labels: AugmentedLabels) -> dict[str, Any]:
    """Return `segment_map` (H, W) int16 or `segment_masks` (S, H, W) bool, `segment_classes` (S,) int64.

    See `Targets` and `MaskTargets`.
    """
    segments = labels.segments
    overlap = isinstance(segments, MaskTargets)
    return {
        "segment_masks" if overlap else "segment_map": torch.from_numpy(segments[0]),
        "segment_classes": torch.from_numpy(segments.classes),
    }


@TARGETS_REGISTRY.register(name="sem_seg")
def add_sem_seg(labels: AugmentedLabels) -> dict[str, Any]:
    """Return `sem_seg` (H, W) int64: class index or the dataset's ignore label."""
    return {"sem_seg": torch.from_numpy(labels.class_map)}


@TARGETS_REGISTRY.register(name="class_map")
def add_class_map(labels: AugmentedLabels) -> dict[str, Any]:
    """Return all that a per-pixel model reads: `sem_seg` in few bytes, and `segment_classes` (S,) int64.

    `sem_seg` is (H, W) uint8, or int32 where a class or the ignore label is above 255.
    """
    small = labels.small_class_map
    return {
        "sem_seg": torch.from_numpy(small if small.dtype == np.uint8 else small.astype(np.int32)),
        # They show whether an image has any target.
        "segment_classes": torch.from_numpy(labels.present_classes),
    }


@TARGETS_REGISTRY.register(name="boxes")
def add_boxes(labels: AugmentedLabels) -> dict[str, Any]:
    """Return `segment_boxes` (S, 4) float32: left, top, right, bottom edges of the targets in pixels."""
    return {"segment_boxes": torch.from_numpy(labels.boxes)}


@TARGETS_REGISTRY.register(name="whole_boxes")
def add_whole_boxes(labels: AugmentedLabels) -> dict[str, Any]:
    """Return `segment_boxes` as "boxes" does, of the masks as they were before a crop cut them.

    They are transformed with the image and cut at its borders, as DETR and its successors do with the boxes
    of annotations: part of a box may be further than the visible part of its mask.
    """
    if labels.source is None or labels.transform is None:
        raise ValueError("whole_boxes needs the labels before augmentation and the transform")
    present = GroupGeometry(labels.index_map, labels.groups).present
    edges = GroupGeometry(labels.source, labels.groups).edges[present]
    return {"segment_boxes": torch.from_numpy(transformed_boxes(edges, labels.transform, labels.size))}


@TARGETS_REGISTRY.register(name="entities")
def add_entities(labels: AugmentedLabels) -> dict[str, Any]:
    """Return a box and a center of mass of each target, as EntitySeg needs them.

    `segment_entity_boxes` (S, 4) float32: first column, first row, last column, last row of the mask;
    `segment_entity_centers` (S, 2) float32: mean x and y index of its pixels.
    """
    geometry = GroupGeometry(labels.index_map, labels.groups)
    return _entities(geometry.extremes[geometry.present].astype(np.float32), geometry)


@TARGETS_REGISTRY.register(name="entities_rounded")
def add_entities_rounded(labels: AugmentedLabels) -> dict[str, Any]:
    """Return the same with the boxes of EntitySeg's published training, see `rounded_boxes`."""
    if labels.source is None or labels.transform is None:
        raise ValueError("entities_rounded needs the labels before augmentation and the transform")
    geometry = GroupGeometry(labels.index_map, labels.groups)
    extremes = GroupGeometry(labels.source, labels.groups).extremes[geometry.present]
    return _entities(rounded_boxes(extremes, labels.transform, labels.size), geometry)


def _entities(boxes: np.ndarray, geometry: GroupGeometry) -> dict[str, Any]:
    return {
        "segment_entity_boxes": torch.from_numpy(boxes),
        "segment_entity_centers": torch.from_numpy(geometry.centers()),
    }


@TARGETS_REGISTRY.register(name="instances")
def add_instances(labels: AugmentedLabels) -> dict[str, Any]:
    """Return `instances`: Detectron2's Instances with `gt_boxes`, `gt_classes`, `gt_masks` of the targets.

    Where all targets of an image have polygons, the masks are `PolygonMasks`, or `BitMasks` drawn from the
    transformed polygons (INPUT.MASK_FORMAT bitmask), and targets without area in the image are left out.
    Other labels give `BitMasks` with nearest-pixel resizing.
    """
    outlines = labels.outlines
    if outlines is None or None in outlines:
        return {"instances": _instances(labels.size, labels.boxes, labels.segments.classes, labels.masks)}
    kept = [group for group, outline in enumerate(outlines) if outline]
    shapes = [outline for outline in outlines if outline]
    boxes = outline_boxes(shapes, labels.size)
    polygons = [[polygon.reshape(-1) for polygon in outline] for outline in shapes]
    classes = labels.groups.classes[kept]
    usable = ((boxes[:, 2:] - boxes[:, :2]) > _SMALLEST_SIDE).all(axis=1)
    if labels.mask_format == "polygon":
        masks: Any = PolygonMasks([one for one, keep in zip(polygons, usable, strict=True) if keep])
        return {"instances": _instances(labels.size, boxes[usable], classes[usable], masks)}
    drawn = np.zeros((len(polygons), *labels.size), dtype=bool)
    for mask, one in zip(drawn, polygons, strict=True):
        mask[...] = polygons_to_bitmask(one, *labels.size)
    usable &= drawn.any(axis=(1, 2))
    return {"instances": _instances(labels.size, boxes[usable], classes[usable], drawn[usable])}


def _instances(size: tuple[int, int], boxes: np.ndarray, classes: np.ndarray, masks: Any) -> Instances:
    """Return Detectron2's Instances of boxes (S, 4), classes (S,) and masks, `PolygonMasks` or (S, H, W)."""
    instances = Instances(size)
    instances.gt_boxes = Boxes(torch.from_numpy(boxes))
    instances.gt_classes = torch.from_numpy(classes)
    instances.gt_masks = BitMasks(torch.from_numpy(masks)) if isinstance(masks, np.ndarray) else masks
    return instances
