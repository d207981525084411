"""The neck: the backbone's maps projected to one width, and one more level (section 3.2 of the paper).

Shape shorthand: N images, C channels, h w size of a level.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from segzoo.layers import Conv2d
from segzoo.layers.conv import norm_layer


class LevelProjection(nn.Module):
    """1 x 1 convolutions of the maps, and a strided 3 x 3 one of the last map, each with GroupNorm."""

    def __init__(self, in_channels: Sequence[int], dim: int):
        """
        Args:
            in_channels: channels of the maps, finest first.
            dim: C, a multiple of 32.
        """
        super().__init__()
        kernels = [(channels, 1) for channels in in_channels] + [(in_channels[-1], 3)]
        self.levels = nn.ModuleList(
            Conv2d(
                channels,
                dim,
                kernel,
                stride=1 if kernel == 1 else 2,
                padding=kernel // 2,
                bias=False,
                norm=norm_layer("GN", dim),
            )
            for channels, kernel in kernels
        )
        for level in self.levels:
            nn.init.xavier_uniform_(level.weight)

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        """Project maps (N, in_channels[i], h_i, w_i) to (N, C, h_i, w_i), and one of half the last size."""
        features = [*features, features[-1]]
        dtype = self.levels[0].weight.dtype
        return [level(feature.to(dtype)) for level, feature in zip(self.levels, features, strict=True)]


def level_sizes(levels: Sequence[torch.Tensor]) -> list[tuple[int, int]]:
    """Return (h, w) of each level."""
    return [(level.shape[-2], level.shape[-1]) for level in levels]
