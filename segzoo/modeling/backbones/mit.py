"""The pyramid transformers of SegFormer (MiT; Xie et al. 2021) and PVTv2 (Wang et al. 2021).

They are one architecture with two tables of sizes: overlapping patch embeddings by strided convolutions,
attention to the keys and values of a reduced map, and MLPs with a depthwise convolution instead of a position
encoding. Module names are those of the published files: `patch_embed1.proj`, `block1.0.attn.q`, `norm1`, ...

Maps stay channels-last throughout: linear layers and layer norms read them directly, and a convolution sees
the same memory as an (N, C, H, W) tensor of that memory format.

Shape shorthand: N images, H W size of a feature map, C channels, L keys.
"""

import math
import re
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from detectron2.config import configurable
from detectron2.modeling import BACKBONE_REGISTRY
from torch import nn

from segzoo.layers import DropPath, Linear

from .layer_depths import LayerDepths, number_layers
from .staged import FEATURES, StagedBackbone, drop_path_rates, init_linear

# For the norms in blocks and after stages. The norms after convolutions have PyTorch's default.
_EPS = 1e-6


@dataclass(frozen=True)
class PyramidVariant:
    """Channels, blocks, attention heads and MLP expansion of each stage."""

    channels: tuple[int, int, int, int]
    depths: tuple[int, int, int, int]
    num_heads: tuple[int, int, int, int] = (1, 2, 5, 8)
    mlp_ratios: tuple[int, int, int, int] = (4, 4, 4, 4)
    # Keys and values come from a map that is reduced by this factor along each side.
    reductions: tuple[int, int, int, int] = (8, 4, 2, 1)


_NARROW, _WIDE = (32, 64, 160, 256), (64, 128, 320, 512)
MIT_VARIANTS = {
    "b0": PyramidVariant(_NARROW, (2, 2, 2, 2)),
    "b1": PyramidVariant(_WIDE, (2, 2, 2, 2)),
    "b2": PyramidVariant(_WIDE, (3, 4, 6, 3)),
    "b3": PyramidVariant(_WIDE, (3, 4, 18, 3)),
    "b4": PyramidVariant(_WIDE, (3, 8, 27, 3)),
    "b5": PyramidVariant(_WIDE, (3, 6, 40, 3)),
}
PVT_V2_VARIANTS = {
    "b0": PyramidVariant(_NARROW, (2, 2, 2, 2), mlp_ratios=(8, 8, 4, 4)),
    "b1": PyramidVariant(_WIDE, (2, 2, 2, 2), mlp_ratios=(8, 8, 4, 4)),
    "b2": PyramidVariant(_WIDE, (3, 4, 6, 3), mlp_ratios=(8, 8, 4, 4)),
    "b3": PyramidVariant(_WIDE, (3, 4, 18, 3), mlp_ratios=(8, 8, 4, 4)),
    "b4": PyramidVariant(_WIDE, (3, 8, 27, 3), mlp_ratios=(8, 8, 4, 4)),
    "b5": PyramidVariant(_WIDE, (3, 6, 40, 3)),
}


