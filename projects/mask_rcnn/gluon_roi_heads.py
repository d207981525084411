"""The second stage as in GluonCV, with features of a pyramid or of res4.

Shape shorthand: N images, R regions, C channels, K classes, s side of a pooled region, m of a mask.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from detectron2.config import CfgNode, configurable
from detectron2.layers import ROIAlign, ShapeSpec
from detectron2.modeling.poolers import ROIPooler
from detectron2.modeling.roi_heads import (
    ROI_BOX_HEAD_REGISTRY,
    ROI_HEADS_REGISTRY,
    ROI_MASK_HEAD_REGISTRY,
    FastRCNNConvFCHead,
    MaskRCNNConvUpsampleHead,
    StandardROIHeads,
)
from detectron2.modeling.roi_heads.fast_rcnn import FastRCNNOutputLayers
from detectron2.structures import BitMasks, Boxes, Instances, PolygonMasks, pairwise_iou
from fvcore.nn import smooth_l1_loss
from torch import Tensor, nn

from segzoo.modeling.detection.roi_heads import BackboneROIHeads
from segzoo.modeling.detection.shared_masks import SharedBitMasks, pool_masks
from segzoo.utils.errors import InputError

from .gluon_boxes import box_coder, detect, learned_samples, sample_regions

# Samples of a bin along each axis, in features and in the masks to learn.
_SAMPLES = 2
_CANONICAL_SIDE = 224
_CANONICAL_LEVEL = 4


class PixelLevelPooler(nn.Module):
    """RoIAlign without the shift by half a pixel; sides that choose a level count the pixels of both ends."""

    def __init__(self, output_size: int, scales: Sequence[float]):
        """
        Args:
            output_size: s.
            scales: 1 / stride of each level, from fine to coarse.
        """
        super().__init__()
        self.output_size = (output_size, output_size)
        self.poolers = nn.ModuleList(
            ROIAlign(self.output_size, scale, sampling_ratio=_SAMPLES, aligned=False) for scale in scales
        )
        self.first_level = round(-math.log2(scales[0]))

    def forward(self, features: Sequence[Tensor], boxes: Sequence[Boxes]) -> Tensor:
        """Return the pooled regions of all images, (R, C, s, s).

        Args:
            features: (N, C, h, w) of each level.
            boxes: the regions of each image.
        """
        corners = torch.cat([one.tensor for one in boxes])
        image = torch.repeat_interleave(
            torch.arange(len(boxes), device=corners.device),
            torch.tensor([len(one) for one in boxes], device=corners.device),
        )
        regions = torch.cat((image[:, None].to(corners.dtype), corners), 1)
        if len(self.poolers) == 1:
            return self.poolers[0](features[0], regions)
        levels = pixel_levels(corners, self.first_level, self.first_level + len(self.poolers) - 1)
        result = features[0].new_zeros((len(corners), features[0].shape[1], *self.output_size))
        for index, (pooler, maps) in enumerate(zip(self.poolers, features, strict=True)):
            chosen = (levels == self.first_level + index).nonzero()[:, 0]
            result = result.index_put((chosen,), pooler(maps, regions[chosen]))
        return result


def pixel_levels(boxes: Tensor, first: int, last: int) -> Tensor:
    """Return the level of each box, (R,) int64, from its sides counted with the pixels of both ends."""
    sides = boxes[:, 2:] - boxes[:, :2] + 1
    level = _CANONICAL_LEVEL + torch.log2(sides.prod(1).sqrt() / _CANONICAL_SIDE + 1e-6)
    return level.nan_to_num().floor().clamp(first, last).to(torch.int64)


@ROI_BOX_HEAD_REGISTRY.register()
class PooledFCHead(FastRCNNConvFCHead):
    """Two or more dense layers on regions that are averaged over 3 x 3 bins in steps of 2 before."""

    @configurable
    def __init__(self, input_shape: ShapeSpec, **arguments: Any):
        """
        Args:
            input_shape: of a pooled region; its sides are halved.
            arguments: see `FastRCNNConvFCHead`.
        """
        halves = {"height": -(-input_shape.height // 2), "width": -(-input_shape.width // 2)}
        super().__init__(ShapeSpec(channels=input_shape.channels, **halves), **arguments)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(F.avg_pool2d(x, 3, stride=2, padding=1))


class GluonOutputLayers(FastRCNNOutputLayers):
    """Class and box of each region, with GluonCV's detections and losses."""

    @configurable
    def __init__(self, input_shape: ShapeSpec, **arguments: Any):
        """See `FastRCNNOutputLayers`; `box2box_transform` is GluonCV's."""
        super().__init__(input_shape, **arguments)

    @classmethod
    def from_config(cls, cfg, input_shape: ShapeSpec) -> dict[str, Any]:
        weights = cfg.MODEL.ROI_BOX_HEAD.BBOX_REG_WEIGHTS
        return {**super().from_config(cfg, input_shape), "box2box_transform": box_coder(weights)}

    def inference(
        self, predictions: tuple[Tensor, Tensor], proposals: list[Instances]
    ) -> tuple[list[Instances], None]:
        scores, deltas = predictions
        regions = torch.cat([one.proposal_boxes.tensor for one in proposals])
        probabilities = scores.softmax(-1)[:, :-1]
        boxes = self.box2box_transform.apply_deltas(deltas, regions).unflatten(1, (-1, 4))
        boxes = boxes.expand(-1, probabilities.shape[1], -1)  # one for all classes, or one for each
        counts = [len(one) for one in proposals]
        detections = []
        for *of_image, proposal in zip(
            boxes.split(counts), probabilities.split(counts), proposals, strict=True
        ):
            if proposal.has("copies"):
                of_image = [one.repeat_interleave(proposal.copies, dim=0) for one in of_image]
            found = detect(
                *of_image,
                proposal.image_size,
                score_thresh=self.test_score_thresh,
                nms_thresh=self.test_nms_thresh,
                max_detections=self.test_topk_per_image,
            )
            detections.append(found)
        return detections, None

    def losses(self, predictions: tuple[Tensor, Tensor], proposals: list[Instances]) -> dict[str, Tensor]:
        """Return the losses: each image's sums divided by the number of its samples, averaged.

        Args:
            predictions: scores (R, K + 1) and offsets (R, 4 K), or (R, 4) for all classes.
            proposals: of `label_and_sample`.
        """
        counts = [len(one) for one in proposals]
        classification, localization = predictions[0].new_zeros(()), predictions[0].new_zeros(())
        for scores, deltas, found in zip(
            predictions[0].split(counts), predictions[1].split(counts), proposals, strict=True
        ):
            count = max(len(found), 1)
            classification = (
                classification + F.cross_entropy(scores, found.gt_classes, reduction="sum") / count
            )
            learned = found.has_targets.nonzero()[:, 0]
            boxes = [one.tensor[learned] for one in (found.proposal_boxes, found.gt_boxes)]
            own = _of_classes(deltas.unflatten(1, (-1, 4))[learned], found.gt_classes[learned])
            error = smooth_l1_loss(
                own, self.box2box_transform.get_deltas(*boxes), self.smooth_l1_beta, reduction="sum"
            )
            localization = localization + error / count
        losses = {"loss_cls": classification, "loss_box_reg": localization}
        return {
            name: value / len(proposals) * self.loss_weight.get(name, 1.0) for name, value in losses.items()
        }


