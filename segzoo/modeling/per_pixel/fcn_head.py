"""The head of FCN, and the auxiliary head of most methods (Long et al., CVPR 2015)."""

from collections.abc import Mapping

import torch
from detectron2.config import configurable
from detectron2.modeling import SEM_SEG_HEADS_REGISTRY
from torch import Tensor, nn

from .head import PixelHead


@SEM_SEG_HEADS_REGISTRY.register()
class FCNHead(PixelHead):
    """3 x 3 convolutions on one feature map, dropout and a classifier."""

    @configurable
    def __init__(self, *, num_convs: int = 1, concat_input: bool = False, **shared):
        """
        Args:
            num_convs: number of 3 x 3 convolutions with `channels` channels.
            concat_input: concatenate the input with their output, followed by one more 3 x 3 convolution, as
                mmsegmentation's FCN does.
            shared: see `PixelHead`.
        """
        super().__init__(**shared)
        in_channels = self.in_channels(self.in_features[-1])
        before = [in_channels] + [self.channels] * (num_convs - 1)
        self.convs = nn.Sequential(
            *(self.conv(channels, self.channels, 3) for channels in before[:num_convs])
        )
        convolved = self.channels if num_convs else in_channels
        self.conv_cat = self.conv(in_channels + convolved, self.channels, 3) if concat_input else None
        self.predictor = self.classifier(self.channels if concat_input else convolved)

    @classmethod
    def from_config(cls, cfg, input_shape) -> dict:
        node = cfg.MODEL.SEM_SEG_HEAD
        return {
            **super().from_config(cfg, input_shape),
            "num_convs": node.NUM_CONVS,
            "concat_input": node.CONCAT_INPUT,
        }

    def forward(self, features: Mapping[str, Tensor]) -> dict[str, Tensor]:
        x = features[self.in_features[-1]]
        convolved = self.convs(x)
        if self.conv_cat is not None:
            convolved = self.conv_cat(torch.cat([x, convolved], dim=1))
        return {"logits": self.predictor(self.dropout(convolved))}
