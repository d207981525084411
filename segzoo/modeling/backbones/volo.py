"""VOLO as a backbone for dense prediction (Yuan et al. 2022), built from timm's blocks.

The layers that attend to a class token are left out. Module names are those of the published files:
`patch_embed`, `network.0` to `network.4`, `pos_embed`. The published code has no dense model; this module
derives four outputs from two resolutions with transposed convolutions, `upsample_res2` and `upsample_res3`,
which no published file has, and a max pool.

Shape shorthand: N images, H W size of a feature map, C channels.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from detectron2.config import configurable
from detectron2.modeling import BACKBONE_REGISTRY
from timm.models.volo import Downsample, Outlooker, PatchEmbed, Transformer
from torch import nn

from .layer_depths import LayerDepths, number_layers
from .staged import FEATURES, StagedBackbone, at_least, drop_path_rates, init_linear


@dataclass(frozen=True)
class VOLOVariant:
    """Blocks per stage; channels, heads and MLP expansion in the first stage and in the others.

    `stem_dim` is the width of the first three convolutions.
    """

    depths: tuple[int, int, int, int]
    channels: tuple[int, int]
    num_heads: tuple[int, int]
    mlp_ratio: int = 3
    stem_dim: int = 64


VARIANTS = {
    "d1": VOLOVariant((4, 4, 8, 2), (192, 384), (6, 12)),
    "d2": VOLOVariant((6, 4, 10, 4), (256, 512), (8, 16)),
    "d3": VOLOVariant((8, 8, 16, 4), (256, 512), (8, 16)),
    "d4": VOLOVariant((8, 8, 16, 4), (384, 768), (12, 16)),
    "d5": VOLOVariant((12, 12, 20, 4), (384, 768), (12, 16), mlp_ratio=4, stem_dim=128),
}
# Side of the position embedding in a model for 224-pixel images.
_POSITIONS = 14
# The smallest side that leaves one token after both downsamplings.
_LEAST_SIDE = 15


@BACKBONE_REGISTRY.register()
class VOLO(StagedBackbone):
    """Outlook attention at stride 8, then global attention at stride 16, for images of any size.

    Outputs: "res2" and "res3" are the first and second stage upsampled by 2 with a transposed convolution,
    "res4" is the third stage, "res5" the fourth after a max pool that rounds up. As in the published code,
    the first stage has floor(ceil(side / 2) / 4) tokens and the others half as many, rounded down.
    """

    variants = VARIANTS

    @configurable
    def __init__(
        self,
        *,
        variant: VOLOVariant,
        in_channels: int = 3,
        drop_path_rate: float = 0.0,
        out_features: tuple[str, ...] = FEATURES,
        freeze_at: int = 0,
        activation_checkpointing: bool = False,
    ):
        """
        Args:
            variant: sizes, e.g. `VARIANTS["d1"]`.
            in_channels: channels of the image.
            drop_path_rate: rate of the last block. It grows linearly with the block's number, but blocks of
                outlook attention have none, as in the published training.
            out_features: names of the outputs; stages after the last of them are not built.
            freeze_at: 0 nothing, 1 the patch embedding, 2 also the first stage, 3 also the position embedding
                and the second stage, ... The transposed convolutions are always trained.
            activation_checkpointing: recompute block activations in the backward pass to save memory.
        """
        first, later = variant.channels
        super().__init__((first, later, later, later), out_features, activation_checkpointing)
        self.patch_embed = PatchEmbed(
            stem_conv=True,
            stem_stride=2,
            patch_size=8,
            in_chans=in_channels,
            hidden_dim=variant.stem_dim,
            embed_dim=first,
        )
        outlookers = [
            Outlooker(
                first,
                kernel_size=3,
                padding=1,
                stride=2,
                num_heads=variant.num_heads[0],
                mlp_ratio=variant.mlp_ratio,
            )
            for _ in range(variant.depths[0])
        ]
        self.network = nn.ModuleList([nn.Sequential(*outlookers)])
        parts = [(self.patch_embed,), (self.network[0],)]
        if self.num_stages > 1:
            self.network.append(Downsample(first, later, 2))
            self.pos_embed = nn.Parameter(torch.zeros(1, _POSITIONS, _POSITIONS, later))
            nn.init.trunc_normal_(self.pos_embed, std=0.02)
        for rates in drop_path_rates(drop_path_rate, variant.depths)[1 : self.num_stages]:
            blocks = [
                Transformer(later, variant.num_heads[1], mlp_ratio=variant.mlp_ratio, drop_path=rate)
                for rate in rates
            ]
            self.network.append(nn.Sequential(*blocks))
            parts.append((self.network[-1],))
        if self.num_stages > 1:
            parts[2] += (self.network[1], self.pos_embed)
        for name, channels in zip(("res2", "res3"), variant.channels, strict=True):
            if name in self.out_features:
                upsample = nn.ConvTranspose2d(channels, channels, kernel_size=2, stride=2)
                self.add_module(f"upsample_{name}", upsample)
        self.apply(init_linear)
        self.freeze(parts, freeze_at)

    def layer_depths(self) -> LayerDepths:
        """Number the embedding and the blocks; downsampling and position embedding with the next block."""

        def place(name: str) -> tuple[int, ...] | None:
            part, *rest = name.split(".")
            if part == "network":
                return (2, 0) if rest[0] == "1" else (int(rest[0]), int(rest[1]))
            return {"patch_embed": (-1,), "pos_embed": (2, 0)}.get(part)

        return number_layers(self, place)

    def forward(self, image: torch.Tensor) -> dict[str, torch.Tensor]:
        """Compute feature maps by name, (N, C, h, w), of normalized images, (N, 3, H, W), of any size."""
        image = at_least(image, _LEAST_SIDE)
        x = self.patch_embed(image).permute(0, 2, 3, 1)
        outputs = {}
        for index, stage in enumerate((0, 2, 3, 4)[: self.num_stages]):
            if index == 1:
                x = self.network[1](x)
                x = x + self._positions(*x.shape[1:3]).to(x.dtype)
            x = self.run(self.network[stage], x)
            name = FEATURES[index]
            if name in self.out_features:
                outputs[name] = self._output(name, x.permute(0, 3, 1, 2)).contiguous()
        return outputs

    def _output(self, name: str, x: torch.Tensor) -> torch.Tensor:
        """Convert a stage's map, (N, C, H, W), to the output `name`."""
        if name == "res4":
            return x
        if name == "res5":
            return F.max_pool2d(x, kernel_size=2, ceil_mode=True)
        return getattr(self, f"upsample_{name}")(x)

    def _positions(self, height: int, width: int) -> torch.Tensor:
        """Return the position embedding at the size of the map, (1, H, W, C) float."""
        if self.pos_embed.shape[1:3] == (height, width):
            return self.pos_embed
        grid = self.pos_embed.permute(0, 3, 1, 2)
        grid = F.interpolate(grid, size=(height, width), mode="bicubic", align_corners=False)
        return grid.permute(0, 2, 3, 1)
