"""The 38-layer wide residual network as a backbone (Wu et al. 2016, "Wider or Deeper", model A2).

Blocks are pre-activated (He et al. 2016): norm and ReLU precede each convolution, and outputs are sums
without activation. Parameter names follow the published files: `mod1` to `mod7`, `block1`, ...

Shape shorthand: N images, C channels, H W size of the image, h w size of a map.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, Backbone
from fvcore.nn.weight_init import c2_msra_fill
from torch import nn

from segzoo.layers.conv import norm_layer
from segzoo.layers.dropout import DROPOUTS
from segzoo.layers.runtime import checkpointed
from segzoo.utils.errors import ArgumentError, InputError

from ..configured import configurable_by
from .layer_depths import LayerDepths, number_layers
from .options import build_options


@dataclass(frozen=True)
class WideResNetVariant:
    """Sizes of a wide residual network.

    Attributes:
        depths: number of blocks in mod2 to mod7.
        width: channels of mod1; those of the other modules are multiples of it, see `_FACTORS`.
    """

    depths: tuple[int, int, int, int, int, int]
    width: int = 64


VARIANTS = {"wrn38": WideResNetVariant((3, 3, 6, 3, 1, 1))}

# Output channels of the convolutions of a block in mod2 to mod7, in units of the width. Two: 3 x 3 and 3 x 3;
# three: 1 x 1, 3 x 3, 1 x 1.
_FACTORS = ((2, 2), (4, 4), (8, 8), (8, 16), (8, 16, 32), (16, 32, 64))
_DROPOUT = (0.0, 0.0, 0.0, 0.0, 0.3, 0.5)
# The module that each output comes from.
_OUTPUTS = {"res1": "mod2", "res2": "mod3", "res3": "mod4", "res4": "mod5", "res5": "mod7"}


class PreActivatedBlock(nn.Module):
    """Two 3 x 3 convolutions, or 1 x 1, 3 x 3 and 1 x 1, each after norm and ReLU, with a shortcut.

    If the shape changes, the shortcut is a 1 x 1 convolution of the activated input, otherwise the raw input.
    """

    def __init__(
        self,
        in_channels: int,
        channels: tuple[int, ...],
        *,
        norm: str | Callable,
        stride: int = 1,
        dilation: int = 1,
        dropout: float = 0.0,
        dropout_kind: str = "channel",
    ):
        """
        Args:
            in_channels: channels of the input.
            channels: output channels of the two or three convolutions.
            norm: name of the normalization for `get_norm`.
            stride: stride of the first convolution.
            dilation: dilation of the 3 x 3 convolutions.
            dropout: probability that a value before the last convolution is set to 0, in training.
            dropout_kind: "channel" (all values of a channel together) or "element" (single values).
        """
        super().__init__()
        kernels = (3, 3) if len(channels) == 2 else (1, 3, 1)
        sizes = (in_channels, *channels)
        for index, kernel in enumerate(kernels):
            self.add_module(f"norm{index + 1}", norm_layer(norm, sizes[index]))
            convolution = _convolution(
                sizes[index], sizes[index + 1], kernel, 1 if index else stride, dilation
            )
            self.add_module(f"conv{index + 1}", convolution)
        self.shortcut = None
        if stride != 1 or in_channels != channels[-1]:
            self.shortcut = _convolution(in_channels, channels[-1], 1, stride, 1)
        self.dropout = DROPOUTS[dropout_kind](dropout) if dropout else None
        self.num_convolutions = len(channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map x, (N, C, H, W) float, to (N, channels[-1], ceil(H / stride), ceil(W / stride))."""
        activated = F.relu_(self.norm1(x))
        shortcut = x if self.shortcut is None else self.shortcut(activated)
        branch = F.relu_(self.norm2(self.conv1(activated)))
        if self.num_convolutions == 3:
            branch = F.relu_(self.norm3(self.conv2(branch)))
        if self.dropout is not None:
            branch = self.dropout(branch)
        branch = self.conv3(branch) if self.num_convolutions == 3 else self.conv2(branch)
        return branch.add_(shortcut)


