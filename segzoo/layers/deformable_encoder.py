"""A transformer encoder whose pixels attend to a few points of every level (Deformable DETR, section 4.1).

Shape shorthand: N images, C channels, h w size of a level, S pixels of all levels, L levels.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from .deformable_attention import DeformableAttention
from .padded_levels import PaddedLevels
from .position_encoding import sine_position_encoding
from .transformer import FeedForward


class DeformableEncoderLayer(FeedForward):
    """Deformable attention of every pixel to all levels and a feed-forward network, both post-norm."""

    def __init__(
        self,
        dim: int,
        num_heads: int,
        num_levels: int,
        num_points: int,
        hidden_dim: int,
        dropout: float,
        value_dtype: torch.dtype | None = None,
    ):
        super().__init__(dim, hidden_dim, dropout)
        self.self_attn = DeformableAttention(dim, num_heads, num_levels, num_points, value_dtype)
        self.norm1 = nn.LayerNorm(dim)
        self.norm2 = nn.LayerNorm(dim)

    def forward(
        self,
        x: Tensor,
        position: Tensor,
        reference_points: Tensor,
        sizes: Sequence[tuple[int, int]],
        padding: Tensor | None = None,
    ) -> Tensor:
        """Encode x, (N, S, C) float, with position, (S, C) or (N, S, C) float.

        The other arguments are those of `DeformableAttention`.
        """
        attended = self.self_attn(x + position, reference_points, x, sizes, padding)
        x = self.norm1(x + self.dropout(attended))
        return self.norm2(x + self.dropout(self.feed_forward(x)))


class DeformableEncoder(nn.Module):
    """A stack of layers, and the learned embedding that distinguishes the levels."""

    def __init__(self, dim: int, num_layers: int, num_levels: int, position_offset: float = 0.0, **layer):
        """
        Args:
            dim: C.
            num_layers, num_levels: number of layers, and L.
            position_offset: `offset` of `sine_position_encoding`.
            layer: num_heads, num_points, hidden_dim, dropout, value_dtype of a `DeformableEncoderLayer`.
        """
        super().__init__()
        self.position_offset = position_offset
        self.level_embed = nn.Parameter(torch.empty(num_levels, dim))
        nn.init.normal_(self.level_embed)
        layers = [DeformableEncoderLayer(dim, num_levels=num_levels, **layer) for _ in range(num_layers)]
        self.encoder = nn.ModuleDict({"layers": nn.ModuleList(layers)})
        for name, parameter in self.named_parameters():
            if parameter.dim() > 1 and ".linear" in name:
                nn.init.xavier_uniform_(parameter)

    def forward(self, levels: Sequence[Tensor]) -> list[Tensor]:
        """Encode the levels, (N, C, h, w) float each, to maps of the same sizes."""
        sizes = [tuple(level.shape[-2:]) for level in levels]
        x = self.encode(levels)
        parts = x.split([height * width for height, width in sizes], dim=1)
        return [
            part.reshape(-1, *size, x.shape[-1]).movedim(-1, 1)
            for part, size in zip(parts, sizes, strict=True)
        ]

    def encode(self, levels: Sequence[Tensor], padded: PaddedLevels | None = None) -> Tensor:
        """Encode the levels to one sequence of pixels.

        Args:
            levels: (N, C, h, w) float each.
            padded: their valid parts; None without padding.

        Returns:
            (N, S, C) float, the levels one after the other, each row by row.
        """
        sizes = [tuple(level.shape[-2:]) for level in levels]
        x = torch.cat([level.flatten(2).transpose(1, 2) for level in levels], dim=1)
        position = self._position(sizes, x, padded)
        reference_points = pixel_centers(sizes, x.device)[None, :, None]
        if padded is None:
            reference_points = reference_points.expand(-1, -1, len(sizes), -1)
            padding = None
        else:
            own = padded.of_pixels(padded.ratios)[:, :, None]
            reference_points, padding = reference_points / own * padded.ratios[:, None], padded.padding()
        for layer in self.encoder["layers"]:
            x = layer(x, position, reference_points, sizes, padding)
        return x

    def _position(
        self, sizes: Sequence[tuple[int, int]], like: Tensor, padded: PaddedLevels | None
    ) -> Tensor:
        """Return the position of each pixel and level, (S, C), or (N, S, C) where images are padded."""
        parts = []
        for level, (size, embedding) in enumerate(zip(sizes, self.level_embed, strict=True)):
            position = sine_position_encoding(
                *size,
                like.shape[-1],
                device=like.device,
                offset=self.position_offset,
                valid=None if padded is None else padded.valid[:, level],
            )
            parts.append(position.to(like.dtype).flatten(-2).transpose(-1, -2) + embedding)
        return torch.cat(parts, dim=-2)


def pixel_centers(sizes: Sequence[tuple[int, int]], device: torch.device) -> Tensor:
    """Return x and y of every pixel's center, (S, 2), in units of its level's width and height."""
    centers = []
    for height, width in sizes:
        y = (torch.arange(height, dtype=torch.float32, device=device) + 0.5) / height
        x = (torch.arange(width, dtype=torch.float32, device=device) + 0.5) / width
        centers.append(torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1).flatten(0, 1))
    return torch.cat(centers)
