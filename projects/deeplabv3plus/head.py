"""Heads of DeepLabV3+ (Chen et al., ECCV 2018): a pyramid on the coarse map, refined with a fine one."""

from collections.abc import Mapping, Sequence

import torch
from detectron2.config import configurable
from detectron2.layers import Conv2d
from detectron2.modeling import SEM_SEG_HEADS_REGISTRY
from torch import Tensor, nn

from segzoo.modeling.per_pixel import ASPP, PixelHead
from segzoo.modeling.per_pixel.aspp import separable_conv


class _PyramidAndFineMap(PixelHead):
    """Base of both heads; the first of `in_features` is the fine map, the last one the coarse map."""

    @classmethod
    def from_config(cls, cfg, input_shape) -> dict:
        node = cfg.MODEL.DEEPLABV3PLUS
        return {
            **super().from_config(cfg, input_shape),
            "dilations": tuple(node.DILATIONS),
            "fine_channels": node.FINE_CHANNELS,
        }


@SEM_SEG_HEADS_REGISTRY.register()
class ASPPDecoderHead(_PyramidAndFineMap):
    """The head with separable convolutions, as in the paper; layers as in mmsegmentation."""

    @configurable
    def __init__(self, *, dilations: Sequence[int] = (12, 24, 36), fine_channels: int = 48, **shared):
        """
        Args:
            dilations: dilations of the pyramid's 3 x 3 convolutions.
            fine_channels: channels to which the fine map is reduced.
            shared: see `PixelHead`; the first of `in_features` is the fine map, the last the coarse map.
        """
        super().__init__(**shared)
        coarse = self.in_channels(self.in_features[-1])
        self.aspp = ASPP(
            coarse, self.channels, dilations, self.norm, self.align_corners, True, separable=True
        )
        self.projection = self.conv(self.aspp.out_channels, self.channels, 3)
        self.fine = self.conv(self.in_channels(self.in_features[0]), fine_channels)
        self.decoder = nn.Sequential(
            separable_conv(self.channels + fine_channels, self.channels, self.norm),
            separable_conv(self.channels, self.channels, self.norm),
        )
        self.predictor = self.classifier(self.channels)

    def forward(self, features: Mapping[str, Tensor]) -> dict[str, Tensor]:
        fine = self.fine(features[self.in_features[0]])
        coarse = self.projection(self.aspp(features[self.in_features[-1]]))
        coarse = self.resize(coarse, fine.shape[-2:])
        return {"logits": self.predictor(self.dropout(self.decoder(torch.cat([coarse, fine], dim=1))))}


@SEM_SEG_HEADS_REGISTRY.register()
class VPLRHead(_PyramidAndFineMap):
    """The head with plain convolutions and linear projections, VPLR on WideResNet38 (Zhu et al., CVPR 2019).

    The projections have no norm, ReLU or bias, and the classifier has no bias. The published network has no
    dropout either (MODEL.SEM_SEG_HEAD.DROPOUT 0.0).
    """

    @configurable
    def __init__(self, *, dilations: Sequence[int] = (12, 24, 36), fine_channels: int = 48, **shared):
        """See `ASPPDecoderHead`."""
        super().__init__(**shared)
        coarse = self.in_channels(self.in_features[-1])
        self.aspp = ASPP(coarse, self.channels, dilations, self.norm, self.align_corners, pooling_first=True)
        self.projection = self._linear(self.aspp.out_channels, self.channels)
        self.fine = self._linear(self.in_channels(self.in_features[0]), fine_channels)
        self.decoder = nn.Sequential(
            self.conv(fine_channels + self.channels, self.channels, 3),
            self.conv(self.channels, self.channels, 3),
        )
        self.predictor = self.classifier(self.channels, bias=False)

    def _linear(self, in_channels: int, out_channels: int) -> Conv2d:
        return self.conv(in_channels, out_channels, norm="", activation=False, bias=False)

    def forward(self, features: Mapping[str, Tensor]) -> dict[str, Tensor]:
        fine = self.fine(features[self.in_features[0]])
        coarse = self.projection(self.aspp(features[self.in_features[-1]]))
        coarse = self.resize(coarse, fine.shape[-2:])
        return {"logits": self.predictor(self.dropout(self.decoder(torch.cat([fine, coarse], dim=1))))}
