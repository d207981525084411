"""The head of mask classification: a pixel decoder followed by a transformer decoder.

Shape shorthand: N images, Q queries, K classes, C channels of an embedding, h w size of the finest feature
map.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from detectron2.config import configurable
from detectron2.layers import ShapeSpec
from detectron2.modeling import SEM_SEG_HEADS_REGISTRY
from torch import nn

from segzoo.utils.errors import InputError

from ..features import build_in_features
from ..registry import PIXEL_DECODER_REGISTRY, TRANSFORMER_DECODER_REGISTRY, registered
from ..segmentor import Batch
from .context import decoder_inputs
from .fpn_pixel_decoder import PixelDecoderOutput

# Values of MODEL.MASK_FORMER.TRANSFORMER_IN_FEATURE besides the backbone's features, with the field of the
# pixel decoder's output that each selects.
_PIXEL_DECODER_FEATURES = {"transformer_encoder": "coarse", "multi_scale_pixel_decoder": "scales"}


def find_pixel_decoder(cfg) -> Callable[..., nn.Module]:
    """Return the pixel decoder class that MODEL.SEM_SEG_HEAD.PIXEL_DECODER_NAME names."""
    key = "MODEL.SEM_SEG_HEAD.PIXEL_DECODER_NAME"
    return registered(PIXEL_DECODER_REGISTRY, key, cfg.MODEL.SEM_SEG_HEAD.PIXEL_DECODER_NAME)


def build_pixel_decoder(cfg, input_shape: dict[str, ShapeSpec]) -> nn.Module:
    """Build the pixel decoder that MODEL.SEM_SEG_HEAD.PIXEL_DECODER_NAME names."""
    return find_pixel_decoder(cfg)(cfg, input_shape)


def find_transformer_decoder(cfg) -> Callable[..., nn.Module]:
    """Return the decoder class that MODEL.MASK_FORMER.TRANSFORMER_DECODER_NAME names."""
    key = "MODEL.MASK_FORMER.TRANSFORMER_DECODER_NAME"
    return registered(TRANSFORMER_DECODER_REGISTRY, key, cfg.MODEL.MASK_FORMER.TRANSFORMER_DECODER_NAME)


def build_transformer_decoder(cfg, in_channels: int | list[int], **arguments: Any) -> nn.Module:
    """Build the transformer decoder named by MODEL.MASK_FORMER.TRANSFORMER_DECODER_NAME.

    Args:
        arguments: override the arguments from its `from_config`.
    """
    return find_transformer_decoder(cfg)(cfg, in_channels, **arguments)


def find_transformer_in_channels(
    cfg, input_shape: Mapping[str, ShapeSpec], pixel_decoder: nn.Module
) -> int | list[int]:
    """Return the channels of the feature that the transformer decoder attends to; a list for several levels.

    Raises:
        InputError: neither the backbone nor the pixel decoder has it.
    """
    feature = cfg.MODEL.MASK_FORMER.TRANSFORMER_IN_FEATURE
    offered = {name: shape.channels for name, shape in input_shape.items()}
    for name, field in _PIXEL_DECODER_FEATURES.items():
        if field in pixel_decoder.output_channels:
            offered[name] = pixel_decoder.output_channels[field]
    if feature not in offered:
        raise InputError(
            f"MODEL.MASK_FORMER.TRANSFORMER_IN_FEATURE {feature!r}: {type(pixel_decoder).__name__} and the "
            f"backbone offer {', '.join(offered)}"
        )
    return offered[feature]


def transformer_input(
    feature: str, features: Mapping[str, torch.Tensor], decoded: PixelDecoderOutput
) -> torch.Tensor | list[torch.Tensor]:
    """Return the feature map, or the list of them, that `feature` names, (N, C, h, w) float each."""
    if feature in _PIXEL_DECODER_FEATURES:
        return getattr(decoded, _PIXEL_DECODER_FEATURES[feature])
    return features[feature]


@SEM_SEG_HEADS_REGISTRY.register()
class MaskFormerHead(nn.Module):
    """Maps feature maps to a class and a mask per query.

    The outputs of the head, and of every transformer decoder, are a dict. In eval mode:
        pred_logits: (N, Q, K + 1) float; the last class is "no object"
        pred_masks:  (N, Q, h, w) float logits
    In training the masks are left as two factors, since most are never needed in full:
        pred_logits:   as above
        mask_embed:    (N, Q, C) float
        mask_features: (N, C, h, w) float; the masks are einsum("nqc,nchw->nqhw", mask_embed, mask_features)
        aux_outputs:   list of dicts with these three keys, the predictions before the last, first layer first
    A decoder may add its own outputs to each of these dicts, for loss terms and matching costs that read
    them, and in training
        losses: weighted scalar losses by name, which are added to the criterion's.

    Attributes:
        num_queries: Q, known before `forward`, of a decoder with such an attribute; else None.
    """

    @configurable
    def __init__(self, *, pixel_decoder: nn.Module, predictor: nn.Module, transformer_in_feature: str):
        """
        Args:
            pixel_decoder: maps features by name to a `PixelDecoderOutput`.
            predictor: the transformer decoder.
            transformer_in_feature: what the predictor attends to: a backbone feature by its name;
                "transformer_encoder", the pixel decoder's encoded coarsest level; or
                "multi_scale_pixel_decoder", a list of the pixel decoder's coarsest levels.
        """
        super().__init__()
        self.pixel_decoder = pixel_decoder
        self.predictor = predictor
        self.transformer_in_feature = transformer_in_feature
        self.num_queries: int | None = getattr(predictor, "num_queries", None)
        # `Batch` fields that `forward` needs.
        self.wants = decoder_inputs(predictor)

    @classmethod
    def check_names(cls, cfg) -> None:
        """Check the names of both decoders, see `Segmentor.check_names`."""
        find_pixel_decoder(cfg)
        find_transformer_decoder(cfg)

    @classmethod
    def from_config(cls, cfg, input_shape: dict[str, ShapeSpec]) -> dict:
        feature = cfg.MODEL.MASK_FORMER.TRANSFORMER_IN_FEATURE
        build_in_features(cfg.MODEL.SEM_SEG_HEAD.IN_FEATURES, input_shape)
        pixel_decoder = build_pixel_decoder(cfg, input_shape)
        in_channels = find_transformer_in_channels(cfg, input_shape, pixel_decoder)
        return {
            "pixel_decoder": pixel_decoder,
            "predictor": build_transformer_decoder(cfg, in_channels),
            "transformer_in_feature": feature,
        }

    def forward(self, features: dict[str, torch.Tensor], context: Batch | None = None) -> dict:
        """Return the outputs described above.

        Args:
            features: the backbone's feature maps by name, (N, C, h, w) float.
            context: the batch, needed if `wants` is not empty.
        """
        decoded = self.pixel_decoder(features)
        x = transformer_input(self.transformer_in_feature, features, decoded)
        return self.predictor(
            x, decoded.mask_features, **{name: getattr(context, name) for name in self.wants}
        )


def mask_outputs(
    predictions: list[tuple[torch.Tensor, torch.Tensor]], mask_features: torch.Tensor, *, factored: bool
) -> dict:
    """Return the outputs described in `MaskFormerHead` from a transformer decoder's predictions.

    Args:
        predictions: (N, Q, K + 1) class logits and (N, Q, C) mask embeddings of each layer, first to last.
        mask_features: (N, C, h, w) float.
        factored: leave the masks as factors, as in training; otherwise return only the last prediction.
    """
    if not factored:
        logits, embedding = predictions[-1]
        return {"pred_logits": logits, "pred_masks": torch.einsum("nqc,nchw->nqhw", embedding, mask_features)}
    outputs = [
        {"pred_logits": logits, "mask_embed": embedding, "mask_features": mask_features}
        for logits, embedding in predictions
    ]
    return outputs[-1] | {"aux_outputs": outputs[:-1]}
