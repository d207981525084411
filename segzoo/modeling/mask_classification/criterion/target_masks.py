"""Ground truth of one image in the form that the matcher and the criterion read.

Segments that do not overlap stay one map of small integers; they are never stored as one binary plane each.

Shape shorthand: S segments of an image, H W pixels of the padded image, P points, M requested segments.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from segzoo.layers.runtime import transferred
from segzoo.utils.errors import InputError

from .point_sampling import corners

# Targets that return entries of other names.
_TARGET_OF = {"entity_boxes": "entities", "entity_centers": "entities"}


class ExtraTargets(dict):
    """Targets besides classes and masks, by name; looking up a missing name raises `InputError`."""

    def __missing__(self, name: str) -> Tensor:
        found = f"found {', '.join(self)}" if self else "found none"
        target = _TARGET_OF.get(name, name)
        raise InputError(
            f"training images have no segment_{name}, which a loss term or matching cost reads besides "
            f"classes and masks ({found}); add its step to INPUT.TARGETS: \"('segments', '{target}')\""
        )


@dataclass
class SegmentTargets:
    """The segments of one image, as a map (no pixel in two segments) or as planes.

    Attributes:
        classes: (S,) int64, the class of each segment; S may be 0.
        segment_map: (H, W) int16, the index in [0, S) of the segment that covers a pixel, -1 for none (void,
            crowd, padding).
        masks: (S, H, W) bool, instead of `segment_map`, for segments that may overlap.
        extras: other targets by name, such as `boxes`, for terms and costs that read them; looking up a
            missing name raises `InputError`.

    Raises:
        ValueError: both or none of `segment_map` and `masks` given, or `masks` without one plane per class.
    """

    classes: Tensor
    segment_map: Tensor | None = None
    masks: Tensor | None = None
    extras: Mapping[str, Tensor] = field(default_factory=dict)

    def __post_init__(self):
        if (self.segment_map is None) == (self.masks is None):
            raise ValueError("SegmentTargets: give either segment_map or masks")
        if self.masks is not None and len(self.masks) != len(self.classes):
            raise ValueError(
                f"SegmentTargets: {len(self.masks)} masks for {len(self.classes)} classes; "
                "give one mask per class"
            )
        self.extras = ExtraTargets(self.extras)

    def __len__(self) -> int:
        return len(self.classes)

    @property
    def size(self) -> tuple[int, int]:
        """(H, W)"""
        labels = self.segment_map if self.masks is None else self.masks
        return labels.shape[-2], labels.shape[-1]

    def to(self, device: torch.device | str) -> SegmentTargets:
        return SegmentTargets(
            transferred(self.classes, device),
            None if self.segment_map is None else transferred(self.segment_map, device),
            None if self.masks is None else transferred(self.masks, device),
            {name: transferred(value, device) for name, value in self.extras.items()},
        )

    def planes(self, segments: Tensor) -> Tensor:
        """Return (M, H, W) bool masks of some segments, (M,) int64 in [0, S)."""
        if self.masks is not None:
            return self.masks[segments]
        return self.segment_map == segments[:, None, None]

    def sample(self, segments: Tensor, points: Tensor) -> Tensor:
        """Sample segments' masks bilinearly, 0 outside of the image (`grid_sample`, align_corners=False).

        Args:
            segments: (M,) int64, indices in [0, S).
            points: (M, P, 2) or (1, P, 2) float (x, y) in [0, 1]: fractions of width and height.

        Returns:
            (M, P) in [0, 1], of the points' dtype.
        """
        labels = (self.segment_map if self.masks is None else self.masks).flatten()
        pixels, weights = corners(points, self.size)
        if self.masks is None:
            covered = _gather(labels, pixels) == segments[:, None]
        else:
            first_pixels = segments * (self.size[0] * self.size[1])
            covered = _gather(labels, first_pixels[:, None] + pixels)
        return (covered * weights).sum(0)


def _gather(values: Tensor, indices: Tensor) -> Tensor:
    """Return `values[indices]`, three times as fast on a CPU."""
    return values.index_select(0, indices.flatten()).view_as(indices)


def targets_from_inputs(
    batched_inputs: Sequence[dict], padded_size: tuple[int, int], device: torch.device | str
) -> list[SegmentTargets]:
    """Build the targets of a batch from the mapper's output, padded to the batch's common size.

    Args:
        batched_inputs: dicts with `segment_classes` (S,) int64, and `segment_map` (H, W) int16 or
            `segment_masks` (S, H, W) bool; any other tensor `segment_<name>` becomes `extras["<name>"]`.
        padded_size: (height, width) of the batch's tensor; added rows and columns belong to no segment.
        device: device of the targets.

    Raises:
        ValueError: an image has no targets, or is larger than `padded_size`.
    """
    targets = []
    for inputs in batched_inputs:
        name = inputs.get("file_name", "an image of the batch")
        labels = inputs.get("segment_map", inputs.get("segment_masks"))
        if labels is None or "segment_classes" not in inputs:
            raise ValueError(
                f"{name}: training needs segment_classes and segment_map (or segment_masks), found "
                f"{sorted(inputs)}; read the data with SegmentationMapper(is_train=True)"
            )
        height, width = labels.shape[-2:]
        if height > padded_size[0] or width > padded_size[1]:
            raise ValueError(
                f"{name}: labels of {height}x{width} do not fit the batch's "
                f"{padded_size[0]}x{padded_size[1]}; image and labels must have one size"
            )
        padding = (0, padded_size[1] - width, 0, padded_size[0] - height)
        classes = inputs["segment_classes"].long()
        if "segment_map" in inputs:
            padded = {"segment_map": F.pad(labels.to(torch.int16), padding, value=-1)}
        else:
            padded = {"masks": F.pad(labels.bool(), padding, value=False)}
        target = SegmentTargets(classes, **padded, extras=_extras(inputs))
        targets.append(target.to(device))
    return targets


def _extras(inputs: dict) -> dict[str, Tensor]:
    prefix = "segment_"
    standard = ("segment_classes", "segment_map", "segment_masks")
    return {
        key.removeprefix(prefix): value
        for key, value in inputs.items()
        if key.startswith(prefix) and key not in standard and isinstance(value, Tensor)
    }
