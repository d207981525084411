"""The average of finished score maps over several scales, with and without a horizontal flip.

K classes, H W the original size of an image.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from detectron2.modeling import DatasetMapperTTA
from fvcore.transforms import HFlipTransform
from torch import Tensor, nn

from ..labels import best_class
from ..segmentor import Segmentor, check_semantic
from .runner import check_semantic_only


@dataclass(frozen=True)
class MapAveraging:
    """The protocol of MaskFormer's and Mask2Former's multi-scale numbers.

    Attributes:
        short_edges: of the copies, in pixels, which are made of the image as the test mapper has resized it.
        long_edge_max: the longest long side of a copy.
        flip: each copy is tested mirrored, too.
    """

    name: ClassVar[str] = "maskformer_tta"
    mode: ClassVar[str] = "whole"

    short_edges: tuple[int, ...]
    long_edge_max: int
    flip: bool


class SemanticTTA(nn.Module):
    """Averages the finished semantic score maps of a model over resized and flipped copies of an image.

    The copies are made as Detectron2's `DatasetMapperTTA` does.

    Args:
        model: gives the task "semantic".
        protocol: which copies there are.
        flip_pairs: classes that trade places in a mirrored image, such as left and right arm.

    Raises:
        InputError: the model does not give the task "semantic".
    """

    def __init__(
        self, model: Segmentor, protocol: MapAveraging, *, flip_pairs: Sequence[tuple[int, int]] = ()
    ):
        super().__init__()
        model.check_tasks(("semantic",))
        self.model = model
        self.protocol = protocol
        self.mapper = DatasetMapperTTA(list(protocol.short_edges), protocol.long_edge_max, protocol.flip)
        self.flip_pairs = flip_pairs

    @property
    def semantic_resizing(self) -> str | None:
        """See `Segmentor`: of the maps that are averaged."""
        return self.model.semantic_resizing

    @torch.no_grad()
    def forward(
        self, batched_inputs: list[dict], *, tasks: Sequence[str] | None = None, semantic: str = "scores"
    ) -> list[dict[str, Tensor]]:
        """Tests images one by one.

        Args:
            batched_inputs: Detectron2's list of inputs: `image`, `height`, `width`.
            tasks, semantic: see `Segmentor.forward`.

        Returns:
            For each image {"sem_seg": (K, H, W) float} or {"sem_seg_labels": (H, W) int16 classes in [0, K)}.

        Raises:
            InputError: another task than "semantic" is asked for.
        """
        check_semantic_only(f"TEST.PROTOCOL {self.protocol.name}", tasks)
        check_semantic(semantic)
        averages = map(self._average, batched_inputs)
        if semantic == "labels":
            return [{"sem_seg_labels": best_class([scores])} for scores in averages]
        return [{"sem_seg": scores} for scores in averages]

    def _average(self, inputs: dict) -> Tensor:
        augmented = self.mapper(inputs)
        total = None
        for copy in augmented:
            transforms = copy.pop("transforms")
            scores = self.model([copy], tasks=("semantic",))[0]["sem_seg"]
            if any(isinstance(transform, HFlipTransform) for transform in transforms.transforms):
                scores = self._unflip(scores)
            total = scores if total is None else total.add_(scores)
        return total.div_(len(augmented))

    def _unflip(self, scores: Tensor) -> Tensor:
        scores = scores.flip(-1)
        for left, right in self.flip_pairs:
            scores[[left, right]] = scores[[right, left]]
        return scores
