"""Labels of per-pixel methods from their class scores, against torch's interpolate and argmax."""

from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F

from segzoo.modeling.resized_labels import resized_labels

from . import Case, Pair


def labels(num_classes: int, source: tuple[int, int], size: tuple[int, int]) -> Pair:
    """Compare on smooth random scores."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.randn(1, num_classes, 9, 12, generator=generator)
    scores = F.interpolate(coarse, source, mode="bicubic")[0]
    scores = scores + 0.1 * torch.randn(scores.shape, generator=generator)

    def ours() -> Tensor:
        found = resized_labels(scores, size, size, size, align_corners=False)
        assert found is not None
        return found

    def theirs() -> Tensor:
        return F.interpolate(scores[None], size, mode="bilinear", align_corners=False)[0].argmax(0)

    def compare(one: Tensor, other: Tensor) -> str:
        # Rounding may decide between two classes of equal score.
        differing = int((one != other).sum())
        return f"{'' if differing <= 2e-5 * one.numel() else 'DIFFERENT, '}{differing} px differ"

    return Pair(ours, theirs, compare)


CASES = [
    Case(
        f"labels-{size[0]}x{size[1]}x{num_classes}",
        f"labels of {size[0]} x {size[1]} pixels from scores of {num_classes} classes at a quarter of "
        "the size; peer: torch's interpolate and argmax",
        partial(labels, num_classes, (size[0] // 4, size[1] // 4), size),
        goal=2.0,
        memory_goal=0.1,
    )
    for num_classes, size in ((150, (512, 512)), (19, (1024, 2048)))
]
