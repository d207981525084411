"""The head of PSANet (Zhao et al., ECCV 2018).

Shape shorthand: N images, C channels, K classes, h w size of the feature map, H W size of the input.
"""

from collections.abc import Mapping, Sequence

import torch
from detectron2.config import configurable
from detectron2.modeling import SEM_SEG_HEADS_REGISTRY
from torch import Tensor, nn

from segzoo.layers import conv_norm_act
from segzoo.layers.resize import resize
from segzoo.modeling.per_pixel import PixelHead
from segzoo.utils.errors import InputError

from .attention import DIRECTIONS, compact_attention, offset_attention


class AttentionBranch(nn.Module):
    """Reduces a map, and lets its positions collect from all positions or distribute to them.

    Args:
        in_channels, channels: channels of the map and of the result.
        mask_size: size of the map of offsets, (Mh, Mw); if compact, of the feature map.
        direction: "collect" or "distribute".
        compact: weight locations instead of offsets.
        norm: see `conv_norm_act`.
    """

    def __init__(
        self,
        in_channels: int,
        channels: int,
        mask_size: Sequence[int],
        direction: str,
        compact: bool,
        norm: str,
    ):
        super().__init__()
        self.mask_size = tuple(mask_size)
        self.direction = direction
        self.compact = compact
        self.reduce = conv_norm_act(in_channels, channels, norm=norm)
        self.attention = conv_norm_act(channels, channels, norm=norm)
        # Its weights are used by `offset_attention`; as a convolution it would compute four times as much.
        self.scores = nn.Conv2d(channels, self.mask_size[0] * self.mask_size[1], kernel_size=1, bias=False)

    def forward(self, x: Tensor, size: Sequence[int], align_corners: bool) -> Tensor:
        """Reduce (N, in_channels, ...), resize it to `size`, and attend: (N, channels, *size)."""
        values = resize(self.reduce(x), size, align_corners)
        positions = self.attention(values)
        weight = self.scores.weight
        if self.compact:
            return compact_attention(values, positions, weight.flatten(1), self.direction)
        weight = weight.view(*self.mask_size, -1)
        return offset_attention(values, positions, weight, self.direction)


@SEM_SEG_HEADS_REGISTRY.register()
class PSAHead(PixelHead):
    """Two attention branches on a downsampled map, joined with the map, and a 3 x 3 convolution."""

    @configurable
    def __init__(
        self,
        *,
        mask_size: Sequence[int],
        crop_size: Sequence[int] = (),
        compact: bool = False,
        shrink_factor: int = 2,
        projection_padding: int = 0,
        **shared,
    ):
        """
        Args:
            mask_size: size of the map of offsets, see `mask_size`, or of the downsampled map if compact.
            crop_size: the only accepted input size (H, W); (): any, with score 0 for offsets outside of the
                map. Compact attention always accepts only one size.
            compact: weight locations instead of offsets.
            shrink_factor: factor by which the map is downsampled for the branches.
            projection_padding: padding of the 1 x 1 convolution after the branches: 1 in mmsegmentation,
                which frames its result with the projection of zeros before resizing.
            shared: see `PixelHead`.
        """
        super().__init__(**shared)
        self.crop_size = tuple(crop_size)
        self.mask_size = tuple(mask_size)
        self.compact = compact
        self.shrink_factor = shrink_factor
        in_channels = self.in_channels(self.in_features[-1])
        for direction in DIRECTIONS:
            branch = AttentionBranch(in_channels, self.channels, mask_size, direction, compact, self.norm)
            self.add_module(direction, branch)
        self.projection = self.conv(2 * self.channels, in_channels)
        self.projection.padding = (projection_padding, projection_padding)
        self.bottleneck = self.conv(2 * in_channels, self.channels, 3)
        self.predictor = self.classifier(self.channels)

    @classmethod
    def from_config(cls, cfg, input_shape) -> dict:
        node = cfg.MODEL.PSANET
        arguments = super().from_config(cfg, input_shape)
        size, crop_size = tuple(node.MASK_SIZE), ()
        if not size:
            crop_size = tuple(cfg.INPUT.CROP_SIZE)
            if not crop_size:
                raise InputError(
                    "PSANet's attention depends on the size of its input: set INPUT.CROP_SIZE, "
                    "e.g. (465, 465), or MODEL.PSANET.MASK_SIZE"
                )
            if arguments["align_corners"]:
                for side in crop_size:
                    if (side - 1) % 8:
                        below = (side - 1) // 8 * 8 + 1
                        raise InputError(
                            f"INPUT.CROP_SIZE {crop_size[0]} x {crop_size[1]}: {side} is not 8 k + 1, as "
                            f"corner-aligned crops have to be; use {below} or {below + 8}"
                        )
            stride = input_shape[arguments["in_features"][-1]].stride
            size = mask_size(crop_size, stride, node.SHRINK_FACTOR, node.COMPACT)
        return {
            **arguments,
            "mask_size": size,
            "crop_size": crop_size,
            "compact": node.COMPACT,
            "shrink_factor": node.SHRINK_FACTOR,
            "projection_padding": node.PROJECTION_PADDING,
        }

    def check_crop(self, height: int, width: int) -> None:
        if self.crop_size and (height, width) != self.crop_size:
            crop = " x ".join(map(str, self.crop_size))
            raise InputError(
                f"PSANet's attention is built for inputs of {crop} (INPUT.CROP_SIZE), found {height} x "
                f"{width}; train and test with crops of that size, or set MODEL.PSANET.MASK_SIZE"
            )

    def forward(self, features: Mapping[str, Tensor]) -> dict[str, Tensor]:
        x = features[self.in_features[-1]]
        size, align_corners = self._shrunk(*x.shape[-2:])
        if self.compact and size != self.mask_size:
            raise InputError(
                f"PSANet's compact attention has mask_size {self.mask_size}, but this input has a feature "
                f"map of {size}; train and test with crops of one size"
            )
        branches = [getattr(self, direction)(x, size, align_corners) for direction in DIRECTIONS]
        attended = self.projection(torch.cat(branches, dim=1))
        attended = resize(attended, x.shape[-2:], align_corners)
        return {"logits": self.predictor(self.dropout(self.bottleneck(torch.cat([x, attended], dim=1))))}

    def _shrunk(self, height: int, width: int) -> tuple[tuple[int, int], bool]:
        """Return the size that the branches work on, and whether corners are aligned in both resizings.

        In semseg they always are. In mmsegmentation, with `align_corners` False, they are if neither side is
        a multiple of the factor.
        """
        factor = self.shrink_factor
        align_corners = self.align_corners or bool(height % factor and width % factor)
        if align_corners:
            return ((height - 1) // factor + 1, (width - 1) // factor + 1), True
        return (height // factor, width // factor), False


def mask_size(
    crop_size: Sequence[int], stride: int, shrink_factor: int, compact: bool = False
) -> tuple[int, int]:
    """Return the size of the map of offsets that covers the whole feature map of a crop.

    Args:
        crop_size: (H, W) of the input.
        stride: stride of the feature map.
        shrink_factor: see `PSAHead`.
        compact: return the size of the downsampled feature map instead.
    """
    sides = [-(-side // stride) for side in crop_size]
    sides = [(side - 1) // shrink_factor + 1 for side in sides]
    height, width = sides if compact else [2 * side - 1 for side in sides]
    return height, width
