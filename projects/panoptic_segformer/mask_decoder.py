"""The mask decoders: masks of queries from their attention to the pixels (section 3.4 of the paper).

Shape shorthand: N images, Q queries, C channels, H heads, L pixels of the attended levels, h w size of the
finest level.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segzoo.layers import Linear, MultiheadAttention
from segzoo.layers.mlp import TransformerMLP
from segzoo.layers.resize import resize

from .location_decoder import class_heads

_EPS = 1e-6


class Pixels(NamedTuple):
    """What mask decoders attend to.

    Attributes:
        memory: (N, L, C) float, the pixels of the levels, one level after the other.
        sizes: (height, width) of the levels, finest first.
        padding: (N, L) bool, pixels that are padding; None without padding. They are not attended to, and
            masks are 0 there. The published code has one image in a batch, and no padding.
    """

    memory: Tensor
    sizes: Sequence[tuple[int, int]]
    padding: Tensor | None = None

    def split(self, values: Tensor, dim: int) -> list[Tensor]:
        """Split values of all pixels by level."""
        return list(values.split([height * width for height, width in self.sizes], dim=dim))


class DecodedMasks(NamedTuple):
    """The outputs of a mask decoder.

    Attributes:
        masks: the masks of the layers and, last, of the tail, (N, Q, h, w) float >= 0 each; in eval mode only
            those of the tail.
        queries: the queries after each layer, (N, Q, C) float each.
    """

    masks: list[Tensor]
    queries: list[Tensor]


class MasksFromAttention(nn.Module):
    """Masks from attention logits: the heads of each level are mixed, resized to the finest and joined.

    The published order resizes H channels of each level, concatenates the levels and applies one linear
    layer. Resizing acts only on space and the linear layer only on channels, so they commute: here each
    level is reduced to one channel by its part of that layer before it is resized.
    """

    def __init__(self, num_heads: int, num_levels: int):
        super().__init__()
        self.levels = nn.ModuleList(Linear(num_heads, num_heads) for _ in range(num_levels))
        self.join = Linear(num_levels * num_heads, 1)

    def forward(self, logits: Sequence[Tensor], pixels: Pixels) -> Tensor:
        """Form masks from the logits of each level, (N, H, Q, h_i * w_i), finest first.

        Returns:
            (N, Q, h, w) float >= 0.
        """
        total = self.join.bias
        weights = self.join.weight.chunk(len(self.levels), dim=1)
        paddings = [None] * len(logits) if pixels.padding is None else pixels.split(pixels.padding, 1)
        levels = zip(logits, self.levels, weights, pixels.sizes, paddings, strict=True)
        for level, mix, weight, size, padding in levels:
            mixed = F.relu_(torch.matmul(mix.weight, level.flatten(2)) + mix.bias[:, None])
            masks = torch.matmul(weight, mixed).view(len(level), *level.shape[2:])
            if padding is not None:
                masks = masks.masked_fill(padding[:, None], 0.0)
            # Masks along the batch, which may be empty.
            total = total + resize(masks.view(-1, 1, *size), pixels.sizes[0], align_corners=False)
        result = F.relu_(total).view(len(logits[0]), -1, *pixels.sizes[0])
        if paddings[0] is None:
            return result
        return result.masked_fill(paddings[0].view(-1, 1, *pixels.sizes[0]), 0.0)


class MaskAttention(nn.Module):
    """Attention from queries to pixels whose logits also form masks.

    Args:
        dim: C.
        num_heads: H.
        num_levels: number of levels that are attended to.
        with_value: also update the queries; False for a tail, which only forms masks.
    """

    def __init__(self, dim: int, num_heads: int, num_levels: int, with_value: bool):
        super().__init__()
        self.num_heads = num_heads
        self.q = Linear(dim, dim)
        self.k = Linear(dim, dim)
        self.v = Linear(dim, dim) if with_value else None
        self.proj = Linear(dim, dim) if with_value else None
        self.masks = MasksFromAttention(num_heads, num_levels)

    def forward(self, x: Tensor, pixels: Pixels, with_masks: bool) -> tuple[Tensor | None, Tensor | None]:
        """Attend from queries x, (N, Q, C) float, to pixels.

        Args:
            with_masks: form masks; a tail always does.

        Returns:
            The change of the queries, (N, Q, C), None for a tail; the masks, (N, Q, h, w), or None.
        """
        query, key = self._split_heads(self.q(x)), self._split_heads(self.k(pixels.memory))
        scale = query.shape[-1] ** -0.5
        if self.v is None or self.proj is None:
            levels = [scale * (query @ part.transpose(2, 3)) for part in pixels.split(key, 2)]
            return None, self.masks(levels, pixels)
        value = self._split_heads(self.v(pixels.memory))
        padding = None if pixels.padding is None else pixels.padding[:, None, None]
        if with_masks:
            logits = scale * (query @ key.transpose(2, 3))
            masks = self.masks(pixels.split(logits, 3), pixels)
            if padding is not None:
                logits = logits.masked_fill(padding, -torch.inf)
            attended = logits.softmax(-1) @ value
        else:
            allowed = None if padding is None else ~padding
            attended, masks = F.scaled_dot_product_attention(query, key, value, attn_mask=allowed), None
        return self.proj(attended.transpose(1, 2).flatten(2)), masks

    def _split_heads(self, x: Tensor) -> Tensor:
        """Reshape (N, L, C) to (N, H, L, C / H)."""
        return x.unflatten(2, (self.num_heads, -1)).transpose(1, 2)


class MaskDecoderLayer(nn.Module):
    """Attention among the queries (stuff only), attention to the pixels, feed-forward network; post-norm."""

    def __init__(self, dim: int, num_heads: int, num_levels: int, hidden_dim: int, self_attention: bool):
        super().__init__()
        self.self_attn = MultiheadAttention(dim, num_heads) if self_attention else None
        self.norm_self = nn.LayerNorm(dim, eps=_EPS) if self_attention else None
        if self.self_attn is not None:
            # As PyTorch initializes the biases of linear layers.
            for bias in (self.self_attn.in_proj_bias, self.self_attn.out_proj.bias):
                nn.init.uniform_(bias, -(dim**-0.5), dim**-0.5)
        self.attn = MaskAttention(dim, num_heads, num_levels, with_value=True)
        self.norm1 = nn.LayerNorm(dim, eps=_EPS)
        self.mlp = TransformerMLP(dim, hidden_dim)
        self.norm2 = nn.LayerNorm(dim, eps=_EPS)

    def forward(self, x: Tensor, pixels: Pixels, with_masks: bool) -> tuple[Tensor, Tensor | None]:
        """Update queries x, (N, Q, C) float; the arguments and masks are those of `MaskAttention`."""
        if self.self_attn is not None:
            x = self.norm_self(x + self.self_attn(x, x, x))
        change, masks = self.attn(x, pixels, with_masks)
        x = self.norm1(x + change)
        return self.norm2(x + self.mlp(x)), masks


class MaskDecoder(nn.Module):
    """Layers that update queries, and a tail that forms their masks; in training every layer forms masks."""

    def __init__(
        self,
        *,
        dim: int,
        num_heads: int,
        num_levels: int,
        hidden_dim: int,
        num_layers: int,
        self_attention: bool = False,
    ):
        """
        Args:
            dim: C, a multiple of `num_heads`.
            num_heads: H.
            num_levels: number of levels that are attended to.
            hidden_dim: channels inside the feed-forward networks.
            num_layers: number of layers, without the tail.
            self_attention: queries also attend to each other.
        """
        super().__init__()
        self.layers = nn.ModuleList(
            MaskDecoderLayer(dim, num_heads, num_levels, hidden_dim, self_attention)
            for _ in range(num_layers)
        )
        self.tail = MaskAttention(dim, num_heads, num_levels, with_value=False)
        for parameter in self.parameters():
            if parameter.dim() > 1:
                nn.init.xavier_uniform_(parameter)

    def forward(self, x: Tensor, pixels: Pixels, position: Tensor | None = None) -> DecodedMasks:
        """Decode masks.

        Args:
            x: (N, Q, C) float, the queries; Q may be 0.
            pixels: what they attend to.
            position: (Q, C) float, added to the queries before each layer and the tail; it stays in them.
        """
        masks, queries = [], []
        for layer in self.layers:
            x = x if position is None else x + position
            x, mask = layer(x, pixels, with_masks=self.training)
            queries.append(x)
            masks.append(mask)
        x = x if position is None else x + position
        _, final = self.tail(x, pixels, with_masks=True)
        return DecodedMasks([*(mask for mask in masks if mask is not None), final], queries)


class StuffDecoder(MaskDecoder):
    """A mask decoder with one learned query for each stuff class, and classifiers for its presence."""

    def __init__(self, *, num_classes: int, dim: int, num_layers: int, **layers):
        """
        Args:
            num_classes: number of stuff classes.
            dim, num_layers, layers: see `MaskDecoder`.
        """
        super().__init__(dim=dim, num_layers=num_layers, self_attention=True, **layers)
        # The content of each query, then its position.
        self.query_embed = nn.Embedding(num_classes, 2 * dim)
        self.class_heads = class_heads(num_layers, dim, 1)

    def decode(self, pixels: Pixels) -> tuple[list[Tensor], list[Tensor]]:
        """Return the masks of `DecodedMasks`, and presence logits (N, Q) of each layer (in eval the last)."""
        content, position = self.query_embed.weight.chunk(2, dim=1)
        masks, queries = self(content.expand(len(pixels.memory), -1, -1), pixels, position)
        heads = list(zip(self.class_heads, queries, strict=True))
        heads = heads if self.training else heads[-1:]
        return masks, [head(query)[..., 0] for head, query in heads]
