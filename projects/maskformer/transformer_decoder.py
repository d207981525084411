"""MaskFormer's transformer decoder (Cheng, Schwing, Kirillov 2021, section 3.3), which is DETR's.

Shape shorthand: N images, Q queries, K classes, L pixels attended to, C hidden channels, D channels of a mask
embedding.
"""

import torch
from detectron2.config import configurable
from fvcore.nn.weight_init import c2_xavier_fill
from torch import nn

from segzoo.layers import MLP, Conv2d, FeedForward, Linear, MultiheadAttention, sine_position_encoding
from segzoo.modeling.mask_classification.head import mask_outputs
from segzoo.modeling.registry import TRANSFORMER_DECODER_REGISTRY
from segzoo.utils.errors import InputError


class DecoderLayer(FeedForward):
    """Self-attention among queries, attention to the image, and a feed-forward network.

    Each has a residual and a layer norm. For the arguments see `TransformerEncoderLayer`.
    """

    def __init__(self, dim: int, num_heads: int, hidden_dim: int, dropout: float, pre_norm: bool):
        super().__init__(dim, hidden_dim, dropout)
        self.pre_norm = pre_norm
        self.self_attn = MultiheadAttention(dim, num_heads, dropout)
        self.multihead_attn = MultiheadAttention(dim, num_heads, dropout)
        self.norm1 = nn.LayerNorm(dim)
        self.norm2 = nn.LayerNorm(dim)
        self.norm3 = nn.LayerNorm(dim)

    def forward(
        self, x: torch.Tensor, query_position: torch.Tensor, key: torch.Tensor, value: torch.Tensor
    ) -> torch.Tensor:
        """Update the queries.

        Args:
            x: (N, Q, C) float query features.
            query_position: (Q, C) float learned embedding of the queries.
            key: (N, L, C) float image features with their position added.
            value: (N, L, C) float image features.

        Returns:
            (N, Q, C) float.
        """

        def attend_to_queries(x: torch.Tensor) -> torch.Tensor:
            positioned = x + query_position
            return self.self_attn(positioned, positioned, x)

        def attend_to_image(x: torch.Tensor) -> torch.Tensor:
            return self.multihead_attn(x + query_position, key, value)

        branches = (
            (attend_to_queries, self.norm1),
            (attend_to_image, self.norm2),
            (self.feed_forward, self.norm3),
        )
        for branch, norm in branches:
            x = x + self.dropout(branch(norm(x))) if self.pre_norm else norm(x + self.dropout(branch(x)))
        return x


class TransformerDecoder(nn.Module):
    """A stack of decoder layers; one layer norm normalizes every layer's result."""

    def __init__(
        self, dim: int, num_layers: int, num_heads: int, hidden_dim: int, dropout: float, pre_norm: bool
    ):
        super().__init__()
        self.layers = nn.ModuleList(
            DecoderLayer(dim, num_heads, hidden_dim, dropout, pre_norm) for _ in range(num_layers)
        )
        self.norm = nn.LayerNorm(dim)
        for parameter in self.parameters():
            if parameter.dim() > 1:
                nn.init.xavier_uniform_(parameter)

    def forward(
        self, x: torch.Tensor, query_position: torch.Tensor, key: torch.Tensor, value: torch.Tensor
    ) -> list[torch.Tensor]:
        """Return the results of all layers, (N, Q, C), first layer first; see `DecoderLayer`."""
        results = []
        for layer in self.layers:
            x = layer(x, query_position, key, value)
            results.append(self.norm(x))
        return results


@TRANSFORMER_DECODER_REGISTRY.register()
class MaskFormerTransformerDecoder(nn.Module):
    """Queries that attend to one feature map and give class scores and a mask embedding each."""

    @configurable
    def __init__(
        self,
        *,
        in_channels: int,
        num_classes: int,
        hidden_dim: int = 256,
        num_queries: int = 100,
        num_heads: int = 8,
        feedforward_dim: int = 2048,
        num_layers: int = 6,
        dropout: float = 0.1,
        pre_norm: bool = False,
        mask_dim: int = 256,
        deep_supervision: bool = True,
        enforce_input_proj: bool = False,
    ):
        """
        Args:
            in_channels: channels of the feature map.
            num_classes: K, without "no object".
            hidden_dim: C, a multiple of 4 and of num_heads.
            num_queries: Q.
            num_heads, feedforward_dim, num_layers, dropout, pre_norm: sizes of the decoder layers.
            mask_dim: D.
            deep_supervision: in training, return the predictions of all layers.
            enforce_input_proj: project the feature map even if it already has C channels.
        """
        super().__init__()
        self.deep_supervision = deep_supervision
        self.hidden_dim = hidden_dim
        self.num_queries = num_queries
        decoder = TransformerDecoder(hidden_dim, num_layers, num_heads, feedforward_dim, dropout, pre_norm)
        self.transformer = nn.ModuleDict({"decoder": decoder})
        self.query_embed = nn.Embedding(num_queries, hidden_dim)
        self.input_proj = nn.Identity()
        if in_channels != hidden_dim or enforce_input_proj:
            self.input_proj = Conv2d(in_channels, hidden_dim, kernel_size=1)
            c2_xavier_fill(self.input_proj)
        self.class_embed = Linear(hidden_dim, num_classes + 1)
        self.mask_embed = MLP(hidden_dim, hidden_dim, mask_dim, num_layers=3)

    @classmethod
    def from_config(cls, cfg, in_channels: int) -> dict:
        node = cfg.MODEL.MASK_FORMER
        if not isinstance(in_channels, int):
            raise InputError(
                f"MODEL.MASK_FORMER.TRANSFORMER_IN_FEATURE {node.TRANSFORMER_IN_FEATURE!r} is several maps, "
                "but MaskFormerTransformerDecoder attends to one; use 'res5' or 'transformer_encoder'"
            )
        return {
            "in_channels": in_channels,
            "num_classes": cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES,
            "hidden_dim": node.HIDDEN_DIM,
            "num_queries": node.NUM_OBJECT_QUERIES,
            "num_heads": node.NHEADS,
            "feedforward_dim": node.DIM_FEEDFORWARD,
            "num_layers": node.DEC_LAYERS,
            "dropout": node.DROPOUT,
            "pre_norm": node.PRE_NORM,
            "mask_dim": cfg.MODEL.SEM_SEG_HEAD.MASK_DIM,
            "deep_supervision": node.DEEP_SUPERVISION,
            "enforce_input_proj": node.ENFORCE_INPUT_PROJ,
        }

    def forward(self, x: torch.Tensor, mask_features: torch.Tensor) -> dict:
        """Predict classes and masks.

        Args:
            x: (N, in_channels, h', w') float feature map to attend to.
            mask_features: (N, D, h, w) float per-pixel embeddings.

        Returns:
            The outputs described in `MaskFormerHead`.
        """
        x = self.input_proj(x)
        position = sine_position_encoding(*x.shape[-2:], self.hidden_dim, device=x.device)
        position = position.to(self.query_embed.weight.dtype)
        value = x.flatten(2).transpose(1, 2)
        key = value + position.flatten(1).T
        query_position = self.query_embed.weight
        start = torch.zeros_like(query_position).expand(x.shape[0], -1, -1)
        results = self.transformer["decoder"](start, query_position, key, value)
        if not (self.training and self.deep_supervision):
            results = results[-1:]
        predictions = [(self.class_embed(result), self.mask_embed(result)) for result in results]
        return mask_outputs(predictions, mask_features, factored=self.training)
