"""Losses of scores, boxes and centerness of the locations (FCOS, section 3; GIoU with one added pixel).

Shape shorthand: L locations of all images, M positive ones.
"""

import torch
import torch.nn.functional as F
from fvcore.nn import sigmoid_focal_loss
from torch import Tensor

from segzoo.layers.runtime import means_over_processes


def detection_losses(
    class_logits: Tensor, centerness_logits: Tensor, distances: Tensor, positions: Tensor, targets: Tensor
) -> dict[str, Tensor]:
    """Return the three losses, normalized by means over all processes.

    Args:
        class_logits, centerness_logits: (L,) float.
        distances: (L, 4) float, predicted, in strides.
        positions: (M,) int64, the positive locations.
        targets: (M, 4) float, their true distances, in strides.
    """
    labels = torch.zeros_like(class_logits)
    labels[positions] = 1
    centers = centerness(targets)
    count, total = means_over_processes([len(positions), centers.sum()], class_logits.device)
    count, total = count.clamp(min=1), total.clamp(min=1e-6)
    overlap = generalized_iou(distances[positions], targets)
    return {
        "loss_fcos_cls": sigmoid_focal_loss(class_logits, labels, 0.25, 2.0, reduction="sum") / count,
        "loss_fcos_loc": (centers * (1 - overlap)).sum() / total,
        "loss_fcos_ctr": F.binary_cross_entropy_with_logits(
            centerness_logits[positions], centers, reduction="sum"
        )
        / count,
    }


def centerness(distances: Tensor) -> Tensor:
    """Return sqrt(min / max of left and right, times min / max of top and bottom) of (M, 4) distances."""
    pairs = torch.stack((distances[:, [0, 2]], distances[:, [1, 3]]), 1)
    return (pairs.amin(2) / pairs.amax(2)).prod(1).sqrt()


def generalized_iou(first: Tensor, second: Tensor) -> Tensor:
    """Return the generalized IoU of boxes around one location each, given as (M, 4) distances.

    One is added to intersection and union of the IoU, as in FCOS's code, but not in the term of the hull.
    """
    left, top, right, bottom = torch.minimum(first, second).unbind(1)
    inner = (left + right) * (top + bottom)
    left, top, right, bottom = torch.maximum(first, second).unbind(1)
    hull = (left + right) * (top + bottom)
    areas = [(one[:, 0] + one[:, 2]) * (one[:, 1] + one[:, 3]) for one in (first, second)]
    union = areas[0] + areas[1] - inner
    return (inner + 1) / (union + 1) - (hull - union) / hull
