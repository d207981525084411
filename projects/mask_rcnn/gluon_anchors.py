"""Anchors of whole pixels, as GluonCV and the original Faster R-CNN have them.

Shape shorthand: A anchors of a position.
"""

from collections.abc import Sequence

import numpy as np
import torch
from detectron2.config import configurable
from detectron2.modeling.anchor_generator import ANCHOR_GENERATOR_REGISTRY, DefaultAnchorGenerator
from torch import Tensor


@ANCHOR_GENERATOR_REGISTRY.register()
class WindowAnchorGenerator(DefaultAnchorGenerator):
    """Anchors around the center of the first pixels of a cell (Ren et al. 2015, the authors' code).

    The window of a cell has its pixels 0 to stride - 1. For each ratio its sides become whole numbers, which
    are then scaled to each size; corners are centers of pixels, half a pixel inside.
    """

    @configurable
    def __init__(
        self,
        *,
        sizes: Sequence[Sequence[float]],
        aspect_ratios: Sequence[Sequence[float]],
        strides: Sequence[int],
        offset: float = 0.0,
    ):
        """
        Args:
            sizes: of each level, the sides of a square anchor in pixels.
            aspect_ratios: of each level or of all, height / width.
            strides: of each level.
            offset: of the first cell; GluonCV's is 0.
        """
        self._strides = iter(strides)
        super().__init__(sizes=sizes, aspect_ratios=aspect_ratios, strides=strides, offset=offset)
        del self._strides

    def generate_cell_anchors(
        self, sizes: Sequence[float] = (32, 64, 128, 256, 512), aspect_ratios: Sequence[float] = (0.5, 1, 2)
    ) -> Tensor:
        """Return the anchors of the first cell, (A, 4): all sizes of the first ratio, then of the next."""
        stride = next(self._strides)
        center = (stride - 1) / 2
        anchors = []
        for ratio in aspect_ratios:
            # Half to even.
            width = np.round(np.sqrt(stride**2 / ratio))
            height = np.round(width * ratio)
            for size in sizes:
                x, y = (side * (size / stride) / 2 - 0.5 for side in (width, height))
                anchors.append([center - x, center - y, center + x, center + y])
        return torch.tensor(anchors)
