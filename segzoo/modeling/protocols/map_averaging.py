"""Average of the final score maps over several scales, with and without a horizontal flip.

K classes, H W the original size of an image.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from detectron2.modeling import DatasetMapperTTA
from fvcore.transforms import HFlipTransform
from torch import Tensor

from ..labels import best_class
from ..segmentor import Segmentor
from .protocol_model import ProtocolModel


@dataclass(frozen=True)
class MapAveraging:
    """The protocol of the published multi-scale results of MaskFormer and Mask2Former.

    Attributes:
        short_edges: short sides of the copies, in pixels; copies are made from the test mapper's image.
        long_edge_max: maximum long side of a copy.
        flip: also test each copy flipped.
    """

    name: ClassVar[str] = "maskformer_tta"
    mode: ClassVar[str] = "whole"

    short_edges: tuple[int, ...]
    long_edge_max: int
    flip: bool


class SemanticTTA(ProtocolModel):
    """Averages the final semantic score maps of a model over resized and flipped copies of an image.

    The copies are made as Detectron2's `DatasetMapperTTA` does.
    """

    def __init__(
        self, model: Segmentor, protocol: MapAveraging, *, flip_pairs: Sequence[tuple[int, int]] = ()
    ):
        """
        Args:
            model, flip_pairs: see `ProtocolModel`.
            protocol: which copies are averaged.

        Raises:
            InputError: the model does not support the task "semantic".
        """
        super().__init__(model, protocol, flip_pairs)
        self.mapper = DatasetMapperTTA(list(protocol.short_edges), protocol.long_edge_max, protocol.flip)

    @property
    def semantic_resizing(self) -> str | None:
        """`semantic_resizing` of the averaged maps."""
        return self.model.semantic_resizing

    def test(self, inputs: dict, semantic: str) -> Tensor:
        scores = self._average(inputs)
        return scores if semantic == "scores" else best_class([scores])

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
