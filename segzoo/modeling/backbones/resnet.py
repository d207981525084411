"""Residual networks as backbones, out of Detectron2's blocks and with its parameter names (He et al. 2015).

Files of Detectron2's own ResNets (R-50.pkl, ...) therefore fit without renaming. Strides are torchvision's:
on the 3 x 3 convolution.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import pairwise

import torch
import torch.nn.functional as F
from detectron2.config import configurable
from detectron2.layers import CNNBlockBase, Conv2d, ShapeSpec, get_norm
from detectron2.modeling import BACKBONE_REGISTRY
from detectron2.modeling.backbone.resnet import BasicBlock, BasicStem, BottleneckBlock, ResNet
from fvcore.nn.weight_init import c2_msra_fill
from torch.utils.checkpoint import checkpoint

from segzoo.errors import InputError


@dataclass(frozen=True)
class ResNetVariant:
    """Sizes of a residual network.

    Attributes:
        block: "basic" (two 3 x 3 convolutions) or "bottleneck" (1 x 1, 3 x 3, 1 x 1).
        depths: blocks of res2 to res5.
        width: channels inside the blocks of res2; each stage doubles them. A bottleneck's output has four
            times as many.
        deep_stem: channels of a stem of three 3 x 3 convolutions; () for one 7 x 7 convolution of `width`
            channels.
        res5_multi_grid: dilation of each block of res5 at output stride 32; a factor on it at smaller ones.
    """

    block: str
    depths: tuple[int, int, int, int]
    width: int = 64
    deep_stem: tuple[int, ...] = ()
    res5_multi_grid: tuple[int, ...] = ()


VARIANTS = {
    # For tests and the quickstart: trains from nothing on a CPU in minutes.
    "r18_quarter": ResNetVariant("basic", (2, 2, 2, 2), width=16),
    "r18_half": ResNetVariant("basic", (2, 2, 2, 2), width=32),
    "r18": ResNetVariant("basic", (2, 2, 2, 2)),
    "r34": ResNetVariant("basic", (3, 4, 6, 3)),
    "r50": ResNetVariant("bottleneck", (3, 4, 6, 3)),
    "r101": ResNetVariant("bottleneck", (3, 4, 23, 3)),
    # DeepLab's R-101, as MaskFormer uses it: deep stem, and res5 dilated at stride 32.
    "r101c": ResNetVariant("bottleneck", (3, 4, 23, 3), deep_stem=(64, 64, 128), res5_multi_grid=(1, 2, 4)),
}


class DeepStem(CNNBlockBase):
    """Three 3 x 3 convolutions and a max-pool instead of a 7 x 7 convolution and a max-pool."""

    def __init__(self, in_channels: int, channels: tuple[int, int, int], norm: str):
        super().__init__(in_channels, channels[-1], stride=4)
        for index, (before, after) in enumerate(pairwise((in_channels, *channels))):
            convolution = Conv2d(
                before,
                after,
                kernel_size=3,
                stride=2 if index == 0 else 1,
                padding=1,
                bias=False,
                norm=get_norm(norm, after),
                activation=F.relu_,
            )
            c2_msra_fill(convolution)
            self.add_module(f"conv{index + 1}", convolution)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """image: (N, 3, H, W) float. Returns (N, C, ceil(H / 4), ceil(W / 4))."""
        return F.max_pool2d(self.conv3(self.conv2(self.conv1(image))), kernel_size=3, stride=2, padding=1)


class DilatedBasicBlock(BasicBlock):
    """Detectron2's basic block, with dilated 3 x 3 convolutions."""

    def __init__(self, in_channels: int, out_channels: int, *, stride: int, norm: str, dilation: int):
        super().__init__(in_channels, out_channels, stride=stride, norm=norm)
        for convolution in (self.conv1, self.conv2):
            convolution.dilation = convolution.padding = (dilation, dilation)


