"""Feature pyramid decoders that end in per-pixel embeddings at the finest level (MaskFormer, section 3.3).

Shape shorthand: N images, C channels, h w size of a level's feature map.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from detectron2.config import configurable
from detectron2.layers import ShapeSpec
from fvcore.nn.weight_init import c2_xavier_fill
from torch import nn

from segzoo.layers import Conv2d, TransformerEncoder, sine_position_encoding
from segzoo.layers.conv import pyramid_convolution
from segzoo.utils.errors import InputError

from ..registry import PIXEL_DECODER_REGISTRY

# Number of feature maps for decoders that attend to several levels: res5, res4, res3.
NUM_SCALES = 3


class PixelDecoderOutput(NamedTuple):
    """The output of a pixel decoder, read by the transformer decoder.

    Attributes:
        mask_features: (N, mask_dim, h, w) float per-pixel embeddings at the stride of the finest feature.
        coarse: (N, conv_dim, h, w) float, the coarsest level after a transformer encoder; None without one.
        scales: the coarsest levels of the pyramid, (N, conv_dim, h, w) float each, coarsest first.
    """

    mask_features: torch.Tensor
    coarse: torch.Tensor | None
    scales: list[torch.Tensor]


@PIXEL_DECODER_REGISTRY.register()
class FPNPixelDecoder(nn.Module):
    """A feature pyramid: 1 x 1 lateral and 3 x 3 output convolutions, summed from coarse to fine.

    Parameters of the i-th level from the finest, counted from 1, are named `adapter_<i>` (lateral; the
    coarsest has none) and `layer_<i>` (output).
    """

    @configurable
    def __init__(
        self,
        *,
        input_shape: dict[str, ShapeSpec],
        conv_dim: int = 256,
        mask_dim: int = 256,
        norm: str = "GN",
        upsample: str = "nearest",
    ):
        """
        Args:
            input_shape: channels and stride of each feature, by name.
            conv_dim: channels of the pyramid.
            mask_dim: channels of the per-pixel embeddings.
            norm: name of the normalization for Detectron2's `get_norm`; "GN" has 32 groups.
            upsample: interpolation to the next finer level: "nearest" (MaskFormer) or "bilinear"
                (Mask2Former).
        """
        super().__init__()
        if upsample not in ("nearest", "bilinear"):
            raise InputError(f"upsample {upsample!r}: expected 'nearest' or 'bilinear'")
        self.in_features = sorted(input_shape, key=lambda name: input_shape[name].stride)
        self.conv_dim = conv_dim
        self.upsample = {"mode": upsample} | ({"align_corners": False} if upsample == "bilinear" else {})
        coarsest = len(self.in_features)
        for level, name in enumerate(self.in_features, start=1):
            channels = input_shape[name].channels
            if level < coarsest:
                self.add_module(f"adapter_{level}", pyramid_convolution(channels, conv_dim, 1, norm))
                channels = conv_dim
            self.add_module(f"layer_{level}", pyramid_convolution(channels, conv_dim, 3, norm, F.relu_))
        self.mask_features = Conv2d(conv_dim, mask_dim, kernel_size=3, padding=1)
        c2_xavier_fill(self.mask_features)

    @classmethod
    def from_config(cls, cfg, input_shape: dict[str, ShapeSpec]) -> dict:
        head = cfg.MODEL.SEM_SEG_HEAD
        return {
            "input_shape": {name: input_shape[name] for name in head.IN_FEATURES},
            "conv_dim": head.CONVS_DIM,
            "mask_dim": head.MASK_DIM,
            "norm": head.NORM,
            "upsample": head.TOP_DOWN_UPSAMPLE,
        }

    @property
    def output_channels(self) -> dict[str, int | list[int]]:
        """Channels of features that a transformer decoder may attend to, by `PixelDecoderOutput` field."""
        return {"scales": [self.conv_dim] * min(NUM_SCALES, len(self.in_features))}

    def forward(self, features: dict[str, torch.Tensor]) -> PixelDecoderOutput:
        """Decode the backbone's feature maps by name, (N, C, h, w) float."""
        return self.top_down(features, features[self.in_features[-1]], coarse=None)

    def top_down(
        self, features: dict[str, torch.Tensor], start: torch.Tensor, coarse: torch.Tensor | None
    ) -> PixelDecoderOutput:
        """Run the pyramid from `start`, the input of the coarsest level; `coarse` is returned unchanged."""
        level = len(self.in_features)
        x = self.get_submodule(f"layer_{level}")(start)
        pyramid = [x]
        for name in self.in_features[-2::-1]:
            level -= 1
            lateral = self.get_submodule(f"adapter_{level}")(features[name])
            x = lateral + F.interpolate(x, size=lateral.shape[-2:], **self.upsample)
            x = self.get_submodule(f"layer_{level}")(x)
            pyramid.append(x)
        return PixelDecoderOutput(self.mask_features(x), coarse, pyramid[:NUM_SCALES])


