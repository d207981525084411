"""Labels from class scores."""

from collections.abc import Iterable

import torch
from torch import Tensor


def best_class(parts: Iterable[Tensor]) -> Tensor:
    """Return the class of the highest score for each pixel; ties go to the first.

    Args:
        parts: (k, H, W) scores of some classes each, in class order.

    Returns:
        (H, W) int16 class indices.
    """
    return best_scores(parts)[1]


def best_scores(parts: Iterable[Tensor]) -> tuple[Tensor, Tensor]:
    """Return the highest score of each pixel, (H, W), and its class as `best_class` does."""
    best_score = best = None
    offset = 0
    for part in parts:
        # On a CPU max over the first dimension is faster than argmax, with the same result.
        score, index = part.max(dim=0)
        index = index.to(torch.int16) + offset
        if best is None:
            best_score, best = score, index
        else:
            better = score > best_score
            best = torch.where(better, index, best)
            best_score = torch.where(better, score, best_score)
        offset += len(part)
    return best_score, best
