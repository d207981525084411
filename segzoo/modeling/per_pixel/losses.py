"""Losses on the class scores of pixels.

Shape shorthand: N images, K classes, h w pixels of the logits, H W pixels of the input.
"""

from collections.abc import Sequence

import torch
from detectron2.config import configurable
from torch import Tensor, nn
from torch.nn import functional as F

from segzoo.layers.resize import resize
from segzoo.layers.runtime import mean_over_processes
from segzoo.utils.errors import InputError

from ..registry import PIXEL_LOSS_REGISTRY

# Whose number a sum of losses is divided by: see `PixelLoss`.
AVERAGES = ("valid", "all")


class PixelLoss(nn.Module):
    """Brings logits and labels to one size; a subclass compares them.

    Args:
        ignore_label: of pixels that do not count.
        align_corners: of the bilinear resizing of the logits.
        class_weights: K weights, or () for equal ones.
        zoom_factor: 8: logits are compared at the input's size H x W; 1, 2, 4: at (side - 1) / 8 *
            zoom_factor + 1, where every (8 / zoom_factor)-th label is taken (semseg's option to save memory).
        average_over: what a sum of losses is divided by. "valid": the pixels that are in it, as in semseg,
            pytorch-cv, torchvision and MaskFormer's baselines. "all": all pixels, those that do not count
            (ignored, padded, easy ones) too, as in mmsegmentation and SegFormer. Pixels are counted by the
            weight of their class; the ignored ones weigh 1.
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
                "classes; give one for each, or () for equal ones"
            )
        if weights and not (min(weights) >= 0 and max(weights) > 0):
            raise InputError(
                f"MODEL.SEM_SEG_HEAD.LOSS.CLASS_WEIGHTS {weights}: expected none below 0 and one above"
            )
        return {
            "ignore_label": node.IGNORE_VALUE,
            "align_corners": node.ALIGN_CORNERS,
            "class_weights": weights,
            "zoom_factor": node.LOSS.ZOOM_FACTOR,
            "average_over": node.LOSS.AVERAGE_OVER,
        }

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        """(N, K, h, w) float logits and (N, H, W) int64 labels in [0, K) or the ignore label -> scalar."""
        labels = self._zoomed(labels)
        return self.compare(resize(logits.float(), labels.shape[-2:], self.align_corners), labels)

    def compare(self, logits: Tensor, labels: Tensor) -> Tensor:
        """(N, K, H, W) float32 logits and (N, H, W) int64 labels -> scalar."""
        raise NotImplementedError

    def weight_of_all(self, labels: Tensor) -> int | Tensor:
        """The weight of all pixels of (N, H, W) labels, each by its class, the ignored ones 1."""
        if self.class_weights is None:
            return labels.numel()
        counted = labels != self.ignore_label
        return torch.where(counted, self.class_weights[labels.where(counted, 0)], 1.0).sum()

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
    """Softmax cross-entropy, weighted by class and averaged as `average_over` says.

    The average is over the pixels of all processes, so that N processes learn what one learns from their
    batches together. Without any pixel that counts the loss is 0.
    """

    @configurable
    def __init__(self, **shared):
        super().__init__(**shared)

    def compare(self, logits: Tensor, labels: Tensor) -> Tensor:
        total = F.cross_entropy(
            logits, labels, self.class_weights, ignore_index=self.ignore_label, reduction="sum"
        )
        counted = labels != self.ignore_label
        if self.average_over == "all":
            weight = self.weight_of_all(labels)
        elif self.class_weights is None:
            weight = counted.sum()
        else:
            weight = self.class_weights[labels[counted]].sum()
        return total / mean_over_processes(weight, logits.device).clamp(min=1e-12)


@PIXEL_LOSS_REGISTRY.register()
class OHEMCrossEntropy(PixelLoss):
    """Cross-entropy over the hardest pixels (online hard example mining, arXiv:1604.03540).

    Kept are the pixels whose true class has a probability of at most `threshold`, and, where these are too
    few, the hardest N H W / `keep_fraction`.

    Args:
        threshold: in [0, 1].
        keep_fraction: at least one pixel in so many is kept, void ones counted.
        shared: see `PixelLoss`.
    """

    @configurable
    def __init__(self, *, threshold: float = 0.7, keep_fraction: float = 16, **shared):
        super().__init__(**shared)
        if not 0 <= threshold <= 1:
            raise InputError(f"threshold {threshold}: expected a probability from 0 to 1")
        if keep_fraction < 1:
            raise InputError(
                f"keep_fraction {keep_fraction}: expected 1 or more; its inverse is the share of pixels kept"
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
        counted = labels != self.ignore_label
        weight_of_all = self.weight_of_all(labels) if self.average_over == "all" else None
        losses, labels = losses[counted], labels[counted]
        # The loss is -log p: of a probability that is lower it is higher.
        lowest = losses.new_tensor(self.threshold).log().neg()
        at_least = min(int(counted.numel() / self.keep_fraction), len(losses))
        if at_least:
            lowest = torch.minimum(lowest, losses.detach().topk(at_least).values[-1])
        kept = losses.detach() >= lowest
        losses, labels = losses[kept], labels[kept]
        weights = torch.ones_like(losses) if self.class_weights is None else self.class_weights[labels]
        weight = weights.sum() if weight_of_all is None else weight_of_all
        return (losses * weights).sum() / mean_over_processes(weight, logits.device).clamp(min=1e-12)