@BACKBONE_REGISTRY.register()
class WideResNetBackbone(Backbone):
    """WideResNet38-A2 for images of any size; a map's side is the image's by its stride, rounded up.

    Outputs, with their strides at the published output stride 8 (at 32 in parentheses):
        "res1": mod2, 128 channels, stride 2 (2), the fine map of DeepLabV3+
        "res2": mod3, 256, 4 (4)
        "res3": mod4, 512, 8 (8)
        "res4": mod5, 1024, 8 (16)
        "res5": mod7, 4096, 8 (32)
    """

    @configurable_by(
        {
            "norm": "MODEL.BACKBONE.NORM",
            "output_stride": "MODEL.BACKBONE.OUTPUT_STRIDE",
            "dropout_kind": "MODEL.BACKBONE.DROPOUT_KIND",
        }
    )
    def __init__(
        self,
        *,
        variant: WideResNetVariant,
        in_channels: int = 3,
        norm: str | Callable = "SyncBN",
        output_stride: int = 8,
        out_features: tuple[str, ...] = ("res1", "res5"),
        freeze_at: int = 0,
        activation_checkpointing: bool = False,
        dropout_kind: str = "channel",
    ):
        """
        Args:
            variant: sizes, e.g. `VARIANTS["wrn38"]`.
            in_channels: channels of the image.
            norm: FrozenBN | BN | SyncBN, or another norm of Detectron2's `get_norm`.
            output_stride: 8, 16 or 32; modules that would exceed it dilate their 3 x 3 convolutions.
            out_features: names of the outputs; modules after the last of them are not built.
            freeze_at: 0 nothing, 1 mod1 and mod2, 2 also mod3, ..., 5 all.
            activation_checkpointing: recompute block activations in the backward pass to save memory.
            dropout_kind: what dropout in mod6 and mod7 sets to 0, "channel" (VPLR) or "element" (GluonCV).

        Raises:
            InputError: unknown output stride, feature or kind of dropout, or an empty norm.
        """
        super().__init__()
        if output_stride not in (8, 16, 32):
            raise ArgumentError("output_stride", f" {output_stride}: expected 8, 16 or 32")
        if not norm:
            raise ArgumentError("norm", f" {norm!r}: expected FrozenBN, BN or SyncBN")
        if dropout_kind not in DROPOUTS:
            raise ArgumentError("dropout_kind", f" {dropout_kind!r}: expected {' or '.join(DROPOUTS)}")
        unknown = [name for name in out_features if name not in _OUTPUTS]
        if unknown:
            raise InputError(
                f"out_features: a WideResNetBackbone has no {', '.join(unknown)}; "
                f"it has {', '.join(_OUTPUTS)}"
            )
        self.activation_checkpointing = activation_checkpointing
        self.freeze_at = freeze_at
        self.mod1 = _convolution(in_channels, variant.width, 3, 1, 1)
        last = max((_OUTPUTS[name] for name in out_features), default="mod1")
        channels, stride, dilation = variant.width, 1, 1
        shapes = {}
        for index, (factors, depth) in enumerate(zip(_FACTORS, variant.depths, strict=True)):
            name = f"mod{index + 2}"
            if name > last:
                break
            # mod2 and mod3 halve the map in a max-pool, mod4 to mod6 in the first block, mod7 does not.
            first_stride = 2 if name in ("mod4", "mod5", "mod6") else 1
            if stride * first_stride > output_stride:
                dilation, first_stride = 2 * dilation, 1
            stride *= 2 if name in ("mod2", "mod3") else first_stride
            blocks = nn.Sequential()
            for block in range(depth):
                sizes = tuple(factor * variant.width for factor in factors)
                blocks.add_module(
                    f"block{block + 1}",
                    PreActivatedBlock(
                        channels,
                        sizes,
                        norm=norm,
                        stride=1 if block else first_stride,
                        dilation=dilation,
                        dropout=_DROPOUT[index],
                        dropout_kind=dropout_kind,
                    ),
                )
                channels = sizes[-1]
            self.add_module(name, blocks)
            shapes[name] = ShapeSpec(channels=channels, stride=stride)
        self._shapes = {name: shapes[_OUTPUTS[name]] for name in _OUTPUTS if name in out_features}
        for module in self._frozen():
            module.requires_grad_(False)

    @classmethod
    def from_config(cls, cfg, input_shape: ShapeSpec) -> dict:
        node = cfg.MODEL.BACKBONE
        if node.VARIANT not in VARIANTS:
            raise InputError(
                f"MODEL.BACKBONE.VARIANT {node.VARIANT!r} is not a WideResNetBackbone; "
                f"choose one of {', '.join(VARIANTS)}"
            )
        options = build_options(cfg, tuple(_OUTPUTS))
        if options.pop("drop_path_rate"):
            raise InputError(
                f"MODEL.BACKBONE.DROP_PATH_RATE {node.DROP_PATH_RATE}: a WideResNetBackbone has no "
                "stochastic depth; use 0.0"
            )
        return {
            "variant": VARIANTS[node.VARIANT],
            "in_channels": input_shape.channels,
            "norm": node.NORM,
            "output_stride": node.OUTPUT_STRIDE,
            "dropout_kind": node.DROPOUT_KIND,
            **options,
        }

    def forward(self, image: torch.Tensor) -> dict[str, torch.Tensor]:
        """Compute feature maps by name, (N, C, h, w), of normalized images, (N, 3, H, W), of any size."""
        checkpointing = self.activation_checkpointing and self.training
        x = self.mod1(image)
        maps = {}
        for name, module in self.named_children():
            if name == "mod1":
                continue
            if name in ("mod2", "mod3"):
                x = F.max_pool2d(x, kernel_size=3, stride=2, padding=1)
            for block in module:
                x = checkpointed(block, x) if checkpointing else block(x)
            maps[name] = x
        return {name: maps[_OUTPUTS[name]] for name in self._shapes}

    def output_shape(self) -> dict[str, ShapeSpec]:
        return dict(self._shapes)

    def layer_depths(self) -> LayerDepths:
        """Number the first convolution, then the blocks of all modules."""

        def place(name: str) -> tuple[int, ...]:
            # mod1.weight, mod2.block1.conv1.weight, ...
            return tuple(int(number) for number in re.findall(r"(?:mod|block)(\d+)", name))

        return number_layers(self, place)

    def train(self, mode: bool = True):
        """Set the mode, but keep frozen modules in eval mode, without batch statistics or dropout."""
        super().train(mode)
        for module in self._frozen():
            module.eval()
        return self

    def _frozen(self) -> list[nn.Module]:
        """Return the frozen modules; mod1 and mod2 precede res2, and mod6 has no output of its own."""
        last = {0: "", 5: "mod7"}.get(self.freeze_at, f"mod{self.freeze_at + 1}")
        return [module for name, module in self.named_children() if name <= last]


def _convolution(
    in_channels: int, out_channels: int, kernel_size: int, stride: int, dilation: int
) -> nn.Conv2d:
    padding, dilation = (dilation, dilation) if kernel_size == 3 else (0, 1)
    convolution = nn.Conv2d(
        in_channels, out_channels, kernel_size, stride, padding, dilation=dilation, bias=False
    )
    c2_msra_fill(convolution)
    return convolution
