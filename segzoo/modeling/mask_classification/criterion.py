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
from torch import Tensor, nn

from segzoo.errors import InputError

from ..distributed import mean_over_workers
from .criterion_dense import DenseLoss
from .criterion_points import PointLoss
from .mask_predictions import MaskPredictions
from .matcher import MASK_LOSSES, HungarianMatcher, Matches
from .targets import SegmentTargets


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
        chunk_elements: so many pixels of stretched masks at most are in memory at a time; None: chosen by
            device.

    Holds no parameters and no buffers, so nothing of it is in a checkpoint.
    """

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

    def forward(self, outputs: Mapping, targets: Sequence[SegmentTargets]) -> dict[str, Tensor]:
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

        Returns:
            scalars, already weighted: `loss_ce`, `loss_mask`, `loss_dice`, and for auxiliary output i (0 the
            first layer) `loss_ce_i`, `loss_mask_i`, `loss_dice_i`.

        Raises:
            NonFiniteCostError: predictions are NaN or infinite.
        """
        logits = [layer["pred_logits"] for layer in (*outputs.get("aux_outputs", ()), outputs)]
        predictions = MaskPredictions.from_outputs(outputs)
        with torch.autocast(predictions.device.type, enabled=False):
            matches = self.matcher.match_layers(logits, predictions, targets)
            mask_losses, dice_losses = self._mask_losses(predictions, targets, matches)
            class_losses = [
                self._class_loss(layer_logits.to(predictions.dtype), targets, layer_matches)
                for layer_logits, layer_matches in zip(logits, matches, strict=True)
            ]
        losses = {}
        for layer, suffix in enumerate([*(f"_{i}" for i in range(len(logits) - 1)), ""]):
            losses[f"loss_ce{suffix}"] = class_losses[layer]
            losses[f"loss_mask{suffix}"] = mask_losses[layer]
            losses[f"loss_dice{suffix}"] = dice_losses[layer]
        return losses

    def _class_loss(self, logits: Tensor, targets: Sequence[SegmentTargets], matches: Matches) -> Tensor:
        """Weighted cross-entropy over all queries of the batch, and of those of the other processes.

        The weights are averaged over processes as the number of masks is, so that N processes learn what one
        learns from their batches together.
        """
        classes = torch.full(logits.shape[:2], self.num_classes, dtype=torch.int64, device=logits.device)
        for image, (queries, segments) in enumerate(matches):
            classes[image, queries] = targets[image].classes[segments]
        weights = logits.new_ones(self.num_classes + 1)
        weights[-1] = self.no_object_weight
        matched = sum(len(queries) for queries, _ in matches)
        total_weight = matched + self.no_object_weight * (classes.numel() - matched)
        losses = F.cross_entropy(logits.transpose(1, 2), classes, weights, reduction="sum")
        # No weight at all, without segments and with NO_OBJECT_WEIGHT 0: the loss is 0, not 0 / 0.
        return self.class_weight * losses / mean_over_workers(total_weight, logits.device).clamp(min=1e-12)

    def _mask_losses(
        self, predictions: MaskPredictions, targets: Sequence[SegmentTargets], matches: list[Matches]
    ) -> tuple[Tensor, Tensor]:
        """(L,) weighted mask and dice losses: sums over matches, divided by the mean number of segments."""
        loss = self._pair_loss(predictions.device)
        mask_losses, dice_losses = [], []
        for image, target in enumerate(targets):
            queries = [layer[image][0] for layer in matches]
            segments = torch.cat([layer[image][1] for layer in matches])
            image_losses = loss(predictions.rows(image, queries), target, segments)
            # Every layer has the same number of matches.
            mask, dice = (values.view(predictions.num_layers, -1).sum(1) for values in image_losses)
            mask_losses.append(mask)
            dice_losses.append(dice)
        num_masks = mean_over_workers(sum(len(target) for target in targets), predictions.device).clamp(min=1)
        return torch.stack(mask_losses).sum(0) / num_masks, torch.stack(dice_losses).sum(0) / num_masks

    def _pair_loss(self, device: torch.device) -> DenseLoss | PointLoss:
        if self.num_points:
            return PointLoss(
                self.mask_loss,
                self.mask_weight,
                self.dice_weight,
                self.num_points,
                self.oversample_ratio,
                self.importance_sample_ratio,
            )
        # On a CPU a chunk stays in the cache; a GPU wants long vectors.
        chunk_elements = self.chunk_elements or (2**19 if device.type == "cpu" else 2**24)
        return DenseLoss(self.mask_loss, self.mask_weight, self.dice_weight, chunk_elements)
