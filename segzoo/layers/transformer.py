"""The transformer encoder of DETR (Carion et al. 2020) over the pixels of a feature map.

Shape shorthand: N images, L pixels, C channels.
"""

import torch
import torch.nn.functional as F
from torch import nn

from .attention import MultiheadAttention
from .linear_layer import Linear


class FeedForward(nn.Module):
    """Two linear layers with a ReLU and dropout between them, without residual or norm.

    A block that has these parameters directly under its own name inherits from this class.
    """

    def __init__(self, dim: int, hidden_dim: int, dropout: float):
        super().__init__()
        self.linear1 = Linear(dim, hidden_dim)
        self.linear2 = Linear(hidden_dim, dim)
        self.dropout = nn.Dropout(dropout)

    def feed_forward(self, x: torch.Tensor) -> torch.Tensor:
        """Apply the network to x, (..., C) float."""
        return self.linear2(self.dropout(F.relu_(self.linear1(x))))


class TransformerEncoderLayer(FeedForward):
    """Self-attention and a feed-forward network, each with residual and layer norm.

    Args:
        dim: C.
        num_heads: heads of the attention.
        hidden_dim: channels inside the feed-forward network.
        dropout: dropout probability of attention weights and of both branches.
        pre_norm: normalize before each branch instead of after its residual.
    """

    def __init__(self, dim: int, num_heads: int, hidden_dim: int, dropout: float, pre_norm: bool):
        super().__init__(dim, hidden_dim, dropout)
        self.pre_norm = pre_norm
        self.self_attn = MultiheadAttention(dim, num_heads, dropout)
        self.norm1 = nn.LayerNorm(dim)
        self.norm2 = nn.LayerNorm(dim)

    def forward(self, x: torch.Tensor, position: torch.Tensor) -> torch.Tensor:
        """Encode x, (N, L, C) float, adding position, (L, C) float, to queries and keys."""
        if self.pre_norm:
            x = x + self.dropout(self._attend(self.norm1(x), position))
            return x + self.dropout(self.feed_forward(self.norm2(x)))
        x = self.norm1(x + self.dropout(self._attend(x, position)))
        return self.norm2(x + self.dropout(self.feed_forward(x)))

    def _attend(self, x: torch.Tensor, position: torch.Tensor) -> torch.Tensor:
        positioned = x + position
        return self.self_attn(positioned, positioned, x)


class TransformerEncoder(nn.Module):
    """A stack of encoder layers; with `pre_norm` followed by a layer norm, as in DETR."""

    def __init__(
        self, dim: int, num_layers: int, num_heads: int, hidden_dim: int, dropout: float, pre_norm: bool
    ):
        super().__init__()
        self.layers = nn.ModuleList(
            TransformerEncoderLayer(dim, num_heads, hidden_dim, dropout, pre_norm) for _ in range(num_layers)
        )
        self.norm = nn.LayerNorm(dim) if pre_norm else nn.Identity()
        for parameter in self.parameters():
            if parameter.dim() > 1:
                nn.init.xavier_uniform_(parameter)

    def forward(self, x: torch.Tensor, position: torch.Tensor) -> torch.Tensor:
        """Encode x, (N, L, C) float, with position, (L, C) float."""
        for layer in self.layers:
            x = layer(x, position)
        return self.norm(x)
