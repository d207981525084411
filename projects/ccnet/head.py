"""The head of CCNet (Huang et al., ICCV 2019, section 3)."""

from collections.abc import Mapping

import torch
from detectron2.config import configurable
from detectron2.modeling import SEM_SEG_HEADS_REGISTRY
from torch import Tensor

from segzoo.modeling.per_pixel import PixelHead
from segzoo.utils.errors import InputError

from .criss_cross_attention import CrissCrossAttention

# Query and key have 1 / _KEY_REDUCTION of the channels.
_KEY_REDUCTION = 8


@SEM_SEG_HEADS_REGISTRY.register()
class CCNetHead(PixelHead):
    """3 x 3 convolution, recurrent criss-cross attention and 3 x 3 convolution, joined with the input."""

    @configurable
    def __init__(self, *, recurrence: int = 2, **shared):
        """
        Args:
            recurrence: passes of criss-cross attention, with the same weights.
            shared: see `PixelHead`.

        Raises:
            InputError: recurrence below 1.
        """
        super().__init__(**shared)
        if recurrence < 1:
            raise InputError(f"recurrence {recurrence}: expected 1 or more")
        self.recurrence = recurrence
        in_channels = self.in_channels(self.in_features[-1])
        self.reduce = self.conv(in_channels, self.channels, 3)
        self.attention = CrissCrossAttention(self.channels, self.channels // _KEY_REDUCTION)
        self.refine = self.conv(self.channels, self.channels, 3)
        self.fuse = self.conv(in_channels + self.channels, self.channels, 3)
        self.predictor = self.classifier(self.channels)

    @classmethod
    def from_config(cls, cfg, input_shape) -> dict:
        return {**super().from_config(cfg, input_shape), "recurrence": cfg.MODEL.CCNET.RECURRENCE}

    def forward(self, features: Mapping[str, Tensor]) -> dict[str, Tensor]:
        x = features[self.in_features[-1]]
        attended = self.reduce(x)
        for _ in range(self.recurrence):
            attended = self.attention(attended)
        fused = self.fuse(torch.cat([x, self.refine(attended)], dim=1))
        return {"logits": self.predictor(self.dropout(fused))}
