"""Object context pooling of OCNet (Yuan and Wang, arXiv:1809.00916, section 3.2).

Shape shorthand: N images, C channels, h w pixels of the feature map.
"""

import torch.nn.functional as F
from torch import Tensor, nn

from segzoo.layers import conv_norm_act
from segzoo.layers.pixel_attention import pixel_attention
from segzoo.layers.resize import resize


class ObjectContext(nn.Module):
    """Self-attention with one transform for both query and key. Its output is initialized to 0.

    Args:
        channels: C of input and output.
        key_channels: channels of query and key.
        value_channels: channels of the value.
        norm: norm of the transform to query and key, see `conv_norm_act`.
        pooling: factor by which the map is max-pooled before the attention.
        align_corners: for resizing the result to the size of the map.
    """

    def __init__(
        self,
        channels: int,
        key_channels: int,
        value_channels: int,
        norm: str,
        pooling: int = 1,
        align_corners: bool = False,
    ):
        super().__init__()
        self.pooling = pooling
        self.align_corners = align_corners
        self.key = conv_norm_act(channels, key_channels, norm=norm, bias=True)
        self.value = nn.Conv2d(channels, value_channels, 1)
        self.output = nn.Conv2d(value_channels, channels, 1)
        nn.init.zeros_(self.output.weight)
        nn.init.zeros_(self.output.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Compute the context of x, (N, C, h, w) float."""
        size = x.shape[-2:]
        if self.pooling > 1:
            # A map smaller than the window is one window.
            x = F.max_pool2d(x, self.pooling, ceil_mode=bool(min(size) < self.pooling))
        key = self.key(x).flatten(2)
        context = pixel_attention(key, key, self.value(x).flatten(2), key.shape[1] ** -0.5)
        return resize(self.output(context.unflatten(2, x.shape[-2:])), size, self.align_corners)