@ROI_MASK_HEAD_REGISTRY.register()
class SoftTargetMaskHead(MaskRCNNConvUpsampleHead):
    """Detectron2's mask head, which learns the average of the object's mask in each bin of the region.

    The loss is the mean over the pixels of an image's regions, averaged over the images.
    """

    def forward(self, x: Tensor, instances: list[Instances]) -> Any:
        if not self.training:
            return super().forward(x, instances)
        logits = self.layers(x)
        loss, side = logits.sum() * 0, logits.shape[-1]
        for own, found in zip(logits.split([len(one) for one in instances]), instances, strict=True):
            if len(found):
                own = _of_classes(own, found.gt_classes)
                targets = _soft_targets(found.gt_masks, found.proposal_boxes.tensor, side)
                loss = loss + F.binary_cross_entropy_with_logits(own, targets)
        return {"loss_mask": loss / len(instances) * self.loss_weight}


def _of_classes(values: Tensor, classes: Tensor) -> Tensor:
    """Return the value of each region's class, of (R, K, ...) or, the same for all classes, (R, 1, ...)."""
    return values[torch.arange(len(values), device=values.device), classes.clamp(max=values.shape[1] - 1)]


def soft_masks(
    masks: BitMasks | PolygonMasks, boxes: Tensor, side: int, index: Tensor | None = None
) -> Tensor:
    """Return the shares of masks in the bins of boxes, (R, side, side) float in [0, 1].

    Memory is bounded, see `pool_masks`.

    Args:
        masks: of a whole image.
        boxes: (R, 4) x0, y0, x1, y1.
        index: (R,) int64, the mask of each box; None for R masks in the order of the boxes.
    """
    if not len(boxes):
        return boxes.new_zeros((0, side, side))
    if isinstance(masks, PolygonMasks):
        width, height = boxes[:, 2:].max(0).values.ceil().add(1).int().tolist()
        masks = BitMasks.from_polygon_masks(masks, height, width)
    if index is None:
        index = torch.arange(len(boxes), device=boxes.device)
    if isinstance(masks, SharedBitMasks):
        planes, index = masks.planes, masks.index[index]
    else:
        planes = masks.tensor
    align = ROIAlign((side, side), 1.0, sampling_ratio=_SAMPLES, aligned=False)
    return pool_masks(planes, index, boxes, align)