@PIXEL_DECODER_REGISTRY.register()
class TransformerFPNPixelDecoder(FPNPixelDecoder):
    """`FPNPixelDecoder` with a transformer encoder on the coarsest feature map (as in DETR)."""

    @configurable
    def __init__(
        self,
        *,
        input_shape: dict[str, ShapeSpec],
        conv_dim: int = 256,
        num_layers: int = 6,
        num_heads: int = 8,
        hidden_dim: int = 2048,
        dropout: float = 0.1,
        pre_norm: bool = False,
        **pyramid,
    ):
        """
        Args:
            input_shape, conv_dim, pyramid: see `FPNPixelDecoder`.
            num_layers, num_heads, hidden_dim, dropout, pre_norm: see `TransformerEncoder`.
        """
        # A dilated backbone has several features of the largest stride; take the last, as `in_features` does.
        coarsest = sorted(input_shape, key=lambda name: input_shape[name].stride)[-1]
        projected = ShapeSpec(channels=conv_dim, stride=input_shape[coarsest].stride)
        super().__init__(input_shape=input_shape | {coarsest: projected}, conv_dim=conv_dim, **pyramid)
        self.input_proj = Conv2d(input_shape[coarsest].channels, conv_dim, kernel_size=1)
        c2_xavier_fill(self.input_proj)
        encoder = TransformerEncoder(conv_dim, num_layers, num_heads, hidden_dim, dropout, pre_norm)
        self.transformer = nn.ModuleDict({"encoder": encoder})

    @classmethod
    def from_config(cls, cfg, input_shape: dict[str, ShapeSpec]) -> dict:
        node = cfg.MODEL.MASK_FORMER
        return super().from_config(cfg, input_shape) | {
            "num_layers": cfg.MODEL.SEM_SEG_HEAD.TRANSFORMER_ENC_LAYERS,
            "num_heads": node.NHEADS,
            "hidden_dim": node.DIM_FEEDFORWARD,
            "dropout": node.DROPOUT,
            "pre_norm": node.PRE_NORM,
        }

    @property
    def output_channels(self) -> dict[str, int | list[int]]:
        return super().output_channels | {"coarse": self.conv_dim}

    def forward(self, features: dict[str, torch.Tensor]) -> PixelDecoderOutput:
        """Decode the backbone's feature maps by name, (N, C, h, w) float."""
        x = self.input_proj(features[self.in_features[-1]])
        height, width = x.shape[-2:]
        position = sine_position_encoding(height, width, self.conv_dim, device=x.device)
        position = position.to(self.input_proj.weight.dtype)
        tokens = self.transformer["encoder"](x.flatten(2).transpose(1, 2), position.flatten(1).T)
        coarse = tokens.transpose(1, 2).unflatten(2, (height, width))
        return self.top_down(features, coarse, coarse)
