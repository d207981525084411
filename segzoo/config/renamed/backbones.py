"""Convert MODEL.RESNETS and MODEL.SWIN: the sizes of a backbone, which are named variants in segzoo."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from ..keys import equal
from .heads import DETECTOR, NECK_ARCHITECTURES
from .row import Context, Convert, Row, fixed, ignore, refuse

# The backbones of segzoo, which read MODEL.BACKBONE and not MODEL.RESNETS.
# fmt: off
OUR_BACKBONES = (
    "CSWinTransformer", "MixTransformer", "PyramidVisionTransformerV2", "RegNetBackbone", "ResNetBackbone",
    "SwinTransformer", "TimmBackbone", "VOLO", "WideResNetBackbone",
)
# fmt: on

# Other code bases' backbones with the same network in segzoo; Detectron2's first one also works as it is.
NAMES = {
    "build_resnet_backbone": "ResNetBackbone",
    "build_resnet_deeplab_backbone": "ResNetBackbone",
    "D2SwinTransformer": "SwinTransformer",
}

# Their backbones with a feature pyramid, which is a neck in segzoo: the backbone, and MODEL.FPN.TOP_BLOCK and
# TOP_IN_FEATURE. Swin and MiT are EntitySeg's.
PYRAMIDS = {
    "build_resnet_fpn_backbone": ("ResNetBackbone", "max_pool", ""),
    "build_retinanet_resnet_fpn_backbone": ("ResNetBackbone", "p6p7", "res5"),
    "build_swin_fpn_backbone": ("SwinTransformer", "max_pool", ""),
    "build_retinanet_swin_fpn_backbone": ("SwinTransformer", "p6p7", "p5"),
    "build_retinanet_mit_fpn_backbone": ("MixTransformer", "p6p7", "p5"),
}

_DEPTHS = (18, 34, 50, 101, 152)
_BASIC_STEM = {"STEM_TYPE": "basic", "STEM_OUT_CHANNELS": 64, "RES5_MULTI_GRID": (1, 1, 1)}
_DEEPLAB = {"DEPTH": 101, "STEM_TYPE": "deeplab", "STEM_OUT_CHANNELS": 128, "RES5_MULTI_GRID": (1, 2, 4)}

# Channels, blocks and heads of each stage, and window size. A test compares them with the models.
SWIN_VARIANTS = {
    "tiny": (96, (2, 2, 6, 2), (3, 6, 12, 24), 7),
    "small": (96, (2, 2, 18, 2), (3, 6, 12, 24), 7),
    "base": (128, (2, 2, 18, 2), (4, 8, 16, 32), 7),
    "base_384": (128, (2, 2, 18, 2), (4, 8, 16, 32), 12),
    "large": (192, (2, 2, 18, 2), (6, 12, 24, 48), 7),
    "large_384": (192, (2, 2, 18, 2), (6, 12, 24, 48), 12),
}
_SWIN_SIZES = [f"MODEL.SWIN.{name}" for name in ("EMBED_DIM", "DEPTHS", "NUM_HEADS", "WINDOW_SIZE")]

_NAME, _VARIANT, _DEPTH = "MODEL.BACKBONE.NAME", "MODEL.BACKBONE.VARIANT", "MODEL.RESNETS.DEPTH"


def _belongs(given: Mapping[str, Any], context: Context, name: str) -> bool:
    """Return whether keys of a backbone are for the one that is used; whole files have keys of others."""
    used = context.ours[_NAME]
    if used == name or context.whole:
        return used == name
    key, value = next(iter(given.items()))
    refuse(key, value, f"is a key of {name} and has no effect for {used}; set {_NAME} {name}")


def _resnet(given: Mapping[str, Any], context: Context) -> Mapping[str, Any]:
    if context.whole and context.ours["MODEL.META_ARCHITECTURE"] == DETECTOR:
        return {_NAME: given[_NAME]}
    if context.whole:
        return _whole_backbone(given, context)
    if not _belongs(given, context, "ResNetBackbone"):
        return {}
    for name, expected in _BASIC_STEM.items():
        key = f"MODEL.RESNETS.{name}"
        if key in given and not equal(given[key], expected):
            refuse(key, given[key], f"has no effect here; {_VARIANT} r101c is DeepLab's ResNet-101")
    if _DEPTH not in given:
        return {}
    variant = context.ours[_VARIANT]
    match = re.fullmatch(r"r\d+(_v1[bcds])?", variant)
    if match is None:
        refuse(_DEPTH, given[_DEPTH], f"has no effect for {_VARIANT} {variant}; set {_VARIANT} by its name")
    return {_VARIANT: _variant(given[_DEPTH]) + (match[1] or "")}


def _whole_backbone(given: Mapping[str, Any], context: Context) -> Mapping[str, Any]:
    name = given[_NAME]
    result: dict[str, Any] = {}
    if name in PYRAMIDS:
        here, top_block, top_in_feature = PYRAMIDS[name]
        architecture = context.ours["MODEL.META_ARCHITECTURE"]
        if architecture not in NECK_ARCHITECTURES:
            refuse(_NAME, name, f"has a feature pyramid, which {architecture} has no place for")
        result = {
            "MODEL.NECK.NAME": "FPN",
            "MODEL.FPN.TOP_BLOCK": top_block,
            "MODEL.FPN.TOP_IN_FEATURE": top_in_feature,
        }
    else:
        here = NAMES.get(name, name)
    if here not in OUR_BACKBONES:
        refuse(_NAME, name, f"has no counterpart here; known: {', '.join(OUR_BACKBONES)}")
    result[_NAME] = here
    if name == "build_resnet_deeplab_backbone":
        for part, value in _DEEPLAB.items():
            key = f"MODEL.RESNETS.{part}"
            if not equal(given[key], value):
                refuse(key, given[key], f"has no counterpart for {name}; use {value!r}")
        result[_VARIANT] = "r101c"
    elif here == "ResNetBackbone":  # its stem is always the basic one
        result[_VARIANT] = _variant(given[_DEPTH])
    return result


def _variant(depth: int) -> str:
    if depth not in _DEPTHS:
        known = ", ".join(map(str, _DEPTHS))
        refuse(_DEPTH, depth, f"is not the depth of a {_VARIANT} of ResNetBackbone; known depths: {known}")
    return f"r{depth}"


def check_backbone_name(given: Mapping[str, Any], before: Mapping[str, Any]) -> None:
    """Check that single keys that choose Detectron2's ResNet do not mean segzoo's.

    Args:
        given: the single keys with their values.
        before: the values of the configuration without them, by full key.

    Raises:
        InputError: it replaces a backbone of segzoo, and none of the keys that it reads is given.
    """
    name, replaced = given.get(_NAME, ""), before.get(_NAME)
    if NAMES.get(name) != "ResNetBackbone" or replaced not in OUR_BACKBONES:
        return
    if any(key.startswith("MODEL.RESNETS.") for key in given):
        return
    remedy = f"{_NAME} ResNetBackbone"
    if name == "build_resnet_deeplab_backbone":
        remedy += f" {_VARIANT} r101c"
    elif replaced != "ResNetBackbone":
        remedy += f" {_VARIANT} r50"
    refuse(
        _NAME,
        name,
        "is Detectron2's network, which reads MODEL.RESNETS, and no key of that section is given; segzoo's "
        f"ResNetBackbone is the same network: set {remedy}",
    )


def _renamed(backbone: str, here: str) -> Convert:
    """Return the conversion of a backbone's key to another name with the same meaning."""

    def convert(given: Mapping[str, Any], context: Context) -> Mapping[str, Any]:
        (value,) = given.values()
        return {here: value} if _belongs(given, context, backbone) else {}

    return convert


