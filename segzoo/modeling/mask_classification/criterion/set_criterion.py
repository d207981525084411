"""The training loss of mask classification: class, mask and dice terms of matched queries, at every layer.

Source: MaskFormer §3.3-3.4 (focal, all pixels), Mask2Former §3.3 (binary cross-entropy, uncertain points),
DETR §3.1.

Letters: L layers, N images, Q queries, K classes, C channels, S segments of an image, h w pixels of a mask.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.distributed
import torch.nn.functional as F
from detectron2.config import configurable
from torch import Tensor, nn

from segzoo.layers.runtime import mean_over_processes, without_autocast
from segzoo.utils.errors import InputError

from ...registry import CRITERION_REGISTRY
from .dense_loss import DenseLoss
from .mask_predictions import MaskPredictions
from .matched_masks import MatchedMasks
from .matcher import MASK_LOSSES, HungarianMatcher, Matches
from .point_loss import PointLoss
from .point_sampling import RandomPoints
from .target_masks import SegmentTargets


@CRITERION_REGISTRY.register()
class SetCriterion(nn.Module):
    """Matches the queries of each layer with the segments and computes the weighted losses.

    Args:
        num_classes: K, without the no-object class, which is index K of the class logits.
        matcher: pairs queries with segments; its weights are its own.
        no_object_weight: weight of queries without a segment in the cross-entropy, whose mean is weighted.
        class_weight, mask_weight, dice_weight: factors of the losses returned.
        mask_loss: "focal" (sigmoid focal loss, alpha 0.25, gamma 2) or "bce".
        num_points: points per mask on which masks are compared; 0: all pixels of the target's resolution.
        oversample_ratio, importance_sample_ratio: see `PointLoss`.
        chunk_elements: so many pixels of stretched masks, or coordinates of points, at most are in memory at
            a time; None: chosen by device.

    Holds no parameters and no buffers, so nothing of it is in a checkpoint.
    """

    @configurable
    def __init__(
        self,
        num_classes: int,
        matcher: HungarianMatcher,
        no_object_weight: float = 0.1,
        class_weight: float = 1.0,
        mask_weight: float = 20.0,
        dice_weight: float = 1.0,
        mask_loss: str = "focal",
        num_points: int = 0,
        oversample_ratio: float = 3.0,
        importance_sample_ratio: float = 0.75,
        chunk_elements: int | None = None,
    ):
        super().__init__()
        if mask_loss not in MASK_LOSSES:
            raise InputError(
                f"MODEL.MASK_FORMER.MASK_LOSS {mask_loss!r} is unknown; use one of {', '.join(MASK_LOSSES)}"
            )
        self.num_classes = num_classes
        self.matcher = matcher
        self.no_object_weight = no_object_weight
        self.class_weight = class_weight
        self.mask_weight = mask_weight
        self.dice_weight = dice_weight
        self.mask_loss = mask_loss
        self.num_points = num_points
        self.oversample_ratio = oversample_ratio
        self.importance_sample_ratio = importance_sample_ratio
        self.chunk_elements = chunk_elements

    @classmethod
    def from_config(cls, cfg) -> dict:
        node = cfg.MODEL.MASK_FORMER
        shared = {
            "class_weight": node.CLASS_WEIGHT,
            "mask_weight": node.MASK_WEIGHT,
            "dice_weight": node.DICE_WEIGHT,
            "mask_loss": node.MASK_LOSS,
            "num_points": node.TRAIN_NUM_POINTS,
        }
        return {
            "num_classes": cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES,
            "matcher": HungarianMatcher(**shared),
            "no_object_weight": node.NO_OBJECT_WEIGHT,
            "oversample_ratio": node.OVERSAMPLE_RATIO,
            "importance_sample_ratio": node.IMPORTANCE_SAMPLE_RATIO,
            **shared,
        }

    def forward(
        self,
        outputs: Mapping,
        targets: Sequence[SegmentTargets],
        points: RandomPoints | None = None,
    ) -> dict[str, Tensor]:
        """Computes the losses in float32, also under autocast.

        Args:
            outputs: a dict with
                `pred_logits`: (N, Q, K+1) float class logits, the last for no object;
                `pred_masks`: (N, Q, h, w) float mask logits, or instead of them their factors,
                    `mask_embed` (N, Q, C) and `mask_features` (N, C, h, w), from which only what is needed
                    is formed: pred_masks = einsum("nqc,nchw->nqhw", mask_embed, mask_features);
                `aux_outputs`: optional, the same for the other layers, first layer first; in the factored
                    form each has `pred_logits` and `mask_embed`, and `mask_features` are those of the main
                    prediction.
            targets: one for each of the N images, all of one size, the padded input's.
            points: where masks are compared, with NUM_POINTS; None: random.

        Returns:
            scalars, already weighted: `loss_ce`, `loss_mask`, `loss_dice`, and for auxiliary output i (0 the
            first layer) `loss_ce_i`, `loss_mask_i`, `loss_dice_i`.

        Raises:
            NonFiniteCostError: predictions are NaN or infinite.
        """
        logits = [layer["pred_logits"] for layer in (*outputs.get("aux_outputs", ()), outputs)]
        predictions = MaskPredictions.from_outputs(outputs)
        with without_autocast(predictions.device):
            points = points or RandomPoints()
            matches = self.matcher.match_layers(logits, predictions, targets, points)
            num_masks = mean_over_processes(sum(len(target) for target in targets), predictions.device)
            matched = MatchedMasks(predictions, targets, matches)
            loss = self._row_loss(predictions.device, points)
            mask_losses, dice_losses = matched.losses(loss, num_masks.clamp(min=1))
            total_weight = self._total_class_weight(logits[0], matches[0])
            class_losses = [
                self._class_loss(layer_logits.to(predictions.dtype), targets, layer_matches) / total_weight
                for layer_logits, layer_matches in zip(logits, matches, strict=True)
            ]
        losses = {}
        for layer, suffix in enumerate([*(f"_{i}" for i in range(len(logits) - 1)), ""]):
            losses[f"loss_ce{suffix}"] = class_losses[layer]
            losses[f"loss_mask{suffix}"] = mask_losses[layer]
            losses[f"loss_dice{suffix}"] = dice_losses[layer]
        return losses

    def _class_loss(self, logits: Tensor, targets: Sequence[SegmentTargets], matches: Matches) -> Tensor:
        """The sum of the weighted cross-entropy of all queries of the batch."""
        classes = torch.full(logits.shape[:2], self.num_classes, dtype=torch.int64, device=logits.device)
        for image, (queries, segments) in enumerate(matches):
            classes[image, queries] = targets[image].classes[segments]
        weights = logits.new_ones(self.num_classes + 1)
        weights[-1] = self.no_object_weight
        # As a matrix: of an image's rows CUDA has no sum that repeats to the last bit.
        losses = F.cross_entropy(logits.flatten(0, 1), classes.flatten(), weights, reduction="sum")
        return self.class_weight * losses

    def _total_class_weight(self, logits: Tensor, matches: Matches) -> Tensor:
        """The sum of the weights in the cross-entropy, which is the same in every layer.

        It is averaged over processes as the number of masks is, so that N processes learn what one learns
        from their batches together.
        """
        matched = sum(len(queries) for queries, _ in matches)
        unmatched = logits.shape[0] * logits.shape[1] - matched
        total = mean_over_processes(matched + self.no_object_weight * unmatched, logits.device)
        # No weight at all, without segments and with NO_OBJECT_WEIGHT 0: the loss is 0, not 0 / 0.
        return total.clamp(min=1e-12)

    def _row_loss(self, device: torch.device, points: RandomPoints) -> DenseLoss | PointLoss:
        weights = (self.mask_loss, self.mask_weight, self.dice_weight)
        # On a CPU a chunk stays in the cache; a GPU wants long vectors.
        chunk_elements = self.chunk_elements or (2**19 if device.type == "cpu" else 2**24)
        if self.num_points == 0:
            return DenseLoss(*weights, chunk_elements)
        ratios = (self.oversample_ratio, self.importance_sample_ratio)
        return PointLoss(*weights, self.num_points, *ratios, chunk_elements, points)
