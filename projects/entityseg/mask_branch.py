"""Mask features, which the mask networks of all entities of an image share.

Shape shorthand: N images, C channels, D mask features, h w size of the finest level.
"""

from collections.abc import Sequence

from torch import Tensor, nn

from segzoo.layers import Conv2d, conv_norm_act

from .aligned import aligned_upsample


class MaskBranch(nn.Module):
    """Mask features at the finest level from several levels of the pyramid."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int = 8,
        *,
        num_levels: int = 3,
        channels: int = 128,
        num_convs: int = 4,
        norm: str = "BN",
    ):
        """
        Args:
            in_channels: C of the levels.
            out_channels: D.
            num_levels: number of levels, each of twice the stride of the one before.
            channels: channels of the convolutions.
            num_convs: convolutions on the sum of the levels.
            norm: see `conv_norm_act`.
        """
        super().__init__()
        self.refine = nn.ModuleList(
            conv_norm_act(in_channels, channels, 3, norm=norm) for _ in range(num_levels)
        )
        self.tower = nn.Sequential(
            *(conv_norm_act(channels, channels, 3, norm=norm) for _ in range(num_convs))
        )
        for convolution in (*self.refine, *self.tower):
            nn.init.kaiming_uniform_(convolution.weight, a=1)
        self.predictor = Conv2d(channels, out_channels, 1)

    def forward(self, levels: Sequence[Tensor]) -> Tensor:
        """Compute features, (N, D, h, w), from levels, (N, C, ., .) float each, finest first."""
        x = self.refine[0](levels[0])
        height, width = x.shape[-2:]
        for index, level in enumerate(levels[1:], start=1):
            # Crops a level whose side was rounded up; published models pad images to multiples of 32.
            x = x + aligned_upsample(self.refine[index](level), 2**index)[..., :height, :width]
        return self.predictor(self.tower(x))