class _Matched:
    """Masks of samples, without a copy of the mask of an object for each of its samples."""

    def __init__(self, masks: BitMasks | PolygonMasks, index: Tensor):
        """
        Args:
            masks: of the true objects.
            index: (R,) int64, the object of each sample.
        """
        self.masks = masks
        self.index = index

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, item: Any) -> "_Matched":
        return _Matched(self.masks, self.index[item])

    def crop_and_resize(self, boxes: Tensor, side: int) -> Tensor:
        """Return the binary targets of Detectron2's mask head, see `BitMasks.crop_and_resize`."""
        return self.masks[self.index].crop_and_resize(boxes, side)


def _soft_targets(masks: BitMasks | PolygonMasks | _Matched, boxes: Tensor, side: int) -> Tensor:
    """Return `soft_masks` of samples."""
    if isinstance(masks, _Matched):
        return soft_masks(masks.masks, boxes, side, masks.index)
    return soft_masks(masks, boxes, side)


class _Sampling:
    """The samples of the second stage in GluonCV; a mixin of Detectron2's ROIHeads."""

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> dict[str, Any]:
        if problem := _find_problem(cfg.MODEL):
            raise InputError(problem)
        return super().from_config(cfg, input_shape)

    @torch.no_grad()
    def label_and_sample_proposals(
        self, proposals: list[Instances], targets: list[Instances]
    ) -> list[Instances]:
        """Return the samples of each image: `gt_classes`, `gt_boxes`, `gt_masks` and `has_targets`, bool."""
        samples = []
        for proposal, target in zip(proposals, targets, strict=True):
            boxes = proposal.proposal_boxes
            if self.proposal_append_gt:
                boxes = Boxes.cat([boxes, target.gt_boxes])
            ious = pairwise_iou(target.gt_boxes, boxes)
            if len(ious):
                best, matched = ious.max(0)
            else:
                best, matched = boxes.tensor.new_zeros(len(boxes)), torch.zeros(len(boxes), dtype=torch.int64)
            positive = best >= self.proposal_matcher.thresholds[1]
            order = torch.randperm(len(boxes), device=positive.device)
            count, fraction = self.batch_size_per_image, self.positive_fraction
            chosen = sample_regions(positive, order, count, fraction)
            sample = Instances(target.image_size)
            sample.proposal_boxes = boxes[chosen]
            matched, kept = matched.to(positive.device)[chosen], positive[chosen]
            if len(ious):
                classes = target.gt_classes[matched].masked_fill(~kept, self.num_classes)
                sample.gt_boxes = target.gt_boxes[matched]
                sample.gt_masks = _Matched(target.gt_masks, matched)
            else:
                classes = torch.full((len(chosen),), self.num_classes, device=positive.device)
                sample.gt_boxes = boxes[chosen]
            sample.gt_classes = classes
            areas = sample.proposal_boxes.area()
            sample.has_targets = learned_samples(kept, areas, round(count * fraction))
            samples.append(sample)
        return samples


