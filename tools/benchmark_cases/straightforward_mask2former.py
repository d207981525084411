"""Mask2Former as in its paper, in PyTorch's own operators: the peer of `mask2former.py`.

It uses the modules of a segzoo model in a plain way: deformable attention by `F.grid_sample`; after each
layer the classes, and the masks at the size of the finest map, which are then resized to the attention's;
linear layers and convolutions of PyTorch.

Shape shorthand: N images, Q queries, K classes, C channels, D channels of a mask embedding.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from unittest import mock

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segzoo.layers import MultiheadAttention, deformable_attention, linear_layer, position_encoding
from segzoo.layers.deformable_sampling import sample_levels_on_grids


@contextmanager
def straightforward(model: nn.Module) -> Iterator[None]:
    """Replace the model's forward by the straightforward one."""
    predictor = model.sem_seg_head.predictor
    with (
        mock.patch.object(linear_layer, "onednn_is_faster", return_value=False),
        mock.patch.object(deformable_attention, "sample_levels", sample_levels_on_grids),
        mock.patch.object(predictor, "forward", lambda *inputs: decode(predictor, *inputs)),
    ):
        yield


def decode(predictor: nn.Module, scales: list[Tensor], mask_features: Tensor) -> dict:
    """Run the masked-attention decoder without dropout; return outputs as of `MaskFormerHead`, with masks.

    Args:
        scales: (N, C, h_i, w_i) maps, coarsest first.
        mask_features: (N, D, h, w).
    """
    keys, values = [], []
    for level, scale in enumerate(scales):
        position = position_encoding.sine_position_encoding(*scale.shape[-2:], predictor.hidden_dim)
        values.append(predictor.input_proj[level](scale).flatten(2).transpose(1, 2))
        values[-1] = values[-1] + predictor.level_embed.weight[level]
        keys.append(values[-1] + position.flatten(1).T)
    x = predictor.query_feat.weight.expand(len(mask_features), -1, -1)
    position = predictor.query_embed.weight
    predictions = [predict(predictor, x, mask_features)]
    layers = zip(
        predictor.transformer_cross_attention_layers,
        predictor.transformer_self_attention_layers,
        predictor.transformer_ffn_layers,
        strict=True,
    )
    for index, (cross, own, feed_forward) in enumerate(layers):
        level = index % len(scales)
        forbidden = forbidden_pixels(predictions[-1]["pred_masks"], scales[level].shape[-2:])
        attended = attend(cross.multihead_attn, x + position, keys[level], values[level], forbidden)
        x = cross.norm(x + attended)
        x = own.norm(x + attend(own.self_attn, x + position, x + position, x))
        x = feed_forward.norm(x + feed_forward.linear2(F.relu(feed_forward.linear1(x))))
        predictions.append(predict(predictor, x, mask_features))
    return predictions[-1] | {"aux_outputs": predictions[:-1]}


def predict(predictor: nn.Module, x: Tensor, mask_features: Tensor) -> dict[str, Tensor]:
    """Return `pred_logits` (N, Q, K + 1) and `pred_masks` (N, Q, h, w) for queries (N, Q, C)."""
    x = predictor.decoder_norm(x)
    masks = torch.einsum("nqc,nchw->nqhw", predictor.mask_embed(x), mask_features)
    return {"pred_logits": predictor.class_embed(x), "pred_masks": masks}


def forbidden_pixels(masks: Tensor, size: tuple[int, int]) -> Tensor:
    """Return (N, Q, pixels of the size) bool: outside the query's mask, unless that is empty."""
    small = F.interpolate(masks.detach(), size=size, mode="bilinear", align_corners=False)
    forbidden = small.flatten(2).sigmoid() < 0.5
    forbidden[forbidden.all(-1)] = False
    return forbidden


def attend(
    attention: MultiheadAttention, query: Tensor, key: Tensor, value: Tensor, forbidden: Tensor | None = None
) -> Tensor:
    """Return attended values (N, Q, C) of (N, ., C) inputs; a mask (N, Q, L) is repeated for each head."""
    if forbidden is not None:
        forbidden = forbidden[:, None].repeat(1, attention.num_heads, 1, 1).flatten(0, 1)
    attended, _ = F.multi_head_attention_forward(
        *(x.transpose(0, 1) for x in (query, key, value)),
        embed_dim_to_check=query.shape[-1],
        num_heads=attention.num_heads,
        in_proj_weight=attention.in_proj_weight,
        in_proj_bias=attention.in_proj_bias,
        bias_k=None,
        bias_v=None,
        add_zero_attn=False,
        dropout_p=0.0,
        out_proj_weight=attention.out_proj.weight,
        out_proj_bias=attention.out_proj.bias,
        need_weights=False,
        attn_mask=forbidden,
    )
    return attended.transpose(0, 1)
