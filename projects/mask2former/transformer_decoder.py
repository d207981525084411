"""Mask2Former's transformer decoder with masked attention (Cheng et al. 2022, section 3.2).

Shape shorthand: N images, Q queries, K classes, L pixels of a level, C hidden channels, D channels of a mask
embedding.
"""

import torch
import torch.nn.functional as F
from detectron2.config import configurable
from fvcore.nn.weight_init import c2_xavier_fill
from torch import nn

from segzoo.layers import MLP, Conv2d, FeedForward, Linear, MultiheadAttention, sine_position_encoding
from segzoo.modeling.mask_classification.head import mask_outputs
from segzoo.modeling.registry import TRANSFORMER_DECODER_REGISTRY
from segzoo.utils.errors import InputError


class CrossAttentionLayer(nn.Module):
    """Attention from queries to the pixels that their mask allows, with residual and layer norm."""

    def __init__(self, dim: int, num_heads: int, dropout: float, pre_norm: bool):
        super().__init__()
        self.pre_norm = pre_norm
        self.multihead_attn = MultiheadAttention(dim, num_heads, dropout)
        self.norm = nn.LayerNorm(dim)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self,
        x: torch.Tensor,
        query_position: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        allowed: torch.Tensor,
    ) -> torch.Tensor:
        """Update the queries.

        Args:
            x: (N, Q, C) float query features.
            query_position: (Q, C) float learned embedding of the queries.
            key: (N, L, C) float image features with their position added.
            value: (N, L, C) float image features.
            allowed: (N, Q, L) bool, see `attention_mask`.

        Returns:
            (N, Q, C) float.
        """
        query = (self.norm(x) if self.pre_norm else x) + query_position
        x = x + self.dropout(self.multihead_attn(query, key, value, allowed))
        return x if self.pre_norm else self.norm(x)


class SelfAttentionLayer(nn.Module):
    """Attention among queries, with residual and layer norm."""

    def __init__(self, dim: int, num_heads: int, dropout: float, pre_norm: bool):
        super().__init__()
        self.pre_norm = pre_norm
        self.self_attn = MultiheadAttention(dim, num_heads, dropout)
        self.norm = nn.LayerNorm(dim)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: torch.Tensor, query_position: torch.Tensor) -> torch.Tensor:
        """Attend among queries x, (N, Q, C) float, with query_position, (Q, C) float."""
        value = self.norm(x) if self.pre_norm else x
        query = value + query_position
        x = x + self.dropout(self.self_attn(query, query, value))
        return x if self.pre_norm else self.norm(x)


