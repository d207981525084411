"""The two attentions of DANet (Fu et al., CVPR 2019, sections 3.2 and 3.3).

Shape shorthand: N images, C channels, D channels of query and key, h w pixels of the feature map.
"""

import torch
from torch import Tensor, nn

from segzoo.layers.pixel_attention import pixel_attention
from segzoo.layers.runtime import without_autocast


class PositionAttention(nn.Module):
    """Computes `gamma * attention(x) + x`, every pixel attending to all; gamma starts at 0.

    Args:
        channels: C.
        key_channels: D.
        normalize_queries: the softmax runs over query pixels instead of key pixels.
    """

    def __init__(self, channels: int, key_channels: int, normalize_queries: bool = False):
        super().__init__()
        self.query = nn.Conv2d(channels, key_channels, 1)
        self.key = nn.Conv2d(channels, key_channels, 1)
        self.value = nn.Conv2d(channels, channels, 1)
        self.gamma = nn.Parameter(torch.zeros(()))
        self.normalize_queries = normalize_queries

    def forward(self, x: Tensor) -> Tensor:
        """Apply the attention to x, (N, C, h, w) float."""
        attended = pixel_attention(
            *(projection(x).flatten(2) for projection in (self.query, self.key, self.value)),
            normalize_queries=self.normalize_queries,
        )
        return self.gamma * attended.view_as(x) + x


class ChannelAttention(nn.Module):
    """Computes `gamma * attention(x) + x`, each channel attending to its least similar; gamma starts at 0.

    The paper's softmax over "row maximum - affinity" is the softmax over the negative affinity.
    """

    def __init__(self):
        super().__init__()
        self.gamma = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        """Apply the attention to x, (N, C, h, w) float."""
        pixels = x.flatten(2)
        # The affinity is a sum over all pixels, too large for half precision.
        with without_autocast(x.device):
            affinity = pixels.float() @ pixels.float().transpose(1, 2)
            weights = affinity.neg_().softmax(dim=-1).to(x.dtype)
        return self.gamma * (weights @ pixels).view_as(x) + x
