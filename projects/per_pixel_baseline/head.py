"""The baselines that MaskFormer is compared with: its own parts, trained to classify pixels (section 4.1).

Shape shorthand: N images, K classes, C channels of a pixel's embedding, h w size of the finest level.
"""

from collections.abc import Mapping

import torch
from detectron2.config import configurable
from detectron2.modeling import SEM_SEG_HEADS_REGISTRY
from torch import Tensor, nn

from segzoo.modeling.mask_classification.head import (
    MaskFormerHead,
    build_pixel_decoder,
    build_transformer_decoder,
    find_pixel_decoder,
    find_transformer_in_channels,
    transformer_input,
)
from segzoo.modeling.per_pixel import PixelHead

# Stride of the finest level, by which the published code upsamples logits whatever the image's size.
_UPSAMPLE_FACTOR = 4


@SEM_SEG_HEADS_REGISTRY.register()
class PerPixelBaselineHead(PixelHead):
    """MaskFormer's pixel decoder with a linear classifier on each pixel's embedding."""

    upsample_factor = _UPSAMPLE_FACTOR

    @configurable
    def __init__(self, *, pixel_decoder: nn.Module, embedding_channels: int = 256, **shared):
        """
        Args:
            pixel_decoder: maps features by name to a `PixelDecoderOutput`.
            embedding_channels: C of its `mask_features`.
            shared: see `PixelHead`.
        """
        super().__init__(**shared)
        self.pixel_decoder = pixel_decoder
        self.predictor = self.classifier(embedding_channels)

    @classmethod
    def check_names(cls, cfg) -> None:
        """Check the name of the pixel decoder, see `Segmentor.check_names`."""
        find_pixel_decoder(cfg)

    @classmethod
    def from_config(cls, cfg, input_shape) -> dict:
        return {
            **super().from_config(cfg, input_shape),
            "pixel_decoder": build_pixel_decoder(cfg, input_shape),
            "embedding_channels": cfg.MODEL.SEM_SEG_HEAD.MASK_DIM,
        }

    def forward(self, features: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {"logits": self.predictor(self.dropout(self.pixel_decoder(features).mask_features))}


@SEM_SEG_HEADS_REGISTRY.register()
class PerPixelBaselinePlusHead(PixelHead):
    """MaskFormer with one query per class; a class's mask logits are its scores.

    Nothing is matched, and queries predict no class. In training the scores after every decoder layer are
    supervised; those of the i-th layer, except the last, are the output "i", counted from 0.
    """

    upsample_factor = _UPSAMPLE_FACTOR

    @configurable
    def __init__(self, *, pixel_decoder: nn.Module, decoder: nn.Module, decoder_feature: str, **shared):
        """
        Args:
            pixel_decoder: maps features by name to a `PixelDecoderOutput`.
            decoder: a transformer decoder with K queries, whose `class_embed` has no weights.
            decoder_feature: name of the feature that the decoder attends to, or "transformer_encoder" for the
                pixel decoder's encoded coarsest level.
            shared: see `PixelHead`.
        """
        super().__init__(**shared)
        self.pixel_decoder = pixel_decoder
        self.decoder = decoder
        self.decoder_feature = decoder_feature

    check_names = MaskFormerHead.check_names

    @classmethod
    def from_config(cls, cfg, input_shape) -> dict:
        shared = super().from_config(cfg, input_shape)
        feature = cfg.MODEL.MASK_FORMER.TRANSFORMER_IN_FEATURE
        pixel_decoder = build_pixel_decoder(cfg, input_shape)
        in_channels = find_transformer_in_channels(cfg, input_shape, pixel_decoder)
        decoder = build_transformer_decoder(cfg, in_channels, num_queries=shared["num_classes"])
        decoder.class_embed = nn.Identity()
        return {**shared, "pixel_decoder": pixel_decoder, "decoder": decoder, "decoder_feature": feature}

    def forward(self, features: Mapping[str, Tensor]) -> dict[str, Tensor]:
        decoded = self.pixel_decoder(features)
        x = transformer_input(self.decoder_feature, features, decoded)
        outputs = self.decoder(x, decoded.mask_features)
        if not self.training:
            return {"logits": outputs["pred_masks"]}
        layers = [*outputs["aux_outputs"], outputs]
        logits = [
            torch.einsum("nkc,nchw->nkhw", layer["mask_embed"], layer["mask_features"]) for layer in layers
        ]
        return {"logits": logits[-1], **{str(index): layer for index, layer in enumerate(logits[:-1])}}
