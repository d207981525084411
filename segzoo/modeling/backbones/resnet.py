"""Residual networks as backbones, with Detectron2's parameter names (He et al. 2015; He et al. 2018).

Files of Detectron2's own ResNets (R-50.pkl, ...) therefore load without renaming. Strides are on the 3 x 3
convolution, as in torchvision, or on the 1 x 1 convolution before it, as in these files.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import torch
from detectron2.layers import CNNBlockBase, ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY
from detectron2.modeling.backbone.resnet import BasicStem, ResNet

from segzoo.layers.runtime import checkpointed
from segzoo.modeling.configured import configurable_by
from segzoo.utils.errors import ArgumentError, InputError
from segzoo.utils.text import did_you_mean

from .layer_depths import LayerDepths, number_layers
from .options import build_options
from .residual_blocks import DeepStem, Deformable, ResidualBlock


@dataclass(frozen=True)
class ResNetVariant:
    """Sizes of a residual network.

    Attributes:
        block: "basic" (two 3 x 3 convolutions) or "bottleneck" (1 x 1, 3 x 3, 1 x 1).
        depths: number of blocks in res2 to res5.
        width: channels inside the blocks of res2; each stage doubles them. A bottleneck's output has four
            times as many.
        deep_stem: channels of a stem of three 3 x 3 convolutions; () for one 7 x 7 convolution of `width`
            channels.
        pooled_shortcut: strided shortcuts downsample by average pooling before their convolution.
        res5_multi_grid: dilation of each block of res5 at output stride 32; a factor on the dilation at
            smaller output strides.
        groups: groups of the 3 x 3 convolutions of bottlenecks (ResNeXt).
        width_per_group: channels of one of them in res2, which replace `width` inside the blocks; 0: `width`
            in all.
    """

    block: str
    depths: tuple[int, int, int, int]
    width: int = 64
    deep_stem: tuple[int, ...] = ()
    pooled_shortcut: bool = False
    res5_multi_grid: tuple[int, ...] = ()
    groups: int = 1
    width_per_group: int = 0


_DEPTHS = {
    18: ("basic", (2, 2, 2, 2)),
    34: ("basic", (3, 4, 6, 3)),
    50: ("bottleneck", (3, 4, 6, 3)),
    101: ("bottleneck", (3, 4, 23, 3)),
    152: ("bottleneck", (3, 8, 36, 3)),
}
# The letters of GluonCV's model zoo; v1s is also the "deep base" of semseg.
_LETTERS = {
    "v1b": {},
    "v1c": {"deep_stem": (32, 32, 64)},
    "v1d": {"deep_stem": (32, 32, 64), "pooled_shortcut": True},
    "v1s": {"deep_stem": (64, 64, 128)},
}

VARIANTS = {
    # For tests and the quickstart: trains from scratch on a CPU in minutes.
    "r18_quarter": ResNetVariant("basic", (2, 2, 2, 2), width=16),
    "r18_half": ResNetVariant("basic", (2, 2, 2, 2), width=32),
    # r18 to r152, the same as r18_v1b to r152_v1b; r18_v1c, ..., r152_v1s.
    **{f"r{depth}": ResNetVariant(*sizes) for depth, sizes in _DEPTHS.items()},
    **{
        f"r{depth}_{letter}": ResNetVariant(*sizes, **changes)
        for letter, changes in _LETTERS.items()
        for depth, sizes in _DEPTHS.items()
    },
    # ResNeXt-101, 32 groups of 8 channels (Xie et al. 2017).
    "x101_32x8d": ResNetVariant("bottleneck", (3, 4, 23, 3), groups=32, width_per_group=8),
    # DeepLab's R-101, as MaskFormer uses it: deep stem, and res5 dilated at stride 32.
    "r101c": ResNetVariant("bottleneck", (3, 4, 23, 3), deep_stem=(64, 64, 128), res5_multi_grid=(1, 2, 4)),
}

FEATURES = ("res2", "res3", "res4", "res5")

# Which convolutions are dilated in a stage that dilates instead of striding: see `block_dilations`.
DILATION_STYLES = ("uniform", "contract", "mmseg", "mmseg_strided")


@BACKBONE_REGISTRY.register()
class ResNetBackbone(ResNet):
    """A residual network for images of any size.

    Outputs "res2" to "res5" at strides 4, 8, 16 and 32; with a smaller output stride, later stages keep it by
    dilation. A map's side is the image's divided by its stride, rounded up.
    """

    @configurable_by(
        {
            "deform_stages": "MODEL.BACKBONE.DEFORM_STAGES",
            "deform_groups": "MODEL.BACKBONE.DEFORM_GROUPS",
        }
    )
    def __init__(
        self,
        *,
        variant: ResNetVariant,
        in_channels: int = 3,
        norm: str | Callable = "FrozenBN",
        output_stride: int = 32,
        dilation_style: str = "uniform",
        drop_path_rate: float = 0.0,
        stride_in_1x1: bool = False,
        deform_stages: Sequence[str] = (),
        deform_modulated: bool = False,
        deform_groups: int = 1,
        out_features: tuple[str, ...] = FEATURES,
        freeze_at: int = 0,
        activation_checkpointing: bool = False,
    ):
        """
        Args:
            variant: sizes, e.g. `VARIANTS["r50"]`.
            in_channels: channels of the image.
            norm: FrozenBN | BN | SyncBN, or another norm of Detectron2's `get_norm`.
            output_stride: 8, 16 or 32.
            dilation_style: see `block_dilations`.
            drop_path_rate: rate of the last block, in [0, 1); it grows linearly from 0 at the first.
            stride_in_1x1: bottlenecks stride in their first convolution, not in the 3 x 3 one.
            deform_stages: names of stages whose 3 x 3 convolutions are deformable, e.g. ("res4", "res5").
            deform_modulated: these are modulated (DCNv2), see `Deformable`.
            deform_groups: their number of groups with offsets of their own.
            out_features: names of the outputs; stages after the last of them are not built.
            freeze_at: 0 nothing, 1 the stem, 2 also res2, ...; frozen batch norms become FrozenBN.
            activation_checkpointing: recompute block activations in the backward pass to save memory.

        Raises:
            InputError: unknown output stride, dilation style or stage, or a variant without bottlenecks that
                is to be deformable.
        """
        deformable = _deformable_stages(variant, deform_stages, Deformable(deform_modulated, deform_groups))
        stages = build_stages(
            variant, norm, output_stride, dilation_style, drop_path_rate, stride_in_1x1, deformable
        )
        if variant.deep_stem:
            stem = DeepStem(in_channels, variant.deep_stem, norm)
        else:
            stem = BasicStem(in_channels, variant.width, norm)
        super().__init__(stem, stages, out_features=list(out_features), freeze_at=freeze_at)
        self.activation_checkpointing = activation_checkpointing
        self.freeze_at = freeze_at

    @classmethod
    def from_config(cls, cfg, input_shape: ShapeSpec) -> dict:
        node = cfg.MODEL.BACKBONE
        if node.VARIANT not in VARIANTS:
            raise InputError(
                f"MODEL.BACKBONE.VARIANT {node.VARIANT!r} is not a ResNetBackbone; "
                f"choose one of {', '.join(VARIANTS)}{did_you_mean(node.VARIANT, VARIANTS)}"
            )
        return {
            "variant": VARIANTS[node.VARIANT],
            "in_channels": input_shape.channels,
            "norm": node.NORM,
            "output_stride": node.OUTPUT_STRIDE,
            "dilation_style": node.DILATION_STYLE,
            "stride_in_1x1": node.STRIDE_IN_1X1,
            "deform_stages": tuple(node.DEFORM_STAGES),
            "deform_modulated": node.DEFORM_MODULATED,
            "deform_groups": node.DEFORM_GROUPS,
            **build_options(cfg, FEATURES),
        }

    def forward(self, image: torch.Tensor) -> dict[str, torch.Tensor]:
        """Compute feature maps by name, (N, C, h, w), of normalized images, (N, 3, H, W), of any size."""
        checkpointing = self.activation_checkpointing and self.training
        x = self.stem(image)
        outputs = {}
        for name, stage in zip(self.stage_names, self.stages, strict=True):
            for block in stage:
                x = checkpointed(block, x) if checkpointing else block(x)
            if name in self._out_features:
                outputs[name] = x
        return outputs

    def layer_depths(self) -> LayerDepths:
        """Number the stem, then the blocks of all stages."""

        def place(name: str) -> tuple[int, ...]:
            part, block, *_ = name.split(".")
            return (0,) if part == "stem" else (int(part.removeprefix("res")), int(block))

        return number_layers(self, place)

    def train(self, mode: bool = True):
        """Set the mode, but keep frozen stages in eval mode, without stochastic depth."""
        super().train(mode)
        for module in (self.stem, *self.stages)[: self.freeze_at]:
            module.eval()
        return self


def build_stages(
    variant: ResNetVariant,
    norm: str | Callable,
    output_stride: int = 32,
    dilation_style: str = "uniform",
    drop_path_rate: float = 0.0,
    stride_in_1x1: bool = False,
    deformable: Mapping[str, Deformable] = MappingProxyType({}),
) -> list[list[CNNBlockBase]]:
    """Build the blocks of res2 to res5.

    Args:
        variant: sizes.
        norm: name of the normalization for `get_norm`.
        output_stride: 8, 16 or 32; a stage that would exceed it dilates its 3 x 3 convolutions instead.
        dilation_style: see `block_dilations`.
        drop_path_rate: rate of the last block; it grows linearly from 0 at the first.
        stride_in_1x1: see `ResidualBlock`.
        deformable: for each stage with deformable convolutions, their kind.
    """
    if output_stride not in (8, 16, 32):
        raise InputError(f"MODEL.BACKBONE.OUTPUT_STRIDE {output_stride}: expected 8, 16 or 32")
    if dilation_style not in DILATION_STYLES:
        raise InputError(
            f"MODEL.BACKBONE.DILATION_STYLE {dilation_style!r}: expected {', '.join(DILATION_STYLES)}"
        )
    keeps_strides = dilation_style == "mmseg_strided"
    if keeps_strides and output_stride != 32:
        raise InputError(
            "MODEL.BACKBONE.DILATION_STYLE mmseg_strided keeps all strides; found OUTPUT_STRIDE "
            f"{output_stride}; set it to 32, or use the style mmseg"
        )
    stages = []
    in_channels = variant.deep_stem[-1] if variant.deep_stem else variant.width
    rates = iter(torch.linspace(0, drop_path_rate, sum(variant.depths), device="cpu").tolist())
    stride, dilation = 4, 1
    for index, depth in enumerate(variant.depths):
        first_stride = 1 if index == 0 else 2
        previous_dilation = dilation
        if stride * first_stride > output_stride:
            dilation, first_stride = 2 * dilation, 1
        elif keeps_strides and index >= 2:
            dilation = 2 * dilation
        stride *= first_stride
        out_channels = variant.width * 2**index * (4 if variant.block == "bottleneck" else 1)
        multi_grid = variant.res5_multi_grid if index == 3 else ()
        dilations = block_dilations(depth, dilation, previous_dilation, dilation_style, multi_grid)
        blocks = []
        for block in range(depth):
            blocks.append(
                ResidualBlock(
                    out_channels if block else in_channels,
                    out_channels,
                    block_type=variant.block,
                    stride=1 if block else first_stride,
                    dilations=dilations[block],
                    norm=norm,
                    pooled_shortcut=variant.pooled_shortcut,
                    drop_path_rate=next(rates),
                    stride_in_1x1=stride_in_1x1,
                    deformable=deformable.get(FEATURES[index]),
                    inner_channels=variant.groups * variant.width_per_group * 2**index,
                    groups=variant.groups,
                )
            )
        stages.append(blocks)
        in_channels = out_channels
    return stages


def _deformable_stages(
    variant: ResNetVariant, names: Sequence[str], deformable: Deformable
) -> dict[str, Deformable]:
    """Return {stage: kind of its deformable convolutions}, after checks."""
    if unknown := [name for name in names if name not in FEATURES]:
        raise ArgumentError(
            "deform_stages",
            f" {list(names)}: {unknown[0]!r} is unknown, expected some of {', '.join(FEATURES)}"
            f"{did_you_mean(unknown[0], FEATURES)}",
        )
    if names and variant.block != "bottleneck":
        raise ArgumentError(
            "deform_stages",
            f" {list(names)}: only bottlenecks can be deformable; choose variant r50 or a deeper one, or ()",
        )
    width = variant.width * 2 ** min((FEATURES.index(name) for name in names), default=0)
    if names and width % deformable.groups:
        raise ArgumentError(
            "deform_groups",
            f" {deformable.groups} does not divide the {width} channels of the first of the stages "
            f"{list(names)}; set it to 1, 2 or 4",
        )
    return dict.fromkeys(names, deformable)


def block_dilations(
    depth: int, dilation: int, previous_dilation: int, style: str, multi_grid: Sequence[int] = ()
) -> list[tuple[int, int]]:
    """Return the dilations of the first and second 3 x 3 convolution of each block of a stage.

    Published networks differ in how a stage of dilation 2 or 4 replaces one of stride 2. Weights load with
    any style, but predict well only with the one they were trained with:
        uniform: every 3 x 3 convolution (semseg; Detectron2's DeepLab).
        contract: as uniform, but the first 3 x 3 convolution of the first block has the dilation of the
            previous stage (GluonCV, PyTorch-Encoding, timm, torchvision).
        mmseg: as contract, but the second 3 x 3 convolution of a basic block is never dilated (mmsegmentation
            with `contract_dilation`).
        mmseg_strided: the dilations of mmseg at output stride 8, in addition to strides of 2 (its FastFCN).

    Args:
        depth: number of blocks.
        dilation, previous_dilation: dilation of this stage and of the previous one.
        style: one of DILATION_STYLES.
        multi_grid: a factor on the dilation for each block, which replaces the style.
    """
    if multi_grid:
        return [(dilation * factor, dilation * factor) for factor in multi_grid]
    first = dilation if style == "uniform" else previous_dilation
    second = 1 if style.startswith("mmseg") else dilation
    return [(dilation if block else first, second) for block in range(depth)]
