"""Heads on the levels of a feature pyramid, after FCOS (Tian et al. 2019) and CondInst (Tian et al. 2020).

Every cell of every level is a location that may predict one entity: a score, the distances to the four sides
of its box, and the weights of a small network that computes its mask.

Shape shorthand: N images, C channels, h w size of a level, L locations of all levels, P parameters of a
kernel.
"""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor, nn

from segzoo.layers import Conv2d, conv_norm_act
from segzoo.layers.conv import norm_layer


class Locations(NamedTuple):
    """The cells of all levels, finest level first, row by row.

    Attributes:
        points: (L, 2) float32 x, y in pixels of the padded image.
        levels: (L,) int64 index of the level.
    """

    points: Tensor
    levels: Tensor


def locations(sizes: Sequence[tuple[int, int]], strides: Sequence[int], device: torch.device) -> Locations:
    """Return the locations of levels of the given sizes, (height, width): stride * index + stride // 2."""
    points, levels = [], []
    for level, ((height, width), stride) in enumerate(zip(sizes, strides, strict=True)):
        y, x = (
            torch.arange(side, dtype=torch.float32, device=device) * stride + stride // 2
            for side in (height, width)
        )
        grid = torch.stack((x[None, :].expand(height, width), y[:, None].expand(height, width)), -1)
        points.append(grid.reshape(-1, 2))
        levels.append(torch.full((height * width,), level, dtype=torch.int64, device=device))
    return Locations(torch.cat(points), torch.cat(levels))


def flat(maps: Sequence[Tensor]) -> Tensor:
    """Return the maps of all levels, (N, C, h, w) each, as (N, L, C)."""
    return torch.cat([one.flatten(2).transpose(1, 2) for one in maps], 1)


class FCOSHead(nn.Module):
    """Entity score, centerness and box of every location, with one set of weights for all levels."""

    def __init__(self, channels: int, num_levels: int, num_convs: int = 4, prior: float = 0.01):
        """
        Args:
            channels: C of the levels and of the towers; a multiple of 32, for GroupNorm.
            num_levels: number of levels, each with a factor on the distances of its own.
            num_convs: convolutions of each tower.
            prior: initial probability of an entity.
        """
        super().__init__()
        self.cls_tower = _tower(channels, num_convs)
        self.bbox_tower = _tower(channels, num_convs)
        self.cls_logits = Conv2d(channels, 1, 3, padding=1)
        self.bbox_pred = Conv2d(channels, 4, 3, padding=1, bias=False)
        self.ctrness = Conv2d(channels, 1, 3, padding=1, bias=False)
        self.scales = nn.ParameterList(nn.Parameter(torch.ones(1)) for _ in range(num_levels))
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.normal_(module.weight, std=0.01)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        nn.init.constant_(self.cls_logits.bias, math.log(prior / (1 - prior)))

    def forward(self, levels: Sequence[Tensor]) -> tuple[dict[str, Tensor], list[Tensor]]:
        """Predict on levels, (N, C, h, w) float each.

        Returns:
            predictions: class_logits (N, L), centerness_logits (N, L), distances (N, L, 4) float, at least 0:
                left, top, right, bottom in units of the level's stride.
            box_features: the output of the box tower for each level, (N, C, h, w).
        """
        box_features = [self.bbox_tower(level) for level in levels]
        distances = [
            (scale * self.bbox_pred(one)).relu() for scale, one in zip(self.scales, box_features, strict=True)
        ]
        predictions = {
            "class_logits": flat([self.cls_logits(self.cls_tower(level)) for level in levels])[..., 0],
            "centerness_logits": flat([self.ctrness(one) for one in box_features])[..., 0],
            "distances": flat(distances),
        }
        return predictions, box_features


class KernelHead(nn.Module):
    """The parameters of every location's mask network, from the box tower's features and the coordinates."""

    def __init__(self, channels: int, hidden_channels: int, num_parameters: int, num_convs: int = 3):
        """
        Args:
            channels: C of the box tower.
            hidden_channels: channels of the convolutions; a multiple of 32, for GroupNorm.
            num_parameters: P.
            num_convs: convolutions before the last one.
        """
        super().__init__()
        widths = [channels + 2] + [hidden_channels] * num_convs
        self.convs = nn.ModuleList(
            conv_norm_act(before, after, 3, norm="GN") for before, after in pairwise(widths)
        )
        for convolution in self.convs:
            convolution.reset_parameters()  # PyTorch's default
        self.predictor = Conv2d(widths[-1], num_parameters, 3, padding=1)
        nn.init.normal_(self.predictor.weight, std=0.01)
        nn.init.zeros_(self.predictor.bias)

    def forward(self, box_features: Sequence[Tensor]) -> Tensor:
        """Predict the parameters, (N, L, P) float, from maps (N, C, h, w) of each level."""
        return flat([self._level(one) for one in box_features])

    def _level(self, x: Tensor) -> Tensor:
        batch, _, height, width = x.shape
        rows = torch.linspace(-1, 1, height, dtype=x.dtype, device=x.device)
        columns = torch.linspace(-1, 1, width, dtype=x.dtype, device=x.device)
        x = torch.cat(
            (
                x,
                rows[:, None].expand(batch, 1, height, width),
                columns[None, :].expand(batch, 1, height, width),
            ),
            1,
        )
        for convolution in self.convs:
            x = convolution(x)
        return self.predictor(x)


def _tower(channels: int, num_convs: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for _ in range(num_convs):
        # The norm follows, but published files have the biases.
        layers += [Conv2d(channels, channels, 3, padding=1), norm_layer("GN", channels), nn.ReLU()]
    return nn.Sequential(*layers)
