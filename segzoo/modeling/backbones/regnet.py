"""RegNet (Radosavovic et al. 2020; Dollar et al. 2021), Detectron2's network with segzoo's options."""

from functools import partial
from typing import NamedTuple

import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY
from detectron2.modeling.backbone.regnet import RegNet, ResBottleneckBlock, SimpleStem

from segzoo.layers.conv import norm_layer
from segzoo.layers.runtime import checkpointed
from segzoo.modeling.configured import configurable_by
from segzoo.utils.errors import InputError
from segzoo.utils.text import did_you_mean

from .layer_depths import LayerDepths, number_layers
from .options import build_options


class RegNetVariant(NamedTuple):
    """The parameters of a RegNet, by the names of the paper (section 3.3).

    Attributes:
        depth: number of blocks.
        w_a, w_0, w_m: slope and start of the linear widths, and the ratio of quantized ones.
        group_width: channels of a group of the 3 x 3 convolutions.
        se_ratio: channels inside squeeze-and-excitation as a share of the block's input; 0 for none.
        stem_width: channels of the stem, a strided 3 x 3 convolution.
    """

    depth: int
    w_a: float
    w_0: int
    w_m: float
    group_width: int
    se_ratio: float = 0.0
    stem_width: int = 32


# Detectron2's "dds" networks.
VARIANTS = {
    "regnetx_4gf": RegNetVariant(23, 38.65, 96, 2.43, 40),
    "regnety_4gf": RegNetVariant(22, 31.41, 96, 2.24, 64, se_ratio=0.25),
}

FEATURES = ("res2", "res3", "res4", "res5")


@BACKBONE_REGISTRY.register()
class RegNetBackbone(RegNet):
    """A RegNet for images of any size.

    Outputs "res2" to "res5" at strides 4, 8, 16 and 32; a map's side is the image's divided by its stride,
    rounded up. Parameter names are Detectron2's: `stem`, and `s1` to `s4` for the stages.
    """

    @configurable_by({})
    def __init__(
        self,
        *,
        variant: RegNetVariant,
        norm: str = "FrozenBN",
        out_features: tuple[str, ...] = FEATURES,
        freeze_at: int = 0,
        activation_checkpointing: bool = False,
    ):
        """
        Args:
            variant: sizes, e.g. `VARIANTS["regnetx_4gf"]`.
            norm: see `norm_layer`.
            out_features: names of the outputs; stages after the last of them are not built.
            freeze_at: 0 nothing, 1 the stem, 2 also res2, ...; frozen batch norms become FrozenBN.
            activation_checkpointing: recompute block activations in the backward pass to save memory.
        """
        sizes = variant._asdict()
        super().__init__(
            stem_class=SimpleStem,
            block_class=ResBottleneckBlock,
            norm=partial(norm_layer, norm),
            out_features=[_stage(name) for name in out_features],
            freeze_at=freeze_at,
            **sizes,
        )
        self.activation_checkpointing = activation_checkpointing
        self.freeze_at = freeze_at
        for _, name in self.stages_and_names[FEATURES.index(max(out_features)) + 1 :]:
            delattr(self, name)
        del self.stages_and_names[FEATURES.index(max(out_features)) + 1 :]

    @classmethod
    def from_config(cls, cfg, input_shape: ShapeSpec) -> dict:
        node = cfg.MODEL.BACKBONE
        if node.VARIANT not in VARIANTS:
            raise InputError(
                f"MODEL.BACKBONE.VARIANT {node.VARIANT!r} is not a RegNetBackbone; choose one of "
                f"{', '.join(VARIANTS)}{did_you_mean(node.VARIANT, VARIANTS)}"
            )
        if input_shape.channels != 3:
            raise InputError(
                f"MODEL.PIXEL_MEAN has {input_shape.channels} channels; a RegNetBackbone takes images of 3"
            )
        if node.OUTPUT_STRIDE != 32:
            raise InputError(
                f"MODEL.BACKBONE.OUTPUT_STRIDE {node.OUTPUT_STRIDE}: a RegNetBackbone does not dilate; use 32"
            )
        options = build_options(cfg, FEATURES)
        if options.pop("drop_path_rate"):
            raise InputError(
                f"MODEL.BACKBONE.DROP_PATH_RATE {node.DROP_PATH_RATE}: a RegNetBackbone has no stochastic "
                "depth; use 0.0"
            )
        return {"variant": VARIANTS[node.VARIANT], "norm": node.NORM, **options}

    def forward(self, image: torch.Tensor) -> dict[str, torch.Tensor]:
        """Compute feature maps by name, (N, C, h, w), of normalized images, (N, 3, H, W), of any size."""
        checkpointing = self.activation_checkpointing and self.training
        x = self.stem(image)
        outputs = {}
        for feature, (stage, name) in zip(FEATURES, self.stages_and_names, strict=False):
            for block in stage.children():
                x = checkpointed(block, x) if checkpointing else block(x)
            if name in self._out_features:
                outputs[feature] = x
        return outputs

    def output_shape(self) -> dict[str, ShapeSpec]:
        """Return channels and stride of the outputs, by name."""
        shapes = super().output_shape()
        return {name: shapes[_stage(name)] for name in FEATURES if _stage(name) in shapes}

    def layer_depths(self) -> LayerDepths:
        """Number the stem, then the blocks of all stages."""

        def place(name: str) -> tuple[int, ...]:
            part, block, *_ = name.split(".")
            return (0,) if part == "stem" else (int(part.removeprefix("s")), int(block.removeprefix("b")))

        return number_layers(self, place)

    def train(self, mode: bool = True):
        """Set the mode, but keep frozen stages in eval mode."""
        super().train(mode)
        stages = [stage for stage, _ in self.stages_and_names]
        for module in (self.stem, *stages)[: self.freeze_at]:
            module.eval()
        return self


def _stage(feature: str) -> str:
    """Return Detectron2's name of the stage of a feature map."""
    return f"s{FEATURES.index(feature) + 1}"