@BACKBONE_REGISTRY.register()
class ResNetBackbone(ResNet):
    """A residual network. Takes images of any size.

    Outputs "res2" to "res5" at strides 4, 8, 16 and 32; where the output stride is smaller, later stages keep
    it by dilation. A map's side is the image's divided by its stride, rounded up.
    """

    @configurable
    def __init__(
        self,
        *,
        variant: ResNetVariant,
        in_channels: int = 3,
        norm: str | Callable = "FrozenBN",
        output_stride: int = 32,
        out_features: tuple[str, ...] = ("res2", "res3", "res4", "res5"),
        freeze_at: int = 0,
        recompute: bool = False,
    ):
        """
        Args:
            variant: sizes, e.g. `VARIANTS["r50"]`.
            in_channels: channels of the image.
            norm: FrozenBN | BN | SyncBN, or what else Detectron2's `get_norm` takes.
            output_stride: 8, 16 or 32.
            out_features: the outputs wanted; stages after the last of them are not built.
            freeze_at: 0 nothing, 1 the stem, 2 that and res2, ...; frozen batch norms become FrozenBN.
            recompute: recompute the activations of blocks in the backward pass instead of keeping them.
        """
        stages = build_stages(variant, norm, output_stride)
        if variant.deep_stem:
            stem = DeepStem(in_channels, variant.deep_stem, norm)
        else:
            stem = BasicStem(in_channels, variant.width, norm)
        super().__init__(stem, stages, out_features=list(out_features), freeze_at=freeze_at)
        self.recompute = recompute

    @classmethod
    def from_config(cls, cfg, input_shape: ShapeSpec) -> dict:
        node = cfg.MODEL.BACKBONE
        if node.VARIANT not in VARIANTS:
            raise InputError(
                f"MODEL.BACKBONE.VARIANT {node.VARIANT!r} is not a ResNetBackbone; "
                f"choose one of {', '.join(VARIANTS)}"
            )
        return {
            "variant": VARIANTS[node.VARIANT],
            "in_channels": input_shape.channels,
            "norm": node.NORM,
            "output_stride": node.OUTPUT_STRIDE,
            "out_features": tuple(node.OUT_FEATURES),
            "freeze_at": node.FREEZE_AT,
            "recompute": node.CHECKPOINT,
        }

    def forward(self, image: torch.Tensor) -> dict[str, torch.Tensor]:
        """image: (N, 3, H, W) float, normalised, any size. Returns the feature maps by name, (N, C, h, w)."""
        recompute = self.recompute and self.training
        x = self.stem(image)
        outputs = {}
        for name, stage in zip(self.stage_names, self.stages, strict=True):
            for block in stage:
                x = checkpoint(block, x, use_reentrant=False) if recompute else block(x)
            if name in self._out_features:
                outputs[name] = x
        return outputs


def build_stages(
    variant: ResNetVariant, norm: str | Callable, output_stride: int
) -> list[list[CNNBlockBase]]:
    """The blocks of res2 to res5.

    Args:
        variant: sizes.
        norm: as `get_norm` takes it.
        output_stride: 8, 16 or 32; a stage that would step over it dilates its 3 x 3 convolutions instead.
    """
    if output_stride not in (8, 16, 32):
        raise InputError(f"MODEL.BACKBONE.OUTPUT_STRIDE {output_stride}: expected 8, 16 or 32")
    stages = []
    in_channels = variant.deep_stem[-1] if variant.deep_stem else variant.width
    stride, dilation = 4, 1
    for index, depth in enumerate(variant.depths):
        first_stride = 1 if index == 0 else 2
        if stride * first_stride > output_stride:
            dilation, first_stride = 2 * dilation, 1
        stride *= first_stride
        width = variant.width * 2**index
        multi_grid = variant.res5_multi_grid if index == 3 and variant.res5_multi_grid else (1,) * depth
        if variant.block == "bottleneck":
            block, out_channels = partial(BottleneckBlock, bottleneck_channels=width), 4 * width
        else:
            block, out_channels = DilatedBasicBlock, width
        stages.append(
            ResNet.make_stage(
                block,
                depth,
                in_channels=in_channels,
                out_channels=out_channels,
                stride_per_block=[first_stride] + [1] * (depth - 1),
                dilation_per_block=[dilation * factor for factor in multi_grid],
                norm=norm,
            )
        )
        in_channels = out_channels
    return stages