class FeedForwardLayer(FeedForward):
    """The feed-forward network, with residual and layer norm."""

    def __init__(self, dim: int, hidden_dim: int, dropout: float, pre_norm: bool):
        super().__init__(dim, hidden_dim, dropout)
        self.pre_norm = pre_norm
        self.norm = nn.LayerNorm(dim)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Apply the network to x, (N, Q, C) float."""
        if self.pre_norm:
            return x + self.dropout(self.feed_forward(self.norm(x)))
        return self.norm(x + self.dropout(self.feed_forward(x)))


@TRANSFORMER_DECODER_REGISTRY.register()
class MultiScaleMaskedTransformerDecoder(nn.Module):
    """Learned queries, each attending in every layer only to the pixels of its own last mask.

    The layers cycle through the levels, coarsest first. A first prediction is made before the first layer.
    """

    @configurable
    def __init__(
        self,
        *,
        in_channels: list[int],
        num_classes: int,
        hidden_dim: int = 256,
        num_queries: int = 100,
        num_heads: int = 8,
        feedforward_dim: int = 2048,
        num_layers: int = 9,
        dropout: float = 0.0,
        pre_norm: bool = False,
        mask_dim: int = 256,
        deep_supervision: bool = True,
        enforce_input_proj: bool = False,
    ):
        """
        Args:
            in_channels: channels of each level, coarsest first; levels beyond the number of layers are
                unused.
            num_classes: K, without "no object".
            hidden_dim: C, a multiple of 4 and of num_heads.
            num_queries: Q.
            num_heads, feedforward_dim, num_layers, dropout, pre_norm: sizes of the decoder, at least one
                layer.
            mask_dim: D.
            deep_supervision: in training, return all predictions, including the one before the first layer.
            enforce_input_proj: project the levels even if they already have C channels.
        """
        super().__init__()
        self.deep_supervision = deep_supervision
        self.hidden_dim = hidden_dim
        self.num_queries = num_queries
        # A decoder with few layers does not reach the finer levels.
        self.num_levels = min(len(in_channels), num_layers)
        self.transformer_cross_attention_layers = nn.ModuleList(
            CrossAttentionLayer(hidden_dim, num_heads, dropout, pre_norm) for _ in range(num_layers)
        )
        self.transformer_self_attention_layers = nn.ModuleList(
            SelfAttentionLayer(hidden_dim, num_heads, dropout, pre_norm) for _ in range(num_layers)
        )
        self.transformer_ffn_layers = nn.ModuleList(
            FeedForwardLayer(hidden_dim, feedforward_dim, dropout, pre_norm) for _ in range(num_layers)
        )
        for parameter in self.parameters():
            if parameter.dim() > 1:
                nn.init.xavier_uniform_(parameter)
        self.decoder_norm = nn.LayerNorm(hidden_dim)
        self.query_feat = nn.Embedding(num_queries, hidden_dim)
        self.query_embed = nn.Embedding(num_queries, hidden_dim)
        self.level_embed = nn.Embedding(self.num_levels, hidden_dim)
        self.input_proj = nn.ModuleList()
        for channels in in_channels[: self.num_levels]:
            if channels == hidden_dim and not enforce_input_proj:
                self.input_proj.append(nn.Identity())
                continue
            self.input_proj.append(Conv2d(channels, hidden_dim, kernel_size=1))
            c2_xavier_fill(self.input_proj[-1])
        self.class_embed = Linear(hidden_dim, num_classes + 1)
        self.mask_embed = MLP(hidden_dim, hidden_dim, mask_dim, num_layers=3)

    @classmethod
    def from_config(cls, cfg, in_channels: list[int]) -> dict:
        node = cfg.MODEL.MASK_FORMER
        if isinstance(in_channels, int):
            raise InputError(
                f"MODEL.MASK_FORMER.TRANSFORMER_IN_FEATURE {node.TRANSFORMER_IN_FEATURE!r} is one map, but "
                "MultiScaleMaskedTransformerDecoder attends to several; use 'multi_scale_pixel_decoder'"
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

    def forward(self, scales: list[torch.Tensor], mask_features: torch.Tensor) -> dict:
        """Predict classes and masks.

        Args:
            scales: the levels to attend to, (N, in_channels[i], h_i, w_i) float, coarsest first.
            mask_features: (N, D, h, w) float per-pixel embeddings.

        Returns:
            The outputs described in `MaskFormerHead`.
        """
        keys, values, small_features = [], [], []
        for level, projection in enumerate(self.input_proj):
            feature = scales[level]
            size = feature.shape[-2:]
            position = sine_position_encoding(*size, self.hidden_dim, device=feature.device)
            position = position.to(self.level_embed.weight.dtype)
            values.append(projection(feature).flatten(2).transpose(1, 2) + self.level_embed.weight[level])
            keys.append(values[-1] + position.flatten(1).T)
            # Resizing commutes with the product that forms masks: resize the features once, not every mask.
            small_features.append(
                F.interpolate(mask_features.detach(), size=size, mode="bilinear", align_corners=False)
            )

        x = self.query_feat.weight.expand(mask_features.shape[0], -1, -1)
        results = [self.decoder_norm(x)]
        embeddings = [self.mask_embed(results[0])]
        layers = zip(
            self.transformer_cross_attention_layers,
            self.transformer_self_attention_layers,
            self.transformer_ffn_layers,
            strict=True,
        )
        for index, (cross_attention, self_attention, feed_forward) in enumerate(layers):
            level = index % self.num_levels
            allowed = attention_mask(embeddings[-1], small_features[level])
            x = cross_attention(x, self.query_embed.weight, keys[level], values[level], allowed)
            x = feed_forward(self_attention(x, self.query_embed.weight))
            results.append(self.decoder_norm(x))
            embeddings.append(self.mask_embed(results[-1]))
        if not (self.training and self.deep_supervision):
            results, embeddings = results[-1:], embeddings[-1:]
        predictions = [
            (self.class_embed(x), embedding) for x, embedding in zip(results, embeddings, strict=True)
        ]
        return mask_outputs(predictions, mask_features, factored=self.training)


@torch.no_grad()
def attention_mask(mask_embed: torch.Tensor, features: torch.Tensor) -> torch.Tensor:
    """Return the pixels where each query's mask has a probability of at least one half.

    Args:
        mask_embed: (N, Q, D) float.
        features: (N, D, h, w) float per-pixel embeddings at the size of the level.

    Returns:
        (N, Q, h * w) bool. A query with an empty mask may attend everywhere.
    """
    allowed = mask_embed @ features.flatten(2) >= 0
    return allowed | ~allowed.any(dim=-1, keepdim=True)
