"""Multi-head attention on PyTorch's fused kernel.

Shape shorthand: N images, Q queries, L keys, C channels.
"""

import torch
import torch.nn.functional as F
from torch import nn

from .linear_layer import Linear, linear


class MultiheadAttention(nn.Module):
    """Scaled dot-product attention with the parameter names of `torch.nn.MultiheadAttention`.

    Unlike PyTorch's module, it takes the batch first, and one mask serves all heads without being repeated,
    so a boolean mask takes only N x Q x L bytes.

    Args:
        embed_dim: C, channels of queries, keys, values and output; a multiple of `num_heads`.
        num_heads: number of heads.
        dropout: probability of dropping an attention weight in training.
    """

    def __init__(self, embed_dim: int, num_heads: int, dropout: float = 0.0):
        super().__init__()
        if embed_dim % num_heads:
            raise ValueError(f"attention: {embed_dim} channels cannot be divided among {num_heads} heads")
        self.num_heads = num_heads
        self.dropout = dropout
        self.in_proj_weight = nn.Parameter(torch.empty(3 * embed_dim, embed_dim))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * embed_dim))
        self.out_proj = Linear(embed_dim, embed_dim)
        nn.init.xavier_uniform_(self.in_proj_weight)
        nn.init.zeros_(self.out_proj.bias)

    def forward(
        self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, allowed: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Attend from every query to the keys.

        Args:
            query: (N, Q, C) float.
            key, value: (N, L, C) float.
            allowed: (N, Q, L) bool, True where a query may attend to a key; every row needs one True.

        Returns:
            (N, Q, C) float.
        """
        weights, biases = self.in_proj_weight.chunk(3), self.in_proj_bias.chunk(3)
        heads = [
            self._split_heads(linear(x, weight, bias))
            for x, weight, bias in zip((query, key, value), weights, biases, strict=True)
        ]
        attended = F.scaled_dot_product_attention(
            *heads,
            attn_mask=None if allowed is None else allowed[:, None],
            dropout_p=self.dropout if self.training else 0.0,
        )
        return self.out_proj(attended.transpose(1, 2).flatten(2))

    def _split_heads(self, x: torch.Tensor) -> torch.Tensor:
        """Reshape (N, L, C) to (N, heads, L, C / heads)."""
        return x.unflatten(2, (self.num_heads, -1)).transpose(1, 2)
