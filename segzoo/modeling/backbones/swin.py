"""Swin Transformer as a backbone for dense prediction (Liu et al. 2021).

Module names are those of the published files, both the classifiers' (`layers.0.blocks.0.attn.qkv`, ...) and
the dense models', which add `norm0` to `norm3` on the outputs.

timm's Swin is not used: it rolls a feature map before padding it to whole windows, while the published dense
models pad first, so the two differ if a side is not a multiple of the window.

Shape shorthand: N images, H W size of a feature map, C channels, W' windows of a map, T tokens of a window.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from detectron2.config import configurable
from detectron2.modeling import BACKBONE_REGISTRY
from torch import nn
from torch.utils.checkpoint import checkpoint

from segzoo.layers import DropPath, Linear
from segzoo.layers.conv import fast_layout
from segzoo.layers.mlp import TransformerMLP

from .layer_depths import LayerDepths, number_layers
from .staged import FEATURES, StagedBackbone, drop_path_rates, init_linear

# Published models add this, not minus infinity, to block attention across the seam of a shifted map.
_SEAM_PENALTY = -100.0
# Elements to which the rows of an attention bias are aligned for CUDA's kernels.
_ALIGNMENT = 8


@dataclass(frozen=True)
class SwinVariant:
    """Channels after the patch embedding, blocks and heads per stage, and the side of a window."""

    embed_dim: int
    depths: tuple[int, ...]
    num_heads: tuple[int, ...]
    window_size: int


# `_384` marks models pre-trained on 384-pixel images, whose windows are larger.
VARIANTS = {
    "tiny": SwinVariant(96, (2, 2, 6, 2), (3, 6, 12, 24), 7),
    "small": SwinVariant(96, (2, 2, 18, 2), (3, 6, 12, 24), 7),
    "base": SwinVariant(128, (2, 2, 18, 2), (4, 8, 16, 32), 7),
    "base_384": SwinVariant(128, (2, 2, 18, 2), (4, 8, 16, 32), 12),
    "large": SwinVariant(192, (2, 2, 18, 2), (6, 12, 24, 48), 7),
    "large_384": SwinVariant(192, (2, 2, 18, 2), (6, 12, 24, 48), 12),
}


class WindowAttention(nn.Module):
    """Multi-head self-attention inside square windows, with a learned bias per relative position."""

    def __init__(self, dim: int, num_heads: int, window_size: int):
        super().__init__()
        self.num_heads = num_heads
        self.qkv = Linear(dim, 3 * dim)
        self.proj = Linear(dim, dim)
        self.relative_position_bias_table = nn.Parameter(torch.empty((2 * window_size - 1) ** 2, num_heads))
        self.register_buffer(
            "relative_position_index", _relative_position_index(window_size), persistent=False
        )
        nn.init.trunc_normal_(self.relative_position_bias_table, std=0.02)

    def forward(self, windows: torch.Tensor, seam: torch.Tensor | None) -> torch.Tensor:
        """Attend within each window.

        Args:
            windows: (N * W', T, C) float, the windows of an image in consecutive entries.
            seam: (W', 1, T, T) float bias on the attention logits, or None.

        Returns:
            (N * W', T, C) float.
        """
        count, tokens, channels = windows.shape
        qkv = self.qkv(windows).view(count, tokens, 3, self.num_heads, channels // self.num_heads)
        query, key, value = qkv.permute(2, 0, 3, 1, 4)
        # CUDA's kernels copy a bias whose rows are not aligned, so they are made aligned.
        multiple = _ALIGNMENT if windows.is_cuda else 1
        bias = self.bias(count, seam, multiple).to(query.dtype)[..., :tokens]
        attended = F.scaled_dot_product_attention(query, key, value, attn_mask=bias)
        return self.proj(attended.transpose(1, 2).reshape(count, tokens, channels))

    def bias(self, count: int, seam: torch.Tensor | None, multiple: int = 1) -> torch.Tensor:
        """Return the bias on the attention logits of N * W' = count windows.

        Args:
            seam: see `forward`.
            multiple: T is padded to a multiple of this for the keys; what is added has no meaning.

        Returns:
            (count or 1, heads, T, T or more) float, contiguous.
        """
        index = self.relative_position_index
        padding = -index.shape[1] % multiple
        if padding:
            index = F.pad(index, (0, padding))
        bias = self.relative_position_bias_table.t()[:, index].contiguous()[None]
        if seam is None:
            return bias
        if padding:
            seam = F.pad(seam, (0, padding))
        return (bias + seam).repeat(count // seam.shape[0], 1, 1, 1)


class SwinBlock(nn.Module):
    """(Shifted-)window attention and an MLP, each pre-norm with a residual (equation 3 of the paper)."""

    def __init__(self, dim: int, num_heads: int, window_size: int, shift: int, drop_path: float):
        super().__init__()
        self.window_size = window_size
        self.shift = shift
        self.norm1 = nn.LayerNorm(dim)
        self.attn = WindowAttention(dim, num_heads, window_size)
        self.drop_path = DropPath(drop_path)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = TransformerMLP(dim, 4 * dim)

    def forward(self, x: torch.Tensor, seam: torch.Tensor) -> torch.Tensor:
        """Apply the block to x, (N, H, W, C) float; shifted blocks use `seam`, see `seam_penalty`."""
        x = x + self.drop_path(self._attend(self.norm1(x), seam))
        return x + self.drop_path(self.mlp(self.norm2(x)))

    def _attend(self, x: torch.Tensor, seam: torch.Tensor) -> torch.Tensor:
        batch, height, width, channels = x.shape
        x = pad_to_multiple(x, self.window_size)
        rows, columns = x.shape[1] // self.window_size, x.shape[2] // self.window_size
        if self.shift:
            x = x.roll((-self.shift, -self.shift), dims=(1, 2))
        windows = x.view(batch, rows, self.window_size, columns, self.window_size, channels)
        windows = windows.transpose(2, 3).reshape(-1, self.window_size**2, channels)
        windows = self.attn(windows, seam if self.shift else None)
        x = windows.view(batch, rows, columns, self.window_size, self.window_size, channels)
        x = x.transpose(2, 3).reshape(batch, rows * self.window_size, columns * self.window_size, channels)
        if self.shift:
            x = x.roll((self.shift, self.shift), dims=(1, 2))
        return x[:, :height, :width]


class PatchMerging(nn.Module):
    """Merges every 2 x 2 pixels into one with twice the channels."""

    def __init__(self, dim: int):
        super().__init__()
        self.norm = nn.LayerNorm(4 * dim)
        self.reduction = Linear(4 * dim, 2 * dim, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Merge x, (N, H, W, C) float, to (N, ceil(H / 2), ceil(W / 2), 2 * C)."""
        x = pad_to_multiple(x, 2)
        # Column by column, as the published weights of `reduction` expect.
        corners = (x[:, 0::2, 0::2], x[:, 1::2, 0::2], x[:, 0::2, 1::2], x[:, 1::2, 1::2])
        return self.reduction(self.norm(torch.cat(corners, dim=-1)))


class SwinStage(nn.Module):
    """Blocks at one resolution, every second one shifted, and the transition to the next resolution."""

    def __init__(self, dim: int, num_heads: int, window_size: int, drop_path: list[float], downsample: bool):
        super().__init__()
        self.window_size = window_size
        self.blocks = nn.ModuleList(
            SwinBlock(dim, num_heads, window_size, shift=window_size // 2 if index % 2 else 0, drop_path=rate)
            for index, rate in enumerate(drop_path)
        )
        self.downsample = PatchMerging(dim) if downsample else None
        self._last_seam: tuple[tuple, torch.Tensor] | None = None

    def seam(self, x: torch.Tensor) -> torch.Tensor:
        """Return `seam_penalty` for x, (N, H, W, C); that of the last size is kept."""
        size = x.shape[1], x.shape[2]
        recorded = torch.compiler.is_compiling() or torch.jit.is_tracing()
        if recorded or torch.is_inference_mode_enabled():
            return seam_penalty(*size, self.window_size, x.device)
        if self._last_seam is None or self._last_seam[0] != (size, x.device):
            self._last_seam = (size, x.device), seam_penalty(*size, self.window_size, x.device)
        return self._last_seam[1]

    def forward(self, x: torch.Tensor, checkpointing: bool) -> torch.Tensor:
        """Apply the blocks to x, (N, H, W, C) float, without the downsampling."""
        seam = self.seam(x)
        for block in self.blocks:
            x = checkpoint(block, x, seam, use_reentrant=False) if checkpointing else block(x, seam)
        return x


class PatchEmbed(nn.Module):
    """Linear embedding of 4 x 4 pixel patches, as a strided convolution, and a layer norm."""

    def __init__(self, in_channels: int, embed_dim: int):
        super().__init__()
        self.proj = nn.Conv2d(in_channels, embed_dim, kernel_size=4, stride=4)
        self.norm = nn.LayerNorm(embed_dim)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Embed images, (N, 3, H, W) float, as (N, ceil(H / 4), ceil(W / 4), C)."""
        image = F.pad(image, (0, -image.shape[3] % 4, 0, -image.shape[2] % 4))
        return self.norm(self.proj(image).permute(0, 2, 3, 1))


@BACKBONE_REGISTRY.register()
class SwinTransformer(StagedBackbone):
    """Swin Transformer with a layer norm on each output, for images of any size.

    Outputs "res2" to "res5" at strides 4, 8, 16 and 32, rounded up; channels double from one to the next.
    """

    variants = VARIANTS

    @configurable
    def __init__(
        self,
        *,
        variant: SwinVariant,
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
            freeze_at: 0 nothing, 1 the patch embedding, 2 also the stage of res2, ... The norms on the
                outputs are always trained.
            activation_checkpointing: recompute block activations in the backward pass to save memory.
        """
        channels = tuple(variant.embed_dim * 2**index for index in range(4))
        super().__init__(channels, out_features, activation_checkpointing)
        self.patch_embed = PatchEmbed(in_channels, variant.embed_dim)
        rates = drop_path_rates(drop_path_rate, variant.depths)
        self.layers = nn.ModuleList(
            SwinStage(
                channels[index],
                variant.num_heads[index],
                variant.window_size,
                drop_path=rates[index],
                downsample=index < self.num_stages - 1,
            )
            for index in range(self.num_stages)
        )
        for name in self.out_features:
            index = FEATURES.index(name)
            self.add_module(f"norm{index}", nn.LayerNorm(channels[index]))
        self.apply(init_linear)
        self.freeze([(part,) for part in (self.patch_embed, *self.layers)], freeze_at)

    def forward(self, image: torch.Tensor) -> dict[str, torch.Tensor]:
        """Compute feature maps by name, (N, C, h, w), of normalized images, (N, 3, H, W), of any size."""
        x = self.patch_embed(image)
        outputs = {}
        for index, stage in enumerate(self.layers):
            x = stage(x, self.activation_checkpointing and self.training)
            if FEATURES[index] in self.out_features:
                normed = getattr(self, f"norm{index}")(x)
                outputs[FEATURES[index]] = fast_layout(normed.permute(0, 3, 1, 2))
            if stage.downsample is not None:
                x = stage.downsample(x)
        return outputs

    def layer_depths(self) -> LayerDepths:
        """Number the patch embedding and the blocks; a downsampling is as deep as the block before it."""

        def place(name: str) -> tuple[int, ...] | None:
            part, *rest = name.split(".")
            if part == "layers":
                stage = int(rest[0])
                last = len(self.layers[stage].blocks) - 1
                return 1 + stage, int(rest[2]) if rest[1] == "blocks" else last
            return (0,) if part == "patch_embed" else None

        return number_layers(self, place)


def pad_to_multiple(x: torch.Tensor, multiple: int) -> torch.Tensor:
    """Pad (N, H, W, C) with zeros at the bottom and right until H and W are multiples of `multiple`."""
    return F.pad(x, (0, 0, 0, -x.shape[2] % multiple, 0, -x.shape[1] % multiple))


def seam_penalty(height: int, width: int, window_size: int, device: torch.device) -> torch.Tensor:
    """Return the attention bias between tokens that only the cyclic shift brought into one window.

    Args:
        height, width: H and W of the map before padding to whole windows.
        window_size: side of a window; the shift is half of it, rounded down.
        device: device of the result.

    Returns:
        (W', 1, T, T) float32: 0 for two tokens of a window that were neighbors before the shift, else -100.
    """

    def regions(length: int) -> torch.Tensor:
        # Along one side the shifted map has three parts: whole windows, the remainder, and the opposite end.
        padded = length + -length % window_size
        index = torch.arange(padded, device=device)
        region = (index >= padded - window_size).int() + (index >= padded - window_size // 2).int()
        return region.view(-1, window_size)

    rows, columns = regions(height), regions(width)
    region = 3 * rows[:, None, :, None] + columns[None, :, None, :]
    region = region.view(-1, 1, window_size**2)
    return (region.unsqueeze(-1) != region.unsqueeze(-2)).float() * _SEAM_PENALTY


def _relative_position_index(window_size: int) -> torch.Tensor:
    """Return the row of the bias table for each query and key token of a window, (T, T) int64."""
    axis = torch.arange(window_size)
    rows, columns = (grid.flatten() for grid in torch.meshgrid(axis, axis, indexing="ij"))
    row_step = rows[:, None] - rows[None, :] + window_size - 1
    column_step = columns[:, None] - columns[None, :] + window_size - 1
    return row_step * (2 * window_size - 1) + column_step
