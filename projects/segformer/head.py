"""The head of SegFormer (Xie et al., NeurIPS 2021, section 3.2).

Shape shorthand: N images, K classes, C channels of a level, E channels of the head, L levels, h w size of the
finest level.
"""

from collections.abc import Mapping

import torch
from detectron2.config import configurable
from detectron2.modeling import SEM_SEG_HEADS_REGISTRY
from torch import Tensor, nn
from torch.nn import functional as F

from segzoo.layers import Linear, linear
from segzoo.modeling.per_pixel import PixelHead
from segzoo.utils.errors import InputError

PROJECTIONS = ("linear", "conv")


@SEM_SEG_HEADS_REGISTRY.register()
class SegFormerHead(PixelHead):
    """Projects each level to E channels, resizes them to the finest level, joins, fuses and classifies them.

    The published order joins L E channels at the finest level before fusing them, which is most of the
    operations of the head, and for MiT-B2 of the whole network. Bilinear resizing acts only on space and the
    1 x 1 convolution only on channels, and both are linear, so they commute: here each level's part of the
    fusing convolution is applied at the level's own size, and the resized results are summed. A linear
    projection and its part of the fusing convolution are combined into one matrix.
    """

    @configurable
    def __init__(self, *, projection: str = "linear", fuse_at_level: bool = True, **shared):
        """
        Args:
            projection: "linear", or "conv" for a 1 x 1 convolution with norm and ReLU.
            fuse_at_level: fuse before resizing; False computes in the published order.
            shared: see `PixelHead`; `in_features` in order from the finest level to the coarsest.

        Raises:
            InputError: unknown `projection`.
        """
        super().__init__(**shared)
        if projection not in PROJECTIONS:
            expected = " or ".join(PROJECTIONS)
            raise InputError(f"projection {projection!r}: expected {expected}")
        self.fuse_at_level = fuse_at_level
        self.coarsest_first = projection == "linear"
        channels = [self.in_channels(name) for name in self.in_features]
        self.projections = nn.ModuleList(
            Linear(count, self.channels) if projection == "linear" else self.conv(count, self.channels)
            for count in channels
        )
        self.fuse = self.conv(len(channels) * self.channels, self.channels)
        self.predictor = self.classifier(self.channels)

    @classmethod
    def from_config(cls, cfg, input_shape) -> dict:
        node = cfg.MODEL.SEGFORMER
        return {
            **super().from_config(cfg, input_shape),
            "projection": node.PROJECTION,
            "fuse_at_level": node.FUSE_AT_LEVEL,
        }

    def forward(self, features: Mapping[str, Tensor]) -> dict[str, Tensor]:
        levels = [features[name] for name in self.in_features]
        fused = self._fused_at_level(levels) if self.fuse_at_level else self._fused_after_joining(levels)
        logits = _linear(self.dropout(fused), self.predictor.weight.flatten(1), self.predictor.bias)
        return {"logits": logits.contiguous()}

    def _fused_after_joining(self, levels: list[Tensor]) -> Tensor:
        """Fuse L maps (N, C, ., .) to (N, E, h, w), in the published order."""
        projected = [
            _linear(level, projection.weight, projection.bias)
            if isinstance(projection, Linear)
            else projection(level)
            for projection, level in zip(self.projections, levels, strict=True)
        ]
        resized = [self.resize(level, levels[0].shape[-2:]) for level in projected]
        return self.fuse(torch.cat(resized[::-1] if self.coarsest_first else resized, dim=1))

    def _fused_at_level(self, levels: list[Tensor]) -> Tensor:
        """Compute the result of `_fused_after_joining` by fusing before resizing."""
        weight, bias, norm = self._fusing_convolution()
        parts = list(weight.chunk(len(levels), dim=1))  # (E, E) each
        if self.coarsest_first:
            parts.reverse()
        for index, projection in enumerate(self.projections):
            if isinstance(projection, Linear):
                # A bias is the same everywhere, so it can be added to the finest level's.
                bias = bias + linear(projection.bias[None], parts[index])[0]
                parts[index] = parts[index] @ projection.weight
            else:
                levels[index] = projection(levels[index])
        fused = _linear(levels[0], parts[0], bias)
        for part, level in zip(parts[1:], levels[1:], strict=True):
            fused += self.resize(_linear(level, part), fused.shape[-2:])
        return F.relu_(norm(fused))

    def _fusing_convolution(self) -> tuple[Tensor, Tensor, nn.Module]:
        """Return the weight (E, L E), bias (E,) and norm; in evaluation the norm is folded into both."""
        weight, norm = self.fuse.weight.flatten(1), self.fuse.norm
        if self.training or not hasattr(norm, "running_mean"):
            return weight, weight.new_zeros(len(weight)), norm or nn.Identity()
        scale = norm.weight * (norm.running_var + norm.eps).rsqrt()
        return weight * scale[:, None], norm.bias - norm.running_mean * scale, nn.Identity()


def _linear(level: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Apply weight (E, C) and bias (E,) to (N, C, ., .) -> (N, E, ., .), channels last in memory."""
    return linear(level.permute(0, 2, 3, 1), weight, bias).permute(0, 3, 1, 2)