def _detectron2_remedy(context: Context) -> str:
    """Return one more remedy for a single key; in a whole file, build_resnet_backbone is ResNetBackbone."""
    return "" if context.whole else ", or set MODEL.BACKBONE.NAME build_resnet_backbone, which reads it"


_STRIDES = {(1, 1): 32, (1, 2): 16, (2, 4): 8}


def _dilation(given: Mapping[str, Any], context: Context) -> Mapping[str, Any]:
    if not _belongs(given, context, "ResNetBackbone"):
        return {}
    pair = given.get("MODEL.RESNETS.RES4_DILATION", 1), given.get("MODEL.RESNETS.RES5_DILATION", 1)
    if pair not in _STRIDES:
        key, value = next((key, value) for key, value in given.items() if value != 1)
        refuse(key, value, "has no effect here; set MODEL.BACKBONE.OUTPUT_STRIDE 16 or 8")
    return {"MODEL.BACKBONE.OUTPUT_STRIDE": _STRIDES[pair]}


def _stride_in_1x1(given: Mapping[str, Any], context: Context) -> Mapping[str, Any]:
    (value,) = given.values()
    if not _belongs(given, context, "ResNetBackbone") or context.ours[_VARIANT] in ("r18", "r34"):
        return {}
    return {"MODEL.BACKBONE.STRIDE_IN_1X1": value}


