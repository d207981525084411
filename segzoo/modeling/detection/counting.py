"""Run a two-stage detector without data, to count its operations.

Which boxes are kept depends on values, which tensors of the meta device do not have: here the first stage
proposes, and the second one returns, the largest number of boxes that it may. Pooling is not an operation
that counts.
"""

from collections.abc import Mapping

from detectron2.modeling.poolers import ROIPooler
from detectron2.modeling.roi_heads import CascadeROIHeads, Res5ROIHeads, StandardROIHeads
from torch import Tensor, nn

from segzoo.utils.errors import InputError


def run_largest(
    proposal_generator: nn.Module, roi_heads: nn.Module, features: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Run both stages of Detectron2's detector on meta tensors, in eval mode.

    Args:
        proposal_generator: Detectron2's RPN.
        roi_heads: Res5ROIHeads, StandardROIHeads or CascadeROIHeads, or derived.
        features: (N, C, h, w) maps by name.

    Returns:
        class_logits (R, K + 1) and mask_logits (D, K, m, m) of R proposals and D detections.

    Raises:
        InputError: another kind of ROI heads.
    """
    proposal_generator.rpn_head([features[name] for name in proposal_generator.in_features])
    shared = isinstance(roi_heads, Res5ROIHeads)
    if not shared and not isinstance(roi_heads, StandardROIHeads):
        raise InputError(
            f"{type(roi_heads).__name__}: operations are counted for Res5ROIHeads and StandardROIHeads only"
        )
    first = features[roi_heads.in_features[0]]
    # A cascade has a head and a predictor for each stage.
    cascade = isinstance(roi_heads, CascadeROIHeads)
    predictors = list(roi_heads.box_predictor) if cascade else [roi_heads.box_predictor]
    counts = proposal_generator.post_nms_topk[False], predictors[-1].test_topk_per_image
    proposals, detections = (count * len(first) for count in counts)
    if shared:
        pooled = roi_heads.res5(_pooled(first, roi_heads.pooler, proposals))
        logits, _ = roi_heads.box_predictor(pooled.mean(dim=[2, 3]))
        inside = roi_heads.res5(_pooled(first, roi_heads.pooler, detections))
    else:
        pooled = _pooled(first, roi_heads.box_pooler, proposals)
        for head, predictor in zip(
            roi_heads.box_head if cascade else [roi_heads.box_head], predictors, strict=True
        ):
            logits, _ = predictor(head(pooled))
        if roi_heads.mask_on:
            inside = _pooled(first, roi_heads.mask_pooler, detections)
    outputs = {"class_logits": logits}
    return {**outputs, "mask_logits": roi_heads.mask_head.layers(inside)} if roi_heads.mask_on else outputs


def _pooled(features: Tensor, pooler: ROIPooler, count: int) -> Tensor:
    return features.new_empty(count, features.shape[1], *pooler.output_size)
