"""The head of DeepLabV3 (Chen et al., arXiv:1706.05587)."""

from collections.abc import Mapping, Sequence

from detectron2.config import configurable
from detectron2.modeling import SEM_SEG_HEADS_REGISTRY
from torch import Tensor, nn

from segzoo.modeling.per_pixel import ASPP, PixelHead
from segzoo.utils.errors import InputError


@SEM_SEG_HEADS_REGISTRY.register()
class ASPPHead(PixelHead):
    """Atrous spatial pyramid pooling, projection, 3 x 3 convolutions and a classifier."""

    @configurable
    def __init__(
        self,
        *,
        dilations: Sequence[int] = (12, 24, 36),
        projection_kernel: int = 1,
        projection_dropout: float = 0.5,
        num_convs: int = 1,
        pooling_first: bool = False,
        **shared,
    ):
        """
        Args:
            dilations: dilations of the pyramid's 3 x 3 convolutions.
            projection_kernel: kernel size of the convolution that fuses the pyramid, odd.
            projection_dropout: probability of dropping single values after it.
            num_convs: number of 3 x 3 convolutions after it.
            pooling_first: the order of the branches, see `ASPP`.
            shared: see `PixelHead`.
        """
        super().__init__(**shared)
        if projection_kernel % 2 == 0:
            raise InputError(f"projection_kernel {projection_kernel}: expected an odd number")
        self.aspp = ASPP(
            self.in_channels(self.in_features[-1]),
            self.channels,
            dilations,
            self.norm,
            self.align_corners,
            pooling_first,
        )
        self.projection = self.conv(self.aspp.out_channels, self.channels, projection_kernel)
        self.projection_dropout = nn.Dropout(projection_dropout)
        self.convs = nn.Sequential(*(self.conv(self.channels, self.channels, 3) for _ in range(num_convs)))
        self.predictor = self.classifier(self.channels)

    @classmethod
    def from_config(cls, cfg, input_shape) -> dict:
        node = cfg.MODEL.DEEPLABV3
        return {
            **super().from_config(cfg, input_shape),
            "dilations": tuple(node.DILATIONS),
            "projection_kernel": node.PROJECTION_KERNEL,
            "projection_dropout": node.PROJECTION_DROPOUT,
            "num_convs": cfg.MODEL.SEM_SEG_HEAD.NUM_CONVS,
            "pooling_first": node.POOLING_FIRST,
        }

    def forward(self, features: Mapping[str, Tensor]) -> dict[str, Tensor]:
        pyramid = self.aspp(features[self.in_features[-1]])
        projected = self.convs(self.projection_dropout(self.projection(pyramid)))
        return {"logits": self.predictor(self.dropout(projected))}
