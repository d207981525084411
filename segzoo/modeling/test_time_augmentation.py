"""Test-time augmentation of semantic segmentation: several scales, with and without a horizontal flip.

K classes, H W the original size of an image.
"""

from collections.abc import Sequence

import torch
from detectron2.config import CfgNode, configurable
from detectron2.modeling import DatasetMapperTTA
from fvcore.transforms import HFlipTransform
from torch import Tensor, nn

from segzoo.utils.errors import InputError


class SemanticTTA(nn.Module):
    """Averages the finished semantic score maps of a model over resized and flipped copies of an image.

    The copies are made from the image that the test mapper hands over, as Detectron2's `DatasetMapperTTA`
    does: MaskFormer's and Mask2Former's published multi-scale numbers come from this protocol.

    Args:
        model: returns `sem_seg` (K, H, W) at the size given by `height` and `width` of its input.
        mapper: makes the augmented inputs of one image, each with its `transforms`.
        flip_pairs: classes that trade places in a mirrored image, such as left and right arm.

    Raises:
        InputError: the model returns labels instead of scores, or has other tasks.
    """

    @configurable
    def __init__(
        self, model: nn.Module, *, mapper: DatasetMapperTTA, flip_pairs: Sequence[tuple[int, int]] = ()
    ):
        super().__init__()
        if getattr(model, "sem_seg_output", "scores") == "labels":
            raise InputError(
                "TEST.AUG averages scores, but the model's sem_seg_output is 'labels'; set 'scores'"
            )
        self.model = model
        self.mapper = mapper
        self.flip_pairs = flip_pairs

    @classmethod
    def from_config(cls, cfg: CfgNode, model: nn.Module, flip_pairs: Sequence[tuple[int, int]] = ()) -> dict:
        if tuple(cfg.TEST.TASKS) != ("semantic",):
            raise InputError(
                f"TEST.AUG supports the semantic task only, but TEST.TASKS is {tuple(cfg.TEST.TASKS)}; "
                "set TEST.AUG.ENABLED False or TEST.TASKS \"('semantic',)\""
            )
        mapper = DatasetMapperTTA(cfg.TEST.AUG.MIN_SIZES, cfg.TEST.AUG.MAX_SIZE, cfg.TEST.AUG.FLIP)
        return {"model": model, "mapper": mapper, "flip_pairs": flip_pairs}

    @torch.no_grad()
    def forward(self, batched_inputs: list[dict]) -> list[dict[str, Tensor]]:
        """Detectron2's list of inputs (`image`, `height`, `width`) -> a list of `sem_seg` (K, H, W)."""
        return [{"sem_seg": self._average(inputs)} for inputs in batched_inputs]

    def _average(self, inputs: dict) -> Tensor:
        augmented = self.mapper(inputs)
        total = None
        for copy in augmented:
            transforms = copy.pop("transforms")
            scores = self.model([copy])[0]["sem_seg"]
            if any(isinstance(transform, HFlipTransform) for transform in transforms.transforms):
                scores = self._unflip(scores)
            total = scores if total is None else total.add_(scores)
        return total.div_(len(augmented))

    def _unflip(self, scores: Tensor) -> Tensor:
        scores = scores.flip(-1)
        for left, right in self.flip_pairs:
            scores[[left, right]] = scores[[right, left]]
        return scores
