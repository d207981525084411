"""CSWin Transformer as a backbone for dense prediction (Dong et al. 2022).

Half of the heads attend within vertical stripes of the map, the other half within horizontal ones; the last
stage attends to the whole map. Module names are those of the published files, both the classifiers'
(`stage1_conv_embed.0`, `stage1.0.qkv`, `stage1.0.attns.0.get_v`, `merge1.conv`, ...) and the dense models',
which add `norm1` to `norm4` on the outputs.

Shape shorthand: N images, H W size of a feature map, C channels, G heads of a branch, S stripes of a map, T
tokens of a stripe.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from detectron2.config import configurable
from detectron2.modeling import BACKBONE_REGISTRY
from torch import nn

from segzoo.layers import DropPath, Linear
from segzoo.layers.mlp import TransformerMLP

from .layer_depths import LayerDepths, number_layers
from .staged import FEATURES, StagedBackbone, at_least, drop_path_rates, init_linear

# The smallest side that fits the embedding's kernel with its padding.
_LEAST_SIDE = 3


@dataclass(frozen=True)
class CSWinVariant:
    """Channels after the embedding, blocks and heads per stage, width of stripes in the first three stages.

    Channels double from stage to stage.
    """

    embed_dim: int
    depths: tuple[int, int, int, int]
    num_heads: tuple[int, int, int, int]
    stripes: tuple[int, int, int] = (1, 2, 7)


# `_384` marks models fine-tuned on 384-pixel images, whose third stage has wider stripes.
VARIANTS = {
    "tiny": CSWinVariant(64, (1, 2, 21, 1), (2, 4, 8, 16)),
    "small": CSWinVariant(64, (2, 4, 32, 2), (2, 4, 8, 16)),
    "base": CSWinVariant(96, (2, 4, 32, 2), (4, 8, 16, 32)),
    "base_384": CSWinVariant(96, (2, 4, 32, 2), (4, 8, 16, 32), (1, 2, 12)),
    "large": CSWinVariant(144, (2, 4, 32, 2), (6, 12, 24, 24)),
    "large_384": CSWinVariant(144, (2, 4, 32, 2), (6, 12, 24, 24), (1, 2, 12)),
}


class StripeAttention(nn.Module):
    """Multi-head attention within stripes, plus a depthwise 3 x 3 convolution of the values of each stripe.

    The convolution is the paper's locally-enhanced position encoding (equation 7). A map is padded with zeros
    to whole stripes, half on each side; the zeros take part in the softmax, as in the published models.

    Args:
        dim: C, channels of the branch.
        num_heads: G, divides C.
        stripe: width of the stripes; 0 for the whole map.
        vertical: whether a stripe is as high as the map; otherwise it is as wide.
    """

    def __init__(self, dim: int, num_heads: int, stripe: int, vertical: bool):
        super().__init__()
        self.num_heads = num_heads
        self.stripe = stripe
        self.vertical = vertical
        self.get_v = nn.Conv2d(dim, dim, kernel_size=3, padding=1, groups=dim)

    def forward(self, qkv: torch.Tensor) -> torch.Tensor:
        """Attend within stripes: (N, H, W, 3, C) float queries, keys and values -> (N, H, W, C)."""
        batch, height, width, _, channels = qkv.shape
        rows, columns = height, width
        top = left = 0
        if self.stripe and self.vertical:
            columns, padding = self.stripe, -width % self.stripe
            left = padding // 2
            qkv = _pad(qkv, 2, left, padding - left)
        elif self.stripe:
            rows, padding = self.stripe, -height % self.stripe
            top = padding // 2
            qkv = _pad(qkv, 1, top, padding - top)
        down, across = qkv.shape[1] // rows, qkv.shape[2] // columns
        stripes = qkv.view(batch, down, rows, across, columns, 3, channels)
        stripes = stripes.permute(5, 0, 1, 3, 2, 4, 6).reshape(3, -1, rows * columns, channels)
        query, key, value = (
            part.unflatten(2, (self.num_heads, -1)).transpose(1, 2) for part in stripes
        )  # (N * S, G, T, C / G)
        attended = F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)
        positions = self.get_v(stripes[2].view(-1, rows, columns, channels).permute(0, 3, 1, 2))
        x = attended + positions.permute(0, 2, 3, 1).reshape(attended.shape)
        x = x.view(batch, down, across, rows, columns, channels).transpose(2, 3)
        x = x.reshape(batch, down * rows, across * columns, channels)
        return x[:, top : top + height, left : left + width]


class CSWinBlock(nn.Module):
    """Attention in both directions and an MLP, each pre-norm with a residual (equation 8 of the paper)."""

    def __init__(self, dim: int, num_heads: int, stripe: int, drop_path: float):
        """stripe: width of the stripes; 0 for one attention over the whole map."""
        super().__init__()
        self.norm1 = nn.LayerNorm(dim)
        self.qkv = Linear(dim, 3 * dim)
        branches = 2 if stripe else 1
        self.attns = nn.ModuleList(
            StripeAttention(dim // branches, num_heads // branches, stripe, vertical=index == 0)
            for index in range(branches)
        )
        self.proj = Linear(dim, dim)
        self.drop_path = DropPath(drop_path)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = TransformerMLP(dim, 4 * dim)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Apply the block to x, (N, H, W, C) float."""
        qkv = self.qkv(self.norm1(x)).unflatten(3, (3, -1)).chunk(len(self.attns), dim=4)
        attended = [attention(part) for attention, part in zip(self.attns, qkv, strict=True)]
        x = x + self.drop_path(self.proj(attended[0] if len(attended) == 1 else torch.cat(attended, dim=3)))
        return x + self.drop_path(self.mlp(self.norm2(x)))


