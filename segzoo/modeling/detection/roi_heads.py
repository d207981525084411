"""Second stages of two-stage detectors, with segzoo's backbones in place of Detectron2's.

Shape shorthand: N images, R regions, C channels, h w size of a pooled region.
"""

from collections.abc import Mapping
from typing import Any

from detectron2.config import configurable
from detectron2.layers import ShapeSpec
from detectron2.modeling.roi_heads import ROI_HEADS_REGISTRY, Res5ROIHeads
from torch import nn

from segzoo.utils.errors import InputError

from ..backbones.resnet import VARIANTS, build_stages
from ..registry import registered

# Values of MODEL.ROI_HEADS.NAME whose networks take a part of the backbone.
_C4 = "Res5ROIHeads"


class BackboneROIHeads(Res5ROIHeads):
    """Detectron2's Res5ROIHeads with res5 of the variant of `ResNetBackbone` (He et al. 2015, appendix A).

    Boxes and masks share the features: regions of res4, pooled, then res5. The parameter names are
    Detectron2's (`res5.0.conv1.weight`, ...).
    """

    # Detectron2 decorates the constructor of each class that has a `from_config` of its own.
    @configurable
    def __init__(self, **arguments: Any):
        """See `Res5ROIHeads`."""
        super().__init__(**arguments)

    @classmethod
    def from_config(cls, cfg, input_shape: Mapping[str, ShapeSpec]) -> dict[str, Any]:
        if len(cfg.MODEL.ROI_HEADS.IN_FEATURES) != 1:
            raise InputError(
                f"MODEL.ROI_HEADS.IN_FEATURES {list(cfg.MODEL.ROI_HEADS.IN_FEATURES)}: {_C4} pools from one "
                "feature map; set it to ['res4'], or MODEL.ROI_HEADS.NAME StandardROIHeads"
            )
        return super().from_config(cfg, input_shape)

    @classmethod
    def _build_res5_block(cls, cfg) -> tuple[nn.Sequential, int]:
        node = cfg.MODEL.BACKBONE
        if node.NAME != "ResNetBackbone" or node.VARIANT not in VARIANTS:
            raise InputError(
                f"MODEL.ROI_HEADS.NAME {_C4}: its last stage is that of a ResNetBackbone, found "
                f"MODEL.BACKBONE.NAME {node.NAME}; set MODEL.ROI_HEADS.NAME StandardROIHeads"
            )
        if "res5" in node.DEFORM_STAGES:
            raise InputError(
                f"MODEL.BACKBONE.DEFORM_STAGES {list(node.DEFORM_STAGES)}: res5 is not deformable with "
                f"MODEL.ROI_HEADS.NAME {_C4}; leave it out"
            )
        *_, res5 = build_stages(VARIANTS[node.VARIANT], node.NORM, stride_in_1x1=node.STRIDE_IN_1X1)
        return nn.Sequential(*res5), res5[-1].out_channels


def find_roi_heads(cfg) -> Any:
    """Return the class that MODEL.ROI_HEADS.NAME names, for a backbone of segzoo.

    Raises:
        InputError: no class is registered under that name.
    """
    name = cfg.MODEL.ROI_HEADS.NAME
    return BackboneROIHeads if name == _C4 else registered(ROI_HEADS_REGISTRY, "MODEL.ROI_HEADS.NAME", name)


def build_roi_heads(cfg, input_shape: Mapping[str, ShapeSpec]) -> nn.Module:
    """Build the second stage that MODEL.ROI_HEADS.NAME names.

    Args:
        input_shape: the feature maps by name.
    """
    return find_roi_heads(cfg)(cfg, input_shape)
