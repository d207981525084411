"""Joint pyramid upsampling (Wu et al., FastFCN, arXiv:1903.11816, section 3.3).

Shape shorthand: N images, C channels, h w size of the map of stride 8.
"""

from collections.abc import Mapping, Sequence

import torch
from detectron2.layers import ShapeSpec
from torch import Tensor, nn

from segzoo.layers import conv_norm_act
from segzoo.layers.resize import resize
from segzoo.modeling.configured import configurable_by
from segzoo.modeling.registry import NECK_REGISTRY
from segzoo.utils.errors import ArgumentError

# The maps that are joined, with their strides.
_STRIDES = {"res3": 8, "res4": 16, "res5": 32}


@NECK_REGISTRY.register()
class JPU(nn.Module):
    """Replaces dilation: computes a map of stride 8 from maps of strides 8, 16 and 32 at a lower cost.

    The result replaces "res5"; the other maps are unchanged.
    """

    @configurable_by({"input_shape": "MODEL.BACKBONE.OUT_FEATURES and OUTPUT_STRIDE"})
    def __init__(
        self,
        *,
        input_shape: Mapping[str, ShapeSpec],
        channels: int = 512,
        dilations: Sequence[int] = (1, 2, 4, 8),
        norm: str = "SyncBN",
        align_corners: bool = False,
        coarsest_first: bool = True,
    ):
        """
        Args:
            input_shape: channels and stride of the backbone's maps.
            channels: channels of every convolution.
            dilations: dilations of the separable 3 x 3 convolutions, whose outputs together replace res5.
            norm: see `conv_norm_act`.
            align_corners: for the bilinear resizing.
            coarsest_first: res5 is the first of the joined maps instead of the last.

        Raises:
            InputError: a map is missing, or the backbone is dilated.
        """
        super().__init__()
        for name, stride in _STRIDES.items():
            if name not in input_shape:
                raise ArgumentError(
                    "input_shape", f": a JPU needs {name}, but the backbone has {', '.join(input_shape)}"
                )
            if input_shape[name].stride != stride:
                raise ArgumentError(
                    "input_shape",
                    f": a JPU replaces dilation: expected {name} of stride {stride}, found "
                    f"{input_shape[name].stride}; use a backbone of output stride 32, or no neck",
                )
        self.input_shape = dict(input_shape)
        self.align_corners = align_corners
        self.coarsest_first = coarsest_first
        self.reduce = nn.ModuleDict(
            {name: conv_norm_act(input_shape[name].channels, channels, 3, norm=norm) for name in _STRIDES}
        )
        joined = len(_STRIDES) * channels
        self.dilated = nn.ModuleList(_separable(joined, channels, dilation, norm) for dilation in dilations)
        self.out_channels = len(dilations) * channels

    @classmethod
    def from_config(cls, cfg, input_shape: Mapping[str, ShapeSpec]) -> dict:
        return {
            "input_shape": input_shape,
            "channels": cfg.MODEL.JPU.CONVS_DIM,
            "norm": cfg.MODEL.SEM_SEG_HEAD.NORM,
            "align_corners": cfg.MODEL.SEM_SEG_HEAD.ALIGN_CORNERS,
            "coarsest_first": cfg.MODEL.JPU.COARSEST_FIRST,
        }

    def output_shape(self) -> dict[str, ShapeSpec]:
        return {**self.input_shape, "res5": ShapeSpec(channels=self.out_channels, stride=_STRIDES["res3"])}

    def forward(self, features: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the backbone's maps, (N, C, ., .) each, with a new "res5", (N, C', h, w)."""
        size = features["res3"].shape[-2:]
        maps = [
            resize(reduce(features[name]), size, self.align_corners) for name, reduce in self.reduce.items()
        ]
        joined = torch.cat(maps[::-1] if self.coarsest_first else maps, dim=1)
        return {**features, "res5": torch.cat([branch(joined) for branch in self.dilated], dim=1)}


def _separable(in_channels: int, out_channels: int, dilation: int, norm: str) -> nn.Sequential:
    """Build a dilated depthwise 3 x 3 convolution with norm and a 1 x 1 convolution with norm and ReLU."""
    depthwise = conv_norm_act(
        in_channels, in_channels, 3, norm=norm, dilation=dilation, groups=in_channels, activation=False
    )
    return nn.Sequential(depthwise, conv_norm_act(in_channels, out_channels, norm=norm))