# Number of groups, width of one and depth, of variants with groups.
_GROUPED = {(32, 8, 101): "x101_32x8d"}


def _resnet_shape(given: Mapping[str, Any], context: Context) -> Mapping[str, Any]:
    if not _belongs(given, context, "ResNetBackbone"):
        return {}
    narrow = context.ours[_VARIANT] in ("r18", "r34")
    groups, width = (given.get(f"MODEL.RESNETS.{name}") for name in ("NUM_GROUPS", "WIDTH_PER_GROUP"))
    for (*sizes, depth), variant in _GROUPED.items():
        if [groups, width] == sizes and context.ours[_VARIANT] == f"r{depth}":
            return {_VARIANT: variant}
    plain = {"NUM_GROUPS": 1, "WIDTH_PER_GROUP": 64, "RES2_OUT_CHANNELS": 64 if narrow else 256}
    for key, value in given.items():
        expected = plain[key.rsplit(".", 1)[-1]]
        if not equal(value, expected):
            refuse(
                key,
                value,
                f"has no counterpart in ResNetBackbone; {expected!r} has{_detectron2_remedy(context)}",
            )
    return {}


def _deformable_stages(given: Mapping[str, Any], context: Context) -> Mapping[str, Any]:
    if not _belongs(given, context, "ResNetBackbone"):
        return {}
    ((key, value),) = given.items()
    if isinstance(value, str) or not isinstance(value, Sequence) or len(value) != 4:
        refuse(key, value, "is not four values, for res2 to res5; use (False, False, True, True) or the like")
    return {
        "MODEL.BACKBONE.DEFORM_STAGES": tuple(f"res{stage}" for stage, on in enumerate(value, start=2) if on)
    }


def _swin_variant(given: Mapping[str, Any], context: Context) -> Mapping[str, Any]:
    if not _belongs(given, context, "SwinTransformer"):
        return {}
    found = [
        name
        for name, sizes in SWIN_VARIANTS.items()
        if all(equal(given[key], size) for key, size in zip(_SWIN_SIZES, sizes, strict=True) if key in given)
    ]
    if context.ours[_VARIANT] in found:
        return {}
    if len(found) != 1:
        key, value = next(iter(given.items()))
        choices = " or ".join(found or SWIN_VARIANTS)
        refuse(key, value, f"has no effect alone; set MODEL.BACKBONE.VARIANT {choices}")
    return {_VARIANT: found[0]}


def _swin_fixed(given: Mapping[str, Any], context: Context) -> Mapping[str, Any]:
    if not _belongs(given, context, "SwinTransformer"):
        return {}
    expected = {
        "PATCH_SIZE": 4,
        "MLP_RATIO": 4.0,
        "QKV_BIAS": True,
        "QK_SCALE": None,
        "DROP_RATE": 0.0,
        "ATTN_DROP_RATE": 0.0,
        "APE": False,
        "PATCH_NORM": True,
    }
    for key, value in given.items():
        fixed(expected[key.rsplit(".", 1)[-1]], "has no counterpart in SwinTransformer; leave it out")(
            {key: value}, context
        )
    return {}


