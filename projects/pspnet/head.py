"""The head of PSPNet (Zhao et al., CVPR 2017)."""

from collections.abc import Mapping, Sequence

from detectron2.config import configurable
from detectron2.modeling import SEM_SEG_HEADS_REGISTRY
from torch import Tensor

from segzoo.modeling.per_pixel import PixelHead, PyramidPooling
from segzoo.utils.errors import InputError


@SEM_SEG_HEADS_REGISTRY.register()
class PSPHead(PixelHead):
    """Pyramid pooling, a 3 x 3 convolution, dropout and a classifier."""

    @configurable
    def __init__(self, *, bins: Sequence[int] = (1, 2, 3, 6), aligned_crops_only: bool = False, **shared):
        """
        Args:
            bins: cells per side of the pooling grids.
            aligned_crops_only: accept only inputs of 8 k + 1 pixels per side, whose corners coincide with
                those of the feature map.
            shared: see `PixelHead`; each pooled branch also has `channels` channels.
        """
        super().__init__(**shared)
        if any(side < 1 for side in bins):
            raise InputError(f"bins {tuple(bins)}: expected sides of 1 or more")
        self.aligned_crops_only = aligned_crops_only
        in_channels = self.in_channels(self.in_features[-1])
        self.pooling = PyramidPooling(in_channels, self.channels, bins, self.norm, self.align_corners)
        self.bottleneck = self.conv(self.pooling.out_channels, self.channels, 3)
        self.predictor = self.classifier(self.channels)

    @classmethod
    def from_config(cls, cfg, input_shape) -> dict:
        node = cfg.MODEL.PSPNET
        return {
            **super().from_config(cfg, input_shape),
            "bins": tuple(node.BINS),
            "aligned_crops_only": node.ALIGNED_CROPS_ONLY,
        }

    def check_crop(self, height: int, width: int) -> None:
        """Raise InputError for a side that is not 8 k + 1 if `aligned_crops_only` is set."""
        for side in (height, width) if self.aligned_crops_only else ():
            if (side - 1) % 8:
                below = (side - 1) // 8 * 8 + 1
                raise InputError(
                    "PSPNet with aligned_crops_only takes inputs of 8 k + 1 pixels a side, "
                    f"found {height} x {width}; set INPUT.CROP_SIZE to {below} or {below + 8}, and test with "
                    "windows of that size (TEST.PROTOCOL semseg_ss)"
                )

    def forward(self, features: Mapping[str, Tensor]) -> dict[str, Tensor]:
        pooled = self.pooling(features[self.in_features[-1]])
        return {"logits": self.predictor(self.dropout(self.bottleneck(pooled)))}
