"""Mask2Former's pixel decoder: deformable attention over the coarse levels, and a pyramid to the finest.

Sources: Cheng et al. 2022, section 3.2.1 and appendix; Zhu et al., Deformable DETR, section 4.1.

Shape shorthand: N images, C channels of the decoder, h w size of a level, S pixels of all encoded levels, L
levels.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from detectron2.layers import ShapeSpec
from fvcore.nn.weight_init import c2_xavier_fill
from torch import Tensor, nn

from segzoo.layers import Conv2d
from segzoo.layers.conv import norm_layer, pyramid_convolution
from segzoo.layers.deformable_encoder import DeformableEncoder
from segzoo.layers.runtime import without_autocast
from segzoo.modeling.configured import configurable_by
from segzoo.modeling.mask_classification.fpn_pixel_decoder import NUM_SCALES, PixelDecoderOutput
from segzoo.modeling.registry import PIXEL_DECODER_REGISTRY
from segzoo.utils.errors import ArgumentError


@PIXEL_DECODER_REGISTRY.register()
class MSDeformAttnPixelDecoder(nn.Module):
    """Encodes the coarse levels together and adds finer ones by lateral connections.

    Parameters have the published names: `input_proj.<i>`, numbered from the coarsest encoded level,
    `transformer`, `adapter_<i>` and `layer_<i>` of the i-th level from the finest, `mask_features`.
    """

    @configurable_by(
        {
            "encoded_features": "MODEL.MASK_FORMER.DEFORMABLE_FEATURES",
            "num_heads": "MODEL.MASK_FORMER.NHEADS",
        }
    )
    def __init__(
        self,
        *,
        input_shape: dict[str, ShapeSpec],
        encoded_features: Sequence[str] = ("res3", "res4", "res5"),
        conv_dim: int = 256,
        mask_dim: int = 256,
        norm: str = "GN",
        num_layers: int = 6,
        num_heads: int = 8,
        num_points: int = 4,
        hidden_dim: int = 1024,
        dropout: float = 0.0,
        half_values: bool = False,
    ):
        """
        Args:
            input_shape: channels and stride of each feature by name.
            encoded_features: the features that are encoded, the coarsest of `input_shape`.
            conv_dim, mask_dim, norm: see `FPNPixelDecoder`.
            num_layers, num_heads, num_points, hidden_dim, dropout: sizes of the deformable encoder.
            half_values: sample values that are rounded to bfloat16.

        Raises:
            InputError: an encoded feature is missing or finer than one that is not encoded, or the number of
                heads does not divide the channels.
        """
        super().__init__()
        finest_first = sorted(input_shape, key=lambda name: input_shape[name].stride)
        encoded = [name for name in finest_first if name in encoded_features]
        if len(encoded) != len(encoded_features) or encoded != finest_first[-len(encoded) :]:
            raise ArgumentError(
                "encoded_features",
                f" {list(encoded_features)}: expected the coarsest of the head's features {finest_first}",
            )
        if conv_dim % num_heads:
            raise ArgumentError(
                "num_heads", f" {num_heads}: expected a divisor of the decoder's {conv_dim} channels"
            )
        self.encoded = encoded[::-1]
        self.lateral = finest_first[: -len(encoded)][::-1]
        self.conv_dim = conv_dim
        self.input_proj = nn.ModuleList(
            nn.Sequential(Conv2d(input_shape[name].channels, conv_dim, 1), norm_layer("GN", conv_dim))
            for name in self.encoded
        )
        for projection in self.input_proj:
            nn.init.xavier_uniform_(projection[0].weight)
            nn.init.zeros_(projection[0].bias)
        self.transformer = DeformableEncoder(
            conv_dim,
            num_layers,
            len(encoded),
            num_heads=num_heads,
            num_points=num_points,
            hidden_dim=hidden_dim,
            dropout=dropout,
            value_dtype=torch.bfloat16 if half_values else None,
        )
        for level, name in enumerate(self.lateral[::-1], start=1):
            self.add_module(
                f"adapter_{level}", pyramid_convolution(input_shape[name].channels, conv_dim, 1, norm)
            )
            self.add_module(f"layer_{level}", pyramid_convolution(conv_dim, conv_dim, 3, norm, F.relu_))
        self.mask_features = Conv2d(conv_dim, mask_dim, kernel_size=1)
        c2_xavier_fill(self.mask_features)

    @classmethod
    def from_config(cls, cfg, input_shape: dict[str, ShapeSpec]) -> dict:
        head, node = cfg.MODEL.SEM_SEG_HEAD, cfg.MODEL.MASK_FORMER
        return {
            "input_shape": {name: input_shape[name] for name in head.IN_FEATURES},
            "encoded_features": tuple(node.DEFORMABLE_FEATURES),
            "conv_dim": head.CONVS_DIM,
            "mask_dim": head.MASK_DIM,
            "norm": head.NORM,
            "num_layers": head.TRANSFORMER_ENC_LAYERS,
            "num_heads": node.NHEADS,
            "num_points": node.DEFORMABLE_POINTS,
            "hidden_dim": node.DEFORMABLE_FEEDFORWARD,
            "dropout": node.DROPOUT,
            "half_values": node.DEFORMABLE_HALF_VALUES,
        }

    @property
    def output_channels(self) -> dict[str, int | list[int]]:
        """Channels of features that a transformer decoder may attend to, by `PixelDecoderOutput` field."""
        levels = len(self.encoded) + len(self.lateral)
        return {"coarse": self.conv_dim, "scales": [self.conv_dim] * min(NUM_SCALES, levels)}

    def forward(self, features: dict[str, Tensor]) -> PixelDecoderOutput:
        """Decode the backbone's feature maps by name, (N, C, h, w) float."""
        # Positions and sampled values need more than half precision.
        with without_autocast(self.mask_features.weight.device):
            projected = [
                projection(features[name].to(self.mask_features.weight.dtype))
                for projection, name in zip(self.input_proj, self.encoded, strict=True)
            ]
            pyramid = self.transformer(projected)
        coarse = pyramid[0]
        for level, name in zip(range(len(self.lateral), 0, -1), self.lateral, strict=True):
            lateral = self.get_submodule(f"adapter_{level}")(features[name])
            upsampled = F.interpolate(pyramid[-1], lateral.shape[-2:], mode="bilinear", align_corners=False)
            pyramid.append(self.get_submodule(f"layer_{level}")(lateral + upsampled))
        return PixelDecoderOutput(self.mask_features(pyramid[-1]), coarse, pyramid[:NUM_SCALES])
