"""The head of DANet (Fu et al., CVPR 2019, section 3)."""

from collections.abc import Mapping

from detectron2.config import configurable
from detectron2.modeling import SEM_SEG_HEADS_REGISTRY
from torch import Tensor

from segzoo.modeling.per_pixel import PixelHead
from segzoo.utils.errors import InputError

from .attention import ChannelAttention, PositionAttention

# Query and key have 1 / _KEY_REDUCTION of the channels.
_KEY_REDUCTION = 8


@SEM_SEG_HEADS_REGISTRY.register()
class DANetHead(PixelHead):
    """Position and channel attention in parallel, summed; in training each branch also has a classifier."""

    @configurable
    def __init__(self, *, position_softmax: str = "keys", branch_loss_weight: float = 1.0, **shared):
        """
        Args:
            position_softmax: dimension of the position attention's softmax, "keys" or "queries".
            branch_loss_weight: loss weight of the two branches' own logits.
            shared: see `PixelHead`.

        Raises:
            InputError: unknown `position_softmax`.
        """
        super().__init__(**shared)
        if position_softmax not in ("keys", "queries"):
            raise InputError(f"position_softmax {position_softmax!r}: expected keys or queries")
        self.loss_weights = {"position": branch_loss_weight, "channel": branch_loss_weight}
        in_channels, channels = self.in_channels(self.in_features[-1]), self.channels
        self.position_in = self.conv(in_channels, channels, 3)
        self.position_attention = PositionAttention(
            channels, channels // _KEY_REDUCTION, normalize_queries=position_softmax == "queries"
        )
        self.position_out = self.conv(channels, channels, 3)
        self.channel_in = self.conv(in_channels, channels, 3)
        self.channel_attention = ChannelAttention()
        self.channel_out = self.conv(channels, channels, 3)
        self.position_predictor = self.classifier(channels)
        self.channel_predictor = self.classifier(channels)
        self.predictor = self.classifier(channels)

    @classmethod
    def from_config(cls, cfg, input_shape) -> dict:
        node = cfg.MODEL.DANET
        return {
            **super().from_config(cfg, input_shape),
            "position_softmax": node.POSITION_SOFTMAX,
            "branch_loss_weight": node.BRANCH_LOSS_WEIGHT,
        }

    def forward(self, features: Mapping[str, Tensor]) -> dict[str, Tensor]:
        x = features[self.in_features[-1]]
        position = self.position_out(self.position_attention(self.position_in(x)))
        channel = self.channel_out(self.channel_attention(self.channel_in(x)))
        outputs = {"logits": self.predictor(self.dropout(position + channel))}
        if self.training:
            outputs["position"] = self.position_predictor(self.dropout(position))
            outputs["channel"] = self.channel_predictor(self.dropout(channel))
        return outputs
