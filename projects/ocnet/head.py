"""Heads of OCNet (Yuan and Wang, arXiv:1809.00916, section 3.3): Base-OC and ASP-OC."""

from collections.abc import Mapping, Sequence

import torch
from detectron2.config import configurable
from detectron2.modeling import SEM_SEG_HEADS_REGISTRY
from fvcore.nn.weight_init import c2_msra_fill
from torch import Tensor, nn

from segzoo.modeling.per_pixel import PixelHead

from .attention import ObjectContext


@SEM_SEG_HEADS_REGISTRY.register()
class OCNetBaseHead(PixelHead):
    """3 x 3 convolution, object context joined with its input, 1 x 1 convolution and a classifier."""

    @configurable
    def __init__(self, **shared):
        """
        Args:
            shared: see `PixelHead`.
        """
        super().__init__(**shared)
        channels = self.channels
        self.reduce = self.conv(self.in_channels(self.in_features[-1]), channels, 3, bias=True)
        self.context = ObjectContext(channels, channels // 2, channels // 2, self.norm)
        self.fuse = self.conv(2 * channels, channels, bias=True)
        self.predictor = self.classifier(channels)

    def forward(self, features: Mapping[str, Tensor]) -> dict[str, Tensor]:
        x = self.reduce(features[self.in_features[-1]])
        fused = self.fuse(torch.cat([self.context(x), x], dim=1))
        return {"logits": self.predictor(self.dropout(fused))}


@SEM_SEG_HEADS_REGISTRY.register()
class OCNetASPHead(PixelHead):
    """Object context in parallel with a 1 x 1 and three dilated 3 x 3 convolutions."""

    @configurable
    def __init__(self, *, dilations: Sequence[int] = (12, 24, 36), **shared):
        """
        Args:
            dilations: dilations of the 3 x 3 convolutions, for a map of stride 8.
            shared: see `PixelHead`.
        """
        super().__init__(**shared)
        in_channels, channels = self.in_channels(self.in_features[-1]), self.channels
        self.reduce = self.conv(in_channels, channels, 3, bias=True)
        self.context = ObjectContext(
            channels, channels // 2, channels, self.norm, pooling=2, align_corners=self.align_corners
        )
        # The zero initialization is meant for a residual sum; before a norm and a ReLU zero would stay zero.
        c2_msra_fill(self.context.output)
        self.context_out = self.conv(channels, channels, bias=True)
        self.branches = nn.ModuleList([self.conv(in_channels, channels)])
        for dilation in dilations:
            self.branches.append(self.conv(in_channels, channels, 3, dilation=dilation))
        self.fuse = self.conv((1 + len(self.branches)) * channels, channels)
        self.predictor = self.classifier(channels)

    def forward(self, features: Mapping[str, Tensor]) -> dict[str, Tensor]:
        x = features[self.in_features[-1]]
        context = self.context_out(self.context(self.reduce(x)))
        fused = self.fuse(torch.cat([context, *(branch(x) for branch in self.branches)], dim=1))
        return {"logits": self.predictor(self.dropout(fused))}
