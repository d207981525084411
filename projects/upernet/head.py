"""The head of UPerNet (Xiao et al., ECCV 2018, section 3.1).

Shape shorthand: N images, K classes, C channels of the head, h w size of the finest level.
"""

from collections.abc import Mapping, Sequence

import torch
from detectron2.config import configurable
from detectron2.modeling import SEM_SEG_HEADS_REGISTRY
from torch import Tensor, nn

from segzoo.modeling.per_pixel import PixelHead, PyramidPooling


@SEM_SEG_HEADS_REGISTRY.register()
class UPerNetHead(PixelHead):
    """Pyramid pooling on the coarsest level and a feature pyramid to the finest, where all levels are fused.

    `laterals` and `outputs` are numbered like the levels, finest first; the coarsest level has neither: the
    result of pyramid pooling enters the pyramid and the fusion directly.
    """

    @configurable
    def __init__(self, *, bins: Sequence[int] = (1, 2, 3, 6), **shared):
        """
        Args:
            bins: cells per side of the pooling grids.
            shared: see `PixelHead`; `in_features` in order from the finest level to the coarsest.
        """
        super().__init__(**shared)
        *finer, coarsest = [self.in_channels(name) for name in self.in_features]
        self.pyramid_pooling = PyramidPooling(coarsest, self.channels, bins, self.norm, self.align_corners)
        self.bottleneck = self.conv(self.pyramid_pooling.out_channels, self.channels, 3)
        self.laterals = nn.ModuleList(self.conv(channels, self.channels) for channels in finer)
        self.outputs = nn.ModuleList(self.conv(self.channels, self.channels, 3) for _ in finer)
        self.fuse = self.conv(len(self.in_features) * self.channels, self.channels, 3)
        self.predictor = self.classifier(self.channels)

    @classmethod
    def from_config(cls, cfg, input_shape) -> dict:
        return {**super().from_config(cfg, input_shape), "bins": tuple(cfg.MODEL.UPERNET.BINS)}

    def forward(self, features: Mapping[str, Tensor]) -> dict[str, Tensor]:
        *finer, coarsest = [features[name] for name in self.in_features]
        # 1. The pyramid: from [1/4, 1/8, 1/16] and the pooled 1/32 to [1/32, 1/16, 1/8, 1/4]
        pyramid = [self.bottleneck(self.pyramid_pooling(coarsest))]
        for lateral, level in zip(reversed(self.laterals), reversed(finer), strict=True):
            pyramid.append(lateral(level) + self.resize(pyramid[-1], level.shape[-2:]))
        # 2. One more convolution on each level except the coarsest, all resized to 1/4, finest first
        size = pyramid[-1].shape[-2:]
        levels = [output(level) for output, level in zip(self.outputs, pyramid[:0:-1], strict=True)]
        levels = [self.resize(level, size) for level in (*levels, pyramid[0])]
        # 3. Fusion and classifier
        fused = self.fuse(torch.cat(levels, dim=1))
        return {"logits": self.predictor(self.dropout(fused))}
