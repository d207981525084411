"""Losses on per-pixel class scores.

Shape shorthand: N images, K classes, h w pixels of the logits, H W pixels of the input.
"""

import math
from collections.abc import Sequence

import torch
from detectron2.config import configurable
from torch import Tensor, nn
from torch.nn import functional as F

from segzoo.layers.resize import resize
from segzoo.layers.runtime import PendingMeans, mean_over_processes
from segzoo.utils.errors import InputError

from ..registry import PIXEL_LOSS_REGISTRY

# Pixels that a sum of losses is divided by the number of, see `PixelLoss`.
AVERAGES = ("valid", "all")


class PixelLoss(nn.Module):
    """Resizes logits and labels to the same size; a subclass compares them.

    Args:
        ignore_label: label of pixels that are ignored.
        align_corners: for the bilinear resizing of the logits.
        class_weights: K weights, or () for equal ones.
        zoom_factor: 8: logits are compared at the input's size H x W; 1, 2, 4: at (side - 1) / 8 *
            zoom_factor + 1, with every (8 / zoom_factor)-th label (semseg's option to save memory).
        average_over: divisor of a sum of losses. "valid": the pixels in the sum, as in semseg, pytorch-cv,
            torchvision and MaskFormer's baselines. "all": all pixels, including those that are not in the sum
            (ignored, padded, easy ones), as in mmsegmentation and SegFormer. Each pixel counts with the
            weight of its class; ignored pixels have weight 1.
    """

    def __init__(
        self,
        *,
        ignore_label: int = 255,
        align_corners: bool = False,
        class_weights: Sequence[float] = (),
        zoom_factor: int = 8,
        average_over: str = "valid",
    ):
        super().__init__()
        if average_over not in AVERAGES:
            raise InputError(f"average_over {average_over!r}: expected {' or '.join(AVERAGES)}")
        if zoom_factor not in (1, 2, 4, 8):
            raise InputError(f"zoom_factor {zoom_factor}: expected 1, 2, 4 or 8")
        self.ignore_label = ignore_label
        self.align_corners = align_corners
        self.zoom_factor = zoom_factor
        self.average_over = average_over
        weights = torch.tensor(class_weights, dtype=torch.float32) if class_weights else None
        self.register_buffer("class_weights", weights, persistent=False)

    @classmethod
    def from_config(cls, cfg) -> dict:
        node = cfg.MODEL.SEM_SEG_HEAD
        weights = tuple(node.LOSS.CLASS_WEIGHTS)
        if weights and len(weights) != node.NUM_CLASSES:
            raise InputError(
                f"MODEL.SEM_SEG_HEAD.LOSS.CLASS_WEIGHTS has {len(weights)} weights for {node.NUM_CLASSES} "
                "classes; give one for each class, or () for equal weights"
            )
        if weights and not (min(weights) >= 0 and max(weights) > 0):
            raise InputError(
                f"MODEL.SEM_SEG_HEAD.LOSS.CLASS_WEIGHTS {weights}: expected values of at least 0, not all 0"
            )
        return {
            "ignore_label": node.IGNORE_VALUE,
            "align_corners": node.ALIGN_CORNERS,
            "class_weights": weights,
            "zoom_factor": node.LOSS.ZOOM_FACTOR,
            "average_over": node.LOSS.AVERAGE_OVER,
        }

    def forward(self, logits: Tensor, labels: Tensor, exchanged: PendingMeans | None = None) -> Tensor:
        """Compute the loss.

        Args:
            logits: (N, K, h, w) float.
            labels: (N, H, W) int64 in [0, K) or ignored.
            exchanged: what `exchange` returned for these labels; None: the loss exchanges by itself.
        """
        labels = self._zoomed(labels)
        logits = resize(logits.float(), labels.shape[-2:], self.align_corners)
        # Most losses exchange nothing that the labels determine, and have no such argument.
        return self.compare(logits, labels) if exchanged is None else self.compare(logits, labels, exchanged)

    def exchange(self, labels: Tensor) -> PendingMeans | None:
        """Start to exchange with other processes what the labels determine of the loss; None: nothing."""
        return None

    def compare(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Compute the loss of (N, K, H, W) float32 logits and (N, H, W) int64 labels."""
        raise NotImplementedError

    def total_weight(self, labels: Tensor) -> int | Tensor:
        """Return the total weight of (N, H, W) labels: each pixel has its class's weight, ignored ones 1."""
        if self.class_weights is None:
            return labels.numel()
        return self.pixel_weights(labels, ignored=1.0).sum()

    def pixel_weights(self, labels: Tensor, ignored: float = 0.0) -> Tensor:
        """Return the weight of the class of each pixel, (N, H, W) float; ignored pixels have `ignored`."""
        counted = labels != self.ignore_label
        if self.class_weights is None:
            return torch.where(counted, 1.0, ignored)
        # Not `labels[counted]`, whose size the host would have to wait for.
        return torch.where(counted, self.class_weights[labels.where(counted, 0)], ignored)

    def _zoomed(self, labels: Tensor) -> Tensor:
        if self.zoom_factor == 8:
            return labels
        step = 8 // self.zoom_factor
        height, width = labels.shape[-2:]
        if (height - 1) % 8 or (width - 1) % 8:
            raise InputError(
                f"zoom_factor {self.zoom_factor} needs inputs of 8 k + 1 pixels a side, found {height} x "
                f"{width}; set INPUT.CROP_SIZE accordingly"
            )
        return labels[:, ::step, ::step]


@PIXEL_LOSS_REGISTRY.register()
class CrossEntropy(PixelLoss):
    """Softmax cross-entropy, weighted by class and averaged over the pixels that `average_over` selects.

    The average is over the pixels of all processes, so that N processes train like one on all their batches.
    If no pixel counts, the loss is 0.
    """

    @configurable
    def __init__(self, **shared):
        super().__init__(**shared)

    def exchange(self, labels: Tensor) -> PendingMeans | None:
        # A subclass may divide by something else, or not take what was exchanged.
        own = type(self).compare is CrossEntropy.compare and type(self).forward is PixelLoss.forward
        return self._exchange_weight(self._zoomed(labels)) if own else None

    def compare(self, logits: Tensor, labels: Tensor, exchanged: PendingMeans | None = None) -> Tensor:
        total = F.cross_entropy(
            logits, labels, self.class_weights, ignore_index=self.ignore_label, reduction="sum"
        )
        (weight,) = (exchanged or self._exchange_weight(labels)).values()
        return total / weight.clamp(min=1e-12)

    def _exchange_weight(self, labels: Tensor) -> PendingMeans:
        weight: int | Tensor
        if self.average_over == "all":
            weight = self.total_weight(labels)
        elif self.class_weights is None:
            weight = (labels != self.ignore_label).sum()
        else:
            weight = self.pixel_weights(labels).sum()
        return PendingMeans([weight], labels.device)


@PIXEL_LOSS_REGISTRY.register()
class OHEMCrossEntropy(PixelLoss):
    """Cross-entropy over the hardest pixels (online hard example mining, arXiv:1604.03540).

    It keeps the pixels whose true class has a probability of at most `threshold` and, if these are too few,
    the hardest N H W / `keep_fraction`.

    Args:
        threshold: in [0, 1].
        keep_fraction: at least 1 / keep_fraction of all pixels, including ignored ones, are kept.
        shared: see `PixelLoss`.
    """

    @configurable
    def __init__(self, *, threshold: float = 0.7, keep_fraction: float = 16, **shared):
        super().__init__(**shared)
        if not 0 <= threshold <= 1:
            raise InputError(f"threshold {threshold}: expected a probability from 0 to 1")
        if keep_fraction < 1:
            raise InputError(
                f"keep_fraction {keep_fraction}: expected 1 or more (1 / keep_fraction of pixels are kept)"
            )
        self.threshold = threshold
        self.keep_fraction = keep_fraction

    @classmethod
    def from_config(cls, cfg) -> dict:
        node = cfg.MODEL.SEM_SEG_HEAD.LOSS
        return {
            **super().from_config(cfg),
            "threshold": node.OHEM_THRESHOLD,
            "keep_fraction": node.OHEM_KEEP_FRACTION,
        }

    def compare(self, logits: Tensor, labels: Tensor) -> Tensor:
        losses = F.cross_entropy(logits, labels, ignore_index=self.ignore_label, reduction="none")
        kept = self._hardest(losses.detach(), labels != self.ignore_label)
        losses, weights = losses.where(kept, 0), self.pixel_weights(labels).where(kept, 0)
        weight = self.total_weight(labels) if self.average_over == "all" else weights.sum()
        return (losses * weights).sum() / mean_over_processes(weight, logits.device).clamp(min=1e-12)

    def _hardest(self, losses: Tensor, counted: Tensor) -> Tensor:
        """Return which of the counted pixels are kept, (N, H, W) bool, without waiting for the device.

        Pixels whose loss is NaN are kept, so that the training stops.
        """
        # The loss is -log p: a lower probability has a higher loss.
        lowest = -torch.tensor(self.threshold).log().item()
        at_least = int(losses.numel() / self.keep_fraction)
        if not at_least:
            return counted & ~(losses < lowest)
        # Fewer counted pixels than that end in minus infinity, so that all of them are kept.
        hardest = losses.where(counted, -math.inf).flatten().topk(at_least, sorted=False).values
        return counted & ~(losses < hardest.amin().clamp(max=lowest))