class OverlapPatchEmbed(nn.Module):
    """A strided convolution with overlapping windows, and a layer norm."""

    def __init__(self, in_channels: int, channels: int, kernel_size: int, stride: int):
        super().__init__()
        self.proj = nn.Conv2d(in_channels, channels, kernel_size, stride, padding=kernel_size // 2)
        self.norm = nn.LayerNorm(channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Embed x, (N, H, W, C) float, as (N, ceil(H / stride), ceil(W / stride), C')."""
        return self.norm(_convolve(self.proj, x))


class ReducedAttention(nn.Module):
    """Multi-head attention from every pixel to a map reduced by a strided convolution.

    Args:
        dim: C.
        num_heads: divides C.
        reduction: kernel size and stride of the convolution; 1 for none.
    """

    def __init__(self, dim: int, num_heads: int, reduction: int):
        super().__init__()
        self.num_heads = num_heads
        self.q = Linear(dim, dim)
        self.kv = Linear(dim, 2 * dim)
        self.proj = Linear(dim, dim)
        self.sr = nn.Conv2d(dim, dim, reduction, reduction) if reduction > 1 else None
        self.norm = nn.LayerNorm(dim) if reduction > 1 else None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Attend from x, (N, H, W, C) float, to its reduced map."""
        batch, height, width, channels = x.shape
        query = self.q(x).view(batch, height * width, self.num_heads, -1).transpose(1, 2)
        if self.sr is not None:
            x = self.norm(_convolve(self.sr, self._at_least_one_window(x)))
        key_value = self.kv(x.flatten(1, 2)).unflatten(2, (2, self.num_heads, -1))
        key, value = key_value.permute(2, 0, 3, 1, 4)  # each (N, heads, L, C / heads)
        attended = F.scaled_dot_product_attention(query, key, value)
        return self.proj(attended.transpose(1, 2).reshape(batch, height, width, channels))

    def _at_least_one_window(self, x: torch.Tensor) -> torch.Tensor:
        """Pad a map smaller than one window; rows and columns beyond the last whole window are dropped."""
        rows, columns = (max(self.sr.stride[0] - side, 0) for side in x.shape[1:3])
        return F.pad(x, (0, 0, 0, columns, 0, rows)) if rows or columns else x


class DepthwiseConvolution(nn.Module):
    """A 3 x 3 convolution of each channel, in a module because the published names have two parts."""

    def __init__(self, dim: int):
        super().__init__()
        self.dwconv = nn.Conv2d(dim, dim, kernel_size=3, padding=1, groups=dim)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Convolve x, (N, H, W, C) float."""
        return _convolve(self.dwconv, x)


class MixMlp(nn.Module):
    """Linear, depthwise convolution, GELU, linear (equation 3 of SegFormer)."""

    def __init__(self, dim: int, hidden_dim: int):
        super().__init__()
        self.fc1 = Linear(dim, hidden_dim)
        self.dwconv = DepthwiseConvolution(hidden_dim)
        self.fc2 = Linear(hidden_dim, dim)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Apply the MLP to x, (N, H, W, C) float."""
        return self.fc2(F.gelu(self.dwconv(self.fc1(x))))


class PyramidBlock(nn.Module):
    """Attention and an MLP, each pre-norm with a residual."""

    def __init__(self, dim: int, num_heads: int, reduction: int, mlp_ratio: int, drop_path: float):
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=_EPS)
        self.attn = ReducedAttention(dim, num_heads, reduction)
        self.drop_path = DropPath(drop_path)
        self.norm2 = nn.LayerNorm(dim, eps=_EPS)
        self.mlp = MixMlp(dim, mlp_ratio * dim)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Apply the block to x, (N, H, W, C) float."""
        x = x + self.drop_path(self.attn(self.norm1(x)))
        return x + self.drop_path(self.mlp(self.norm2(x)))


class PyramidTransformer(StagedBackbone):
    """A pyramid transformer with a layer norm after each stage, for images of any size."""

    @configurable
    def __init__(
        self,
        *,
        variant: PyramidVariant,
        in_channels: int = 3,
        drop_path_rate: float = 0.0,
        out_features: tuple[str, ...] = FEATURES,
        freeze_at: int = 0,
        activation_checkpointing: bool = False,
    ):
        """
        Args:
            variant: sizes, e.g. `MIT_VARIANTS["b0"]`.
            in_channels: channels of the image.
            drop_path_rate: rate of the last block; it grows linearly from 0 at the first.
            out_features: names of the outputs; stages after the last of them are not built.
            freeze_at: 0 nothing, 1 the first patch embedding, 2 also the stage of res2, ...
            activation_checkpointing: recompute block activations in the backward pass to save memory.
        """
        super().__init__(variant.channels, out_features, activation_checkpointing)
        rates = drop_path_rates(drop_path_rate, variant.depths)
        parts = []
        for index in range(self.num_stages):
            channels = variant.channels[index]
            kernel_size, stride = (3, 2) if index else (7, 4)
            embedding = OverlapPatchEmbed(in_channels, channels, kernel_size, stride)
            blocks = nn.ModuleList(
                PyramidBlock(
                    channels,
                    variant.num_heads[index],
                    variant.reductions[index],
                    variant.mlp_ratios[index],
                    rate,
                )
                for rate in rates[index]
            )
            norm = nn.LayerNorm(channels, eps=_EPS)
            self.add_module(f"patch_embed{index + 1}", embedding)
            self.add_module(f"block{index + 1}", blocks)
            self.add_module(f"norm{index + 1}", norm)
            parts += [(embedding, blocks, norm)] if index else [(embedding,), (blocks, norm)]
            in_channels = channels
        self.apply(_init_weights)
        self.freeze(parts, freeze_at)

    def layer_depths(self) -> LayerDepths:
        """Number embeddings with the first block of their stage, and norms with the last."""

        def place(name: str) -> tuple[int, ...]:
            part, stage = re.match(r"([a-z_]+)(\d)", name).groups()
            index, last = int(stage), len(getattr(self, f"block{stage}")) - 1
            if part == "block":
                return index, int(name.split(".")[1])
            if part == "norm":
                return index, last
            return (index, 0) if index > 1 else (0,)

        return number_layers(self, place)

    def forward(self, image: torch.Tensor) -> dict[str, torch.Tensor]:
        """Compute feature maps by name, (N, C, h, w), of normalized images, (N, 3, H, W), of any size."""
        x = image.permute(0, 2, 3, 1)
        outputs = {}
        for index in range(self.num_stages):
            x = getattr(self, f"patch_embed{index + 1}")(x)
            x = self.run(getattr(self, f"block{index + 1}"), x)
            x = getattr(self, f"norm{index + 1}")(x)
            if FEATURES[index] in self.out_features:
                outputs[FEATURES[index]] = x.permute(0, 3, 1, 2).contiguous()
        return outputs


@BACKBONE_REGISTRY.register()
class MixTransformer(PyramidTransformer):
    """MiT, the encoder of SegFormer."""

    variants = MIT_VARIANTS


@BACKBONE_REGISTRY.register()
class PyramidVisionTransformerV2(PyramidTransformer):
    """PVTv2, without its linear-attention variant."""

    variants = PVT_V2_VARIANTS


def _convolve(convolution: nn.Conv2d, x: torch.Tensor) -> torch.Tensor:
    """Convolve (N, H, W, C) to (N, H', W', C'), in channels-last memory."""
    image = x.permute(0, 3, 1, 2).contiguous(memory_format=torch.channels_last)
    return convolution(image).permute(0, 2, 3, 1).contiguous()


def _init_weights(module: nn.Module) -> None:
    init_linear(module)
    if isinstance(module, nn.Conv2d):
        fan_out = math.prod(module.kernel_size) * module.out_channels // module.groups
        nn.init.normal_(module.weight, std=math.sqrt(2.0 / fan_out))
        nn.init.zeros_(module.bias)
