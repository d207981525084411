"""The mask network of each entity, and the kernel bank that all entities share (section 3.3 of the paper).

Shape shorthand: N images, D mask features, h w size of the features, E entities, P parameters of an entity.
"""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from segzoo.layers import Conv2d


class MaskNetwork(nn.Module):
    """A network of three layers for the mask of an entity.

    Its input are the offsets of every cell from the entity's location and the mask features. A path states
    for each layer whether it is the entity's own, a 1 x 1 convolution with predicted weights (1), or one of
    the bank, a 3 x 3 convolution with the same weights for all entities (0). Predictions use "111" only.
    """

    scales: Tensor

    def __init__(
        self,
        in_channels: int = 8,
        channels: int = 8,
        *,
        scales: Sequence[float],
        bank: bool = True,
    ):
        """
        Args:
            in_channels: D.
            channels: channels between the layers.
            scales: the number of pixels by which offsets are divided, for each level of the pyramid.
            bank: whether there is a bank, which paths other than "111" need.
        """
        super().__init__()
        self.widths = (in_channels + 2, channels, channels, 1)
        self.register_buffer("scales", torch.tensor(scales, dtype=torch.float32), persistent=False)
        self.bank = nn.ModuleList(
            Conv2d(before, after, 3, padding=1) for before, after in pairwise(self.widths) if bank
        )
        for convolution in self.bank:
            nn.init.normal_(convolution.weight, std=0.01)
            nn.init.zeros_(convolution.bias)

    @property
    def num_parameters(self) -> int:
        """P"""
        return sum(before * after + after for before, after in pairwise(self.widths))

    def inputs(self, features: Tensor, images: Tensor, points: Tensor, levels: Tensor, stride: int) -> Tensor:
        """Return the input of each entity's network, (E, 2 + D, h, w): offsets in x and in y, features.

        Args:
            features: (N, D, h, w) float.
            images: (E,) int64 in [0, N), the image of each entity.
            points: (E, 2) float x, y of the entities' locations in pixels.
            levels: (E,) int64 levels of the locations.
            stride: of the features.
        """
        count = len(points)
        height, width = features.shape[-2:]
        x, y = (
            torch.arange(side, dtype=torch.float32, device=features.device) * stride + stride // 2
            for side in (width, height)
        )
        scales = self.scales[levels][:, None]
        across, down = (points[:, :1] - x) / scales, (points[:, 1:] - y) / scales
        return torch.cat(
            (
                across[:, None, None, :].expand(count, 1, height, width).to(features.dtype),
                down[:, None, :, None].expand(count, 1, height, width).to(features.dtype),
                features[images],
            ),
            1,
        )

    def split(self, kernels: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Return weight (E, out, in) and bias (E, out) of each layer from the parameters (E, P).

        The parameters are the weights of all layers, then the biases of all layers.
        """
        pairs = list(pairwise(self.widths))
        parts = kernels.split([before * after for before, after in pairs] + [after for _, after in pairs], 1)
        weights, biases = parts[: len(pairs)], parts[len(pairs) :]
        return [
            (weight.unflatten(1, (after, before)), bias)
            for weight, bias, (before, after) in zip(weights, biases, pairs, strict=True)
        ]

    def forward(self, inputs: Tensor, kernels: Tensor, paths: Sequence[str] = ("111",)) -> dict[str, Tensor]:
        """Compute mask logits by path; layers that several paths begin with are computed once.

        Args:
            inputs: (E, 2 + D, h, w), see `inputs`.
            kernels: (E, P) float, the parameters.
            paths: the paths.

        Returns:
            {path: (E, h, w) logits}
        """
        own = self.split(kernels)
        computed = {"": inputs}
        for path in paths:
            for end in range(1, len(path) + 1):
                if path[:end] not in computed:
                    before = computed[path[: end - 1]]
                    x = (
                        self._own(own[end - 1], before)
                        if path[end - 1] == "1"
                        else self.bank[end - 1](before)
                    )
                    computed[path[:end]] = x if end == len(path) else x.relu_()
        return {path: computed[path][:, 0] for path in paths}

    @staticmethod
    def _own(layer: tuple[Tensor, Tensor], x: Tensor) -> Tensor:
        weight, bias = layer
        return torch.baddbmm(bias[..., None], weight, x.flatten(2)).unflatten(2, x.shape[-2:])
