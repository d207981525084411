"""The location decoder: queries that find things by their boxes (section 3.3 of the paper).

Its layers are those of Deformable DETR with iterative box refinement (Zhu et al., sections 4.1 and A.4).

Shape shorthand: N images, Q queries, T thing classes, C channels, S pixels of all levels, L levels, D layers.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from segzoo.layers import MLP, FeedForward, Linear, MultiheadAttention
from segzoo.layers.deformable_attention import DeformableAttention
from segzoo.layers.padded_levels import PaddedLevels

#: Probability of each class before training.
PRIOR = 0.01
_EPS = 1e-5


class Locations(NamedTuple):
    """The outputs of the location decoder.

    Attributes:
        hidden: (N, Q, C) float, the queries after the last layer.
        logits: (D, N, Q, T) float class logits; in eval mode of the last layer only, D = 1.
        boxes: (D, N, Q, 4) float in [0, 1]: center x and y, width, height, in units of the image's width and
            height, without padding.
    """

    hidden: Tensor
    logits: Tensor
    boxes: Tensor


class LocationDecoderLayer(FeedForward):
    """Attention among the queries, deformable attention to the pixels, feed-forward network; post-norm."""

    def __init__(
        self, dim: int, num_heads: int, num_levels: int, num_points: int, hidden_dim: int, dropout: float
    ):
        super().__init__(dim, hidden_dim, dropout)
        self.self_attn = MultiheadAttention(dim, num_heads, dropout)
        self.cross_attn = DeformableAttention(dim, num_heads, num_levels, num_points)
        self.norm1, self.norm2, self.norm3 = (nn.LayerNorm(dim) for _ in range(3))
        for weight in (self.self_attn.out_proj.weight, self.linear1.weight, self.linear2.weight):
            nn.init.xavier_uniform_(weight)

    def forward(
        self,
        x: Tensor,
        position: Tensor,
        reference: Tensor,
        memory: Tensor,
        sizes: Sequence[tuple[int, int]],
        padding: Tensor | None,
    ) -> Tensor:
        """Update queries x, (N, Q, C) float, with position, (Q, C) float; the rest: `DeformableAttention`."""
        query = x + position
        x = self.norm1(x + self.dropout(self.self_attn(query, query, x)))
        attended = self.cross_attn(x + position, reference, memory, sizes, padding)
        x = self.norm2(x + self.dropout(attended))
        return self.norm3(x + self.dropout(self.feed_forward(x)))


class LocationDecoder(nn.Module):
    """Learned queries whose boxes are refined from layer to layer."""

    def __init__(
        self, *, num_classes: int, num_queries: int, dim: int, num_layers: int, num_levels: int, **layer
    ):
        """
        Args:
            num_classes: T.
            num_queries, dim, num_layers, num_levels: Q, C, D, L.
            layer: num_heads, num_points, hidden_dim, dropout of a `LocationDecoderLayer`.
        """
        super().__init__()
        self.num_queries = num_queries
        # The position of each query, then its content.
        self.query_embed = nn.Embedding(num_queries, 2 * dim)
        self.reference_points = Linear(dim, 2)
        nn.init.xavier_uniform_(self.reference_points.weight)
        nn.init.zeros_(self.reference_points.bias)
        self.layers = nn.ModuleList(
            LocationDecoderLayer(dim, num_levels=num_levels, **layer) for _ in range(num_layers)
        )
        self.class_heads = class_heads(num_layers, dim, num_classes)
        self.box_heads = nn.ModuleList(MLP(dim, dim, 4, num_layers=3) for _ in range(num_layers))
        for head in self.box_heads:
            head.load_state_dict(self.box_heads[0].state_dict())
            nn.init.zeros_(head.layers[-1].weight)
            nn.init.zeros_(head.layers[-1].bias)
        nn.init.constant_(self.box_heads[0].layers[-1].bias[2:], -2.0)

    def forward(
        self, memory: Tensor, sizes: Sequence[tuple[int, int]], padded: PaddedLevels | None = None
    ) -> Locations:
        """Locate things.

        Args:
            memory: (N, S, C) float, the encoder's output.
            sizes: (height, width) of each level.
            padded: their valid parts; None without padding.
        """
        position, content = self.query_embed.weight.chunk(2, dim=1)
        x = content.expand(len(memory), -1, -1)
        padding = None if padded is None else padded.padding()
        ratios = memory.new_ones((1, len(sizes), 2)) if padded is None else padded.ratios.to(memory)
        reference = self.reference_points(position).sigmoid().expand(len(memory), -1, -1)
        logits, boxes = [], []
        last = len(self.layers) - 1
        for index, layer in enumerate(self.layers):
            # In units of the padded levels.
            scaled = reference[:, :, None] * ratios.repeat(1, 1, reference.shape[-1] // 2)[:, None]
            x = layer(x, position, scaled, memory, sizes, padding)
            box = refine(reference, self.box_heads[index](x))
            reference = box.detach()
            if self.training or index == last:
                logits.append(self.class_heads[index](x))
                boxes.append(box)
        return Locations(x, torch.stack(logits), torch.stack(boxes))


def class_heads(num_heads: int, dim: int, num_classes: int) -> nn.ModuleList:
    """Build linear classifiers, equal at first, whose probabilities begin at `PRIOR`."""
    heads = nn.ModuleList(Linear(dim, num_classes) for _ in range(num_heads))
    for head in heads:
        head.load_state_dict(heads[0].state_dict())
        nn.init.constant_(head.bias, -math.log((1 - PRIOR) / PRIOR))
    return heads


def refine(reference: Tensor, change: Tensor) -> Tensor:
    """Return boxes (..., 4) in [0, 1] from reference points (..., 2) or boxes (..., 4), and changes (..., 4).

    Changes are added to the logits of the reference; where a point has no size, they are the logits.
    """
    below, above = reference.clamp(min=_EPS, max=1), (1 - reference.clamp(min=0)).clamp(min=_EPS)
    logits = (below / above).log()
    missing = change.shape[-1] - logits.shape[-1]
    return (change + nn.functional.pad(logits, (0, missing))).sigmoid()