RESNET_ROWS = (
    Row(
        "MODEL.BACKBONE.NAME MODEL.RESNETS.DEPTH MODEL.RESNETS.STEM_TYPE MODEL.RESNETS.STEM_OUT_CHANNELS "
        "MODEL.RESNETS.RES5_MULTI_GRID",
        "`MODEL.BACKBONE.NAME`, `MODEL.BACKBONE.VARIANT r101`, `MODEL.NECK.NAME FPN`",
        "in their files `build_resnet_backbone` is `ResNetBackbone`, `D2SwinTransformer` is "
        "`SwinTransformer`, `build_resnet_deeplab_backbone` with depth 101 is `ResNetBackbone` with the "
        "variant `r101c`, and `build_*_fpn_backbone` is the backbone with `MODEL.NECK.NAME FPN`",
        _resnet,
    ),
    Row(
        "MODEL.RESNETS.NORM",
        "`MODEL.BACKBONE.NORM`",
        "",
        _renamed("ResNetBackbone", "MODEL.BACKBONE.NORM"),
    ),
    Row(
        "MODEL.RESNETS.OUT_FEATURES",
        "`MODEL.BACKBONE.OUT_FEATURES`",
        "",
        _renamed("ResNetBackbone", "MODEL.BACKBONE.OUT_FEATURES"),
    ),
    Row(
        "MODEL.RESNETS.RES4_DILATION MODEL.RESNETS.RES5_DILATION",
        "`MODEL.BACKBONE.OUTPUT_STRIDE`",
        "1 and 1: 32; 1 and 2: 16; 2 and 4: 8",
        _dilation,
    ),
    Row(
        "MODEL.RESNETS.STRIDE_IN_1X1",
        "`MODEL.BACKBONE.STRIDE_IN_1X1`",
        "`True` for the MSRA weights of Detectron2, `False` for torchvision's",
        _stride_in_1x1,
    ),
    Row(
        "MODEL.RESNETS.NUM_GROUPS MODEL.RESNETS.WIDTH_PER_GROUP MODEL.RESNETS.RES2_OUT_CHANNELS",
        "",
        "32 groups of 8 channels at depth 101 are `MODEL.BACKBONE.VARIANT x101_32x8d`; for others "
        "Detectron2's own backbone, `MODEL.BACKBONE.NAME build_resnet_backbone`, reads them",
        _resnet_shape,
    ),
    Row(
        "MODEL.RESNETS.DEFORM_ON_PER_STAGE",
        "`MODEL.BACKBONE.DEFORM_STAGES`",
        "the names of the stages: `(False, True, True, True)` is `('res3', 'res4', 'res5')`",
        _deformable_stages,
    ),
    Row(
        "MODEL.RESNETS.DEFORM_MODULATED",
        "`MODEL.BACKBONE.DEFORM_MODULATED`",
        "",
        _renamed("ResNetBackbone", "MODEL.BACKBONE.DEFORM_MODULATED"),
    ),
    Row(
        "MODEL.RESNETS.DEFORM_NUM_GROUPS",
        "`MODEL.BACKBONE.DEFORM_GROUPS`",
        "",
        _renamed("ResNetBackbone", "MODEL.BACKBONE.DEFORM_GROUPS"),
    ),
)

SWIN_ROWS = (
    Row(
        " ".join(_SWIN_SIZES),
        "`MODEL.BACKBONE.VARIANT base_384`",
        "tiny, small, base, base_384, large, large_384: the one with these sizes; _384 has windows of 12",
        _swin_variant,
    ),
    Row(
        "MODEL.SWIN.DROP_PATH_RATE",
        "`MODEL.BACKBONE.DROP_PATH_RATE`",
        "",
        _renamed("SwinTransformer", "MODEL.BACKBONE.DROP_PATH_RATE"),
    ),
    Row(
        "MODEL.SWIN.OUT_FEATURES",
        "`MODEL.BACKBONE.OUT_FEATURES`",
        "",
        _renamed("SwinTransformer", "MODEL.BACKBONE.OUT_FEATURES"),
    ),
    Row(
        "MODEL.SWIN.USE_CHECKPOINT",
        "`MODEL.BACKBONE.CHECKPOINT`",
        "",
        _renamed("SwinTransformer", "MODEL.BACKBONE.CHECKPOINT"),
    ),
    Row(
        "MODEL.SWIN.PATCH_SIZE MODEL.SWIN.MLP_RATIO MODEL.SWIN.QKV_BIAS MODEL.SWIN.QK_SCALE "
        "MODEL.SWIN.DROP_RATE MODEL.SWIN.ATTN_DROP_RATE MODEL.SWIN.APE MODEL.SWIN.PATCH_NORM",
        "",
        "their defaults only",
        _swin_fixed,
    ),
    Row("MODEL.SWIN.PRETRAIN_IMG_SIZE", "", "has no effect there either without `APE`", ignore),
)
