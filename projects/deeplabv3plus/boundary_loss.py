"""Cross-entropy with relaxed boundaries (Zhu et al., VPLR, CVPR 2019, section 3.3).

Shape shorthand: K classes, H W pixels of an image.
"""

from collections.abc import Sequence

import torch
from detectron2.config import configurable
from detectron2.utils.events import get_event_storage
from torch import Tensor
from torch.nn import functional as F

from segzoo.modeling.per_pixel.losses import PixelLoss
from segzoo.modeling.registry import PIXEL_LOSS_REGISTRY
from segzoo.utils.errors import InputError


@PIXEL_LOSS_REGISTRY.register()
class BoundaryRelaxedCrossEntropy(PixelLoss):
    """Cross-entropy that accepts every nearby class at a boundary: -log of their summed probability.

    The loss of a pixel is multiplied by the mean weight of its classes. The loss of an image is the sum over
    labeled pixels divided by their number + 1 (`average_over` "all": by the number of all pixels), and the
    loss of a batch the sum over its images, as published. It therefore grows with the number of images per
    process: two in the published recipe.

    From `end_iteration` on, a pixel has only its own class, and counts twice at a boundary.
    """

    @configurable
    def __init__(
        self,
        *,
        radius: int = 1,
        strict_classes: Sequence[int] = (),
        class_weight_bound: float = 1.0,
        end_iteration: int = -1,
        **shared,
    ):
        """
        Args:
            radius: radius of a pixel's square neighborhood, 1 for 3 x 3.
            strict_classes: classes whose own pixels are never relaxed.
            class_weight_bound: a class has weight 1 + this x (1 - its fraction of all classes of all pixels
                of the image, with void as a class).
            end_iteration: iteration of the trainer at which relaxation ends; -1: never.
            shared: see `PixelLoss`; `class_weights` are factors on the weights.
        """
        super().__init__(**shared)
        if radius < 0:
            raise InputError(f"radius {radius}: expected 0 or more")
        self.radius = radius
        self.strict_classes = tuple(strict_classes)
        self.class_weight_bound = class_weight_bound
        self.end_iteration = end_iteration

    @classmethod
    def from_config(cls, cfg) -> dict:
        node = cfg.MODEL.BOUNDARY_RELAXED
        num_classes = cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES
        for label in node.STRICT_CLASSES:
            if not isinstance(label, int) or not 0 <= label < num_classes:
                raise InputError(
                    f"MODEL.BOUNDARY_RELAXED.STRICT_CLASSES has {label!r}, expected indices in "
                    f"[0, {num_classes}), the dataset's class indices"
                )
        return {
            **super().from_config(cfg),
            "strict_classes": tuple(node.STRICT_CLASSES),
            "class_weight_bound": node.CLASS_WEIGHT_BOUND,
            "end_iteration": node.END_ITERATION,
        }

    def compare(self, logits: Tensor, labels: Tensor) -> Tensor:
        relaxed = self.end_iteration < 0 or _iteration() < self.end_iteration
        losses = [self._image_loss(*pair, relaxed) for pair in zip(logits, labels, strict=True)]
        return torch.stack(losses).sum()

    def _image_loss(self, logits: Tensor, labels: Tensor, relaxed: bool) -> Tensor:
        """Compute the loss of one image from (K, H, W) logits and (H, W) labels."""
        num_classes = len(logits)
        labels = labels.masked_fill(labels == self.ignore_label, num_classes)
        present = classes_around(labels, num_classes, self.radius if relaxed else 0, self.strict_classes)
        pixel_weights = torch.ones_like(logits[0])
        if not relaxed:
            pixel_weights += at_boundary(labels)

        counts = (present * pixel_weights).sum(dim=(1, 2))
        present = present[:num_classes]
        class_weights = 1 + self.class_weight_bound * (1 - counts / counts.sum())[:num_classes]
        if self.class_weights is not None:
            class_weights = class_weights * self.class_weights
        num_present = present.sum(dim=0)
        counted = num_present > 0
        mean_weight = torch.einsum("k,khw->hw", class_weights, present.to(class_weights))
        mean_weight = mean_weight / num_present.clamp(min=1) * pixel_weights

        # -log of the sum of the accepted probabilities; without any class all are accepted, which gives 0.
        accepted = logits.masked_fill(~(present | ~counted), -torch.inf)
        losses = logits.logsumexp(dim=0) - accepted.logsumexp(dim=0)
        divisor = labels.numel() if self.average_over == "all" else counted.sum() + 1
        return (losses * mean_weight * counted).sum() / divisor


def classes_around(labels: Tensor, num_classes: int, radius: int, strict_classes: Sequence[int]) -> Tensor:
    """Return which classes occur around each pixel.

    Args:
        labels: (H, W) int64 in [0, K]; K is void, as is everything outside of the image.
        num_classes: K.
        radius: radius of the neighborhood; 0: only the pixel itself.
        strict_classes: a pixel of these classes has only its own class.

    Returns:
        (K + 1, H, W) bool, void last.
    """
    height, width = labels.shape
    own = torch.zeros((num_classes + 1, height, width), dtype=torch.bool, device=labels.device)
    own.scatter_(0, labels[None], True)
    if not radius:
        return own
    around = own.clone()
    padded = F.pad(labels, (radius,) * 4, value=num_classes)
    for row in range(2 * radius + 1):
        for column in range(2 * radius + 1):
            around.scatter_(0, padded[row : row + height, column : column + width][None], True)
    strict = torch.isin(labels, torch.tensor(strict_classes, dtype=labels.dtype, device=labels.device))
    return torch.where(strict, own, around)


def at_boundary(labels: Tensor) -> Tensor:
    """Return which pixels have a neighbor above, below, left or right with another label or void, (H, W)."""
    boundary = torch.zeros_like(labels, dtype=torch.bool)
    vertical = labels[1:] != labels[:-1]
    horizontal = labels[:, 1:] != labels[:, :-1]
    boundary[1:] |= vertical
    boundary[:-1] |= vertical
    boundary[:, 1:] |= horizontal
    boundary[:, :-1] |= horizontal
    return boundary


def _iteration() -> int:
    """Return the trainer's iteration, 0 outside of training."""
    try:
        return get_event_storage().iter
    except AssertionError:
        return 0