def _learned(proposals: list[Instances]) -> list[Instances]:
    """Return the samples whose masks are learned, none of images without objects."""
    return [one[one.has_targets] for one in proposals]


@ROI_HEADS_REGISTRY.register()
class GluonROIHeads(_Sampling, StandardROIHeads):
    """Detectron2's StandardROIHeads with GluonCV's pooling, samples, losses and detections."""

    @configurable
    def __init__(self, **arguments: Any):
        """See `StandardROIHeads`."""
        super().__init__(**arguments)

    @classmethod
    def from_config(cls, cfg, input_shape: dict[str, ShapeSpec]) -> dict[str, Any]:
        parts = super().from_config(cfg, input_shape)
        for part in ("box", "mask"):
            pooler, names = parts[f"{part}_pooler"], parts[f"{part}_in_features"]
            parts[f"{part}_pooler"] = _pixel_pooler(pooler, names, input_shape)
        parts["box_predictor"] = GluonOutputLayers(cfg, parts["box_head"].output_shape)
        return parts

    def _forward_mask(self, features: dict[str, Tensor], instances: list[Instances]) -> Any:
        if not self.training:
            return super()._forward_mask(features, instances)
        learned = _learned(instances)
        boxes = [one.proposal_boxes[one.has_targets] for one in instances]
        return self.mask_head(self.mask_pooler([features[name] for name in self.in_features], boxes), learned)


@ROI_HEADS_REGISTRY.register()
class GluonRes5ROIHeads(_Sampling, BackboneROIHeads):
    """Regions of res4, then res5 with its stride, with GluonCV's pooling, samples, losses and detections."""

    @configurable
    def __init__(self, **arguments: Any):
        """See `BackboneROIHeads`."""
        super().__init__(**arguments)

    @classmethod
    def from_config(cls, cfg, input_shape: dict[str, ShapeSpec]) -> dict[str, Any]:
        parts = super().from_config(cfg, input_shape)
        parts["pooler"] = _pixel_pooler(parts["pooler"], parts["in_features"], input_shape)
        channels = parts["box_predictor"].cls_score.in_features
        parts["box_predictor"] = GluonOutputLayers(cfg, ShapeSpec(channels=channels, height=1, width=1))
        return parts

    def forward(
        self,
        images: Any,
        features: dict[str, Tensor],
        proposals: list[Instances],
        targets: list[Instances] | None = None,
    ) -> tuple[list[Instances], dict[str, Tensor]]:
        if not self.training:
            return super().forward(images, features, proposals, targets)
        proposals = self.label_and_sample_proposals(proposals, targets)
        maps = [features[name] for name in self.in_features]
        pooled = self._shared_roi_transform(maps, [one.proposal_boxes for one in proposals])
        losses = self.box_predictor.losses(self.box_predictor(pooled.mean(dim=(2, 3))), proposals)
        chosen = torch.cat([one.has_targets for one in proposals])
        return [], {**losses, **self.mask_head(pooled[chosen], _learned(proposals))}


# Keys of Detectron2's heads without effect on GluonCV's: the default value, and what GluonCV does.
_WITHOUT_EFFECT = {
    "BBOX_REG_LOSS_TYPE": ("smooth_l1",),
    "POOLER_TYPE": ("ROIAlignV2", "ROIAlign"),
    "POOLER_SAMPLING_RATIO": (0, _SAMPLES),
}


def _find_problem(node: CfgNode) -> str:
    """Return the problem with a key of MODEL that was set and has no effect here; "" if there is none."""
    for section in ("ROI_BOX_HEAD", "ROI_MASK_HEAD"):
        for key, values in _WITHOUT_EFFECT.items():
            found = node[section].get(key, values[0])
            if found not in values:
                return (
                    f"MODEL.{section}.{key} {found} has no effect with MODEL.ROI_HEADS.NAME "
                    f"{node.ROI_HEADS.NAME}; leave it out, or set the name to StandardROIHeads"
                )
    return ""


def _pixel_pooler(
    pooler: ROIPooler, names: Sequence[str], input_shape: dict[str, ShapeSpec]
) -> PixelLevelPooler:
    return PixelLevelPooler(pooler.output_size[0], [1 / input_shape[name].stride for name in names])