class ToChannelsLast(nn.Module):
    """Permutes (N, C, H, W) to (N, H, W, C)."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.permute(0, 2, 3, 1)


class Merge(nn.Module):
    """Transition to the next stage: a 3 x 3 convolution of stride 2 and a layer norm."""

    def __init__(self, dim: int, out_dim: int):
        super().__init__()
        self.conv = nn.Conv2d(dim, out_dim, kernel_size=3, stride=2, padding=1)
        self.norm = nn.LayerNorm(out_dim)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Downsample x, (N, H, W, C) float, to (N, ceil(H / 2), ceil(W / 2), C')."""
        return self.norm(self.conv(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1))


@BACKBONE_REGISTRY.register()
class CSWinTransformer(StagedBackbone):
    """CSWin Transformer with a layer norm on each output, for images of any size.

    The embedding, 7 x 7 with stride 4 and padding 2, gives floor((side + 1) / 4) tokens; every later map is
    half as large, rounded up. Channels double from one output to the next.
    """

    variants = VARIANTS

    @configurable
    def __init__(
        self,
        *,
        variant: CSWinVariant,
        in_channels: int = 3,
        drop_path_rate: float = 0.0,
        out_features: tuple[str, ...] = FEATURES,
        freeze_at: int = 0,
        activation_checkpointing: bool = False,
    ):
        """
        Args:
            variant: sizes, e.g. `VARIANTS["tiny"]`.
            in_channels: channels of the image.
            drop_path_rate: rate of the last block; it grows linearly from 0 at the first.
            out_features: names of the outputs; stages after the last of them are not built.
            freeze_at: 0 nothing, 1 the embedding, 2 also the stage of res2, ... The norms on the outputs
                are always trained.
            activation_checkpointing: recompute block activations in the backward pass to save memory.
        """
        channels = tuple(variant.embed_dim * 2**index for index in range(4))
        super().__init__(channels, out_features, activation_checkpointing)
        self.stage1_conv_embed = nn.Sequential(
            nn.Conv2d(in_channels, variant.embed_dim, kernel_size=7, stride=4, padding=2),
            ToChannelsLast(),
            nn.LayerNorm(variant.embed_dim),
        )
        rates = drop_path_rates(drop_path_rate, variant.depths)
        parts = [(self.stage1_conv_embed,)]
        for index in range(self.num_stages):
            stripe = (*variant.stripes, 0)[index]
            blocks = nn.ModuleList(
                CSWinBlock(channels[index], variant.num_heads[index], stripe, rate) for rate in rates[index]
            )
            self.add_module(f"stage{index + 1}", blocks)
            if index:
                merge = Merge(channels[index - 1], channels[index])
                self.add_module(f"merge{index}", merge)
            parts.append((merge, blocks) if index else (blocks,))
            if FEATURES[index] in self.out_features:
                self.add_module(f"norm{index + 1}", nn.LayerNorm(channels[index]))
        self.apply(init_linear)
        self.freeze(parts, freeze_at)

    def layer_depths(self) -> LayerDepths:
        """Number the embedding and the blocks; a merge is as deep as the block before it."""

        def place(name: str) -> tuple[int, ...] | None:
            part, block, *_ = name.split(".")
            if part == "stage1_conv_embed":
                return (0,)
            if part.startswith("merge"):
                stage = part.removeprefix("merge")
                return int(stage), len(getattr(self, f"stage{stage}")) - 1
            return (int(part.removeprefix("stage")), int(block)) if part.startswith("stage") else None

        return number_layers(self, place)

    def forward(self, image: torch.Tensor) -> dict[str, torch.Tensor]:
        """Compute feature maps by name, (N, C, h, w), of normalized images, (N, 3, H, W), of any size."""
        image = at_least(image, _LEAST_SIDE)
        x = self.stage1_conv_embed(image.contiguous(memory_format=torch.channels_last))
        outputs = {}
        for index in range(self.num_stages):
            if index:
                x = getattr(self, f"merge{index}")(x)
            x = self.run(getattr(self, f"stage{index + 1}"), x)
            if FEATURES[index] in self.out_features:
                normed = getattr(self, f"norm{index + 1}")(x)
                outputs[FEATURES[index]] = normed.permute(0, 3, 1, 2).contiguous()
        return outputs


def _pad(x: torch.Tensor, dim: int, before: int, after: int) -> torch.Tensor:
    """Pad dimension `dim` of (N, H, W, 3, C) with zeros before and after."""
    if not before + after:
        return x
    return F.pad(x, [0] * (2 * (x.dim() - 1 - dim)) + [before, after])
