"""Convert the keys of EntitySeg."""

from collections.abc import Mapping
from typing import Any

from .backbones import SWIN_VARIANTS
from .heads import ENTITYSEG
from .row import Context, Row, fixed, ignore, refuse, same

# Keys that EntitySeg adds to Detectron2's, with their defaults.
KEYS: dict[str, Any] = {
    "MODEL.FPN.TOP_LEVELS": 2,
    "MODEL.FCOS.IN_FEATURES": ["p3", "p4", "p5", "p6", "p7"],
    "MODEL.FCOS.FPN_STRIDES": [8, 16, 32, 64, 128],
    "MODEL.FCOS.NUM_CLASSES": 1,
    "MODEL.FCOS.SIZES_OF_INTEREST": [[-1, 64], [64, 128], [128, 256], [256, 512], [512, 100000000]],
    "MODEL.FCOS.NUM_CLS_CONVS": 4,
    "MODEL.FCOS.NUM_BOX_CONVS": 4,
    "MODEL.FCOS.NUM_SHARE_CONVS": 0,
    "MODEL.FCOS.CENTER_SAMPLE": True,
    "MODEL.FCOS.POS_RADIUS": 1.5,
    "MODEL.FCOS.LOC_LOSS_TYPE": "giou",
    "MODEL.FCOS.USE_RELU": True,
    "MODEL.FCOS.USE_DEFORMABLE": False,
    "MODEL.FCOS.USE_SCALE": True,
    "MODEL.FCOS.TOP_LEVELS": 2,
    "MODEL.FCOS.NORM": "GN",
    "MODEL.FCOS.PRIOR_PROB": 0.01,
    "MODEL.FCOS.LOSS_ALPHA": 0.25,
    "MODEL.FCOS.LOSS_GAMMA": 2.0,
    "MODEL.FCOS.FB_RATIO": 4.0,
    "MODEL.FCOS.YIELD_PROPOSAL": False,
    "MODEL.FCOS.INFERENCE_TH_TRAIN": 0.05,
    "MODEL.FCOS.INFERENCE_TH_TEST": 0.05,
    "MODEL.FCOS.PRE_NMS_TOPK_TRAIN": 1000,
    "MODEL.FCOS.PRE_NMS_TOPK_TEST": 1000,
    "MODEL.FCOS.NMS_TH": 0.6,
    "MODEL.FCOS.POST_NMS_TOPK_TRAIN": 100,
    "MODEL.FCOS.POST_NMS_TOPK_TEST": 100,
    "MODEL.FCOS.THRESH_WITH_CTR": False,
    "MODEL.CONDINST.MASK_OUT_STRIDE": 4,
    "MODEL.CONDINST.MAX_PROPOSALS": 500,
    "MODEL.CONDINST.TRAIN_MAX_PROPOSALS_PER_IMAGE": 120,
    "MODEL.CONDINST.LOW_LEVEL_DIMENSION": 16,
    "MODEL.CONDINST.CLASS_AGNOSTIC": False,
    "MODEL.CONDINST.MASK_HEAD.CHANNELS": 8,
    "MODEL.CONDINST.MASK_HEAD.NUM_LAYERS": 3,
    "MODEL.CONDINST.MASK_HEAD.USE_FP16": False,
    "MODEL.CONDINST.MASK_HEAD.DISABLE_REL_COORDS": False,
    "MODEL.CONDINST.MASK_HEAD.CLUSTER_WEIGHT": 1.0,
    "MODEL.CONDINST.MASK_HEAD.DYNAMIC": ["111", "110"],
    "MODEL.CONDINST.MASK_HEAD.DYNAMIC_WEIGHT": [1.0, 1.0],
    "MODEL.CONDINST.MASK_BRANCH.OUT_CHANNELS": 8,
    "MODEL.CONDINST.MASK_BRANCH.IN_FEATURES": ["p3", "p4", "p5"],
    "MODEL.CONDINST.MASK_BRANCH.CHANNELS": 128,
    "MODEL.CONDINST.MASK_BRANCH.NORM": "BN",
    "MODEL.CONDINST.MASK_BRANCH.NUM_CONVS": 4,
    "MODEL.CONDINST.MASK_BRANCH.SEMANTIC_LOSS_ON": False,
    "MODEL.CONDINST.MASK_BRANCH.USE_MASK_RESCORE": False,
    "MODEL.KERNEL_HEAD.NUM_CONVS": 3,
    "MODEL.KERNEL_HEAD.DEFORM": False,
    "MODEL.KERNEL_HEAD.COORD": True,
    "MODEL.KERNEL_HEAD.CONVS_DIM": 256,
    "MODEL.KERNEL_HEAD.NORM": "GN",
    "MODEL.SWINT.EMBED_DIM": 96,
    "MODEL.SWINT.PATCH_SIZE": 4,
    "MODEL.SWINT.OUT_FEATURES": ["stage2", "stage3", "stage4", "stage5"],
    "MODEL.SWINT.DEPTHS": [2, 2, 6, 2],
    "MODEL.SWINT.NUM_HEADS": [3, 6, 12, 24],
    "MODEL.SWINT.WINDOW_SIZE": 7,
    "MODEL.SWINT.MLP_RATIO": 4,
    "MODEL.SWINT.DROP_PATH_RATE": 0.2,
    "MODEL.SWINT.APE": False,
    "MODEL.MIT_BACKBONE.NAME": "b0",
    "SOLVER.OPTIMIZER": "sgd",
    "TEST.CLASS_AGNOSTIC": True,
}

# Behavior of its code without a key, as keys and values of segzoo.
CONSTANTS: dict[str, Any] = {
    "MODEL.FPN.OUT_FEATURES": ("p3", "p4", "p5", "p6", "p7"),
    "MODEL.SEM_SEG_HEAD.NUM_CLASSES": 0,  # no such head
    "TASK": "entity",
    "TEST.TASKS": ("entity",),
    "INPUT.AUGMENTATION": "semantic",
    "INPUT.COLOR_AUG": False,
    "INPUT.TARGETS": ("segments", "entities_rounded"),
    "SOLVER.WEIGHT_DECAY_EMBED": None,
    "SOLVER.WEIGHT_DECAY_BY_NAME": [["bias$", 0.0001]],
}

_FCOS, _MASK = "MODEL.FCOS.", "MODEL.CONDINST."
_ENTITYSEG = "MODEL.ENTITYSEG."
_SWIN_SIZES = [f"MODEL.SWINT.{name}" for name in ("EMBED_DIM", "DEPTHS", "NUM_HEADS", "WINDOW_SIZE")]
_FIXED = "has no counterpart in EntitySeg here; leave it out"


def _is_used(context: Context) -> bool:
    return context.ours["MODEL.META_ARCHITECTURE"] == ENTITYSEG


def _features(given: Mapping[str, Any], context: Context) -> Mapping[str, Any]:
    """Convert the maps below the pyramid: EntitySeg does not use its level of stride 4."""
    if not _is_used(context):
        return dict(given)
    ((key, value),) = given.items()
    if len(value) != 4:
        refuse(key, value, "has no counterpart in EntitySeg here; its pyramid has four maps of the backbone")
    return {key: (), "MODEL.BACKBONE.OUT_FEATURES": ("res3", "res4", "res5")}


def _freeze(given: Mapping[str, Any], context: Context) -> Mapping[str, Any]:
    ((key, value),) = given.items()
    if not _is_used(context) or not context.whole:
        return {key: value}
    # MiT's first stage is always frozen there, and Swin's stages never are.
    return {key: {"MixTransformer": 2, "SwinTransformer": 0}.get(context.ours["MODEL.BACKBONE.NAME"], value)}


def _optimizer(given: Mapping[str, Any], context: Context) -> Mapping[str, Any]:
    ((key, value),) = given.items()
    if not _is_used(context):
        return {key: value}
    return {key: {"sgd": "SGD", "adamw": "AdamW"}.get(value, value)}


def _convs(given: Mapping[str, Any], context: Context) -> Mapping[str, Any]:
    numbers = set(given.values())
    if len(numbers) != 1 or (len(given) != 2 and not context.whole):
        key, value = next(iter(given.items()))
        refuse(key, value, f"has no counterpart alone: both towers have {_ENTITYSEG}NUM_CONVS convolutions")
    return {f"{_ENTITYSEG}NUM_CONVS": numbers.pop()}


def _ranges(given: Mapping[str, Any], context: Context) -> Mapping[str, Any]:
    ((key, value),) = given.items()
    ends = [high for _, high in value]
    if [low for low, _ in value[1:]] != ends[:-1]:
        refuse(key, value, "has no counterpart here: ranges that follow one another have")
    return {f"{_ENTITYSEG}SIZE_RANGES": tuple(ends[:-1])}


def _paths(given: Mapping[str, Any], context: Context) -> Mapping[str, Any]:
    names, weights = (given.get(f"{_MASK}MASK_HEAD.{name}") for name in ("DYNAMIC", "DYNAMIC_WEIGHT"))
    if names is None or weights is None or len(names) != len(weights):
        key, value = next(iter(given.items()))
        refuse(key, value, f"has no counterpart alone; set {_ENTITYSEG}PATH_WEIGHTS")
    return {
        f"{_ENTITYSEG}PATH_WEIGHTS": [[path, weight] for path, weight in zip(names, weights, strict=True)]
    }


def _variant(given: Mapping[str, Any], context: Context) -> Mapping[str, Any]:
    if context.ours["MODEL.BACKBONE.NAME"] != "SwinTransformer" or len(given) != len(_SWIN_SIZES):
        return _unused(given, context)
    sizes = tuple(tuple(value) if isinstance(value, list | tuple) else value for value in given.values())
    for name, expected in SWIN_VARIANTS.items():
        if sizes == expected:
            return {"MODEL.BACKBONE.VARIANT": name}
    key, value = next(iter(given.items()))
    refuse(key, value, f"is not that of a Swin here; known: {', '.join(SWIN_VARIANTS)}")


def _drop_path(given: Mapping[str, Any], context: Context) -> Mapping[str, Any]:
    if context.ours["MODEL.BACKBONE.NAME"] != "SwinTransformer":
        return _unused(given, context)
    return {"MODEL.BACKBONE.DROP_PATH_RATE": next(iter(given.values()))}


def _mit(given: Mapping[str, Any], context: Context) -> Mapping[str, Any]:
    if context.ours["MODEL.BACKBONE.NAME"] != "MixTransformer":
        return _unused(given, context)
    return {"MODEL.BACKBONE.VARIANT": next(iter(given.values())), "MODEL.BACKBONE.DROP_PATH_RATE": 0.1}


def _unused(given: Mapping[str, Any], context: Context) -> Mapping[str, Any]:
    """Return no keys for those of another backbone; whole files have their defaults."""
    if context.whole:
        return {}
    key, value = next(iter(given.items()))
    refuse(key, value, "has no effect here; set MODEL.BACKBONE.VARIANT and MODEL.BACKBONE.DROP_PATH_RATE")


def _renamed(there: str, here: str) -> Row:
    return Row(there, f"`{here}`", "", same(here))


_RENAMED = {
    f"{_FCOS}POS_RADIUS": "CENTER_RADIUS",
    f"{_FCOS}INFERENCE_TH_TEST": "TEST.SCORE_THRESHOLD",
    f"{_FCOS}PRE_NMS_TOPK_TEST": "TEST.CANDIDATES_PER_LEVEL",
    f"{_FCOS}NMS_TH": "TEST.NMS_THRESHOLD",
    f"{_MASK}MAX_PROPOSALS": "MAX_MASKS",
    f"{_MASK}TRAIN_MAX_PROPOSALS_PER_IMAGE": "MAX_MASKS_PER_IMAGE",
    f"{_MASK}MASK_HEAD.CLUSTER_WEIGHT": "OVERLAP_WEIGHT",
    f"{_MASK}MASK_BRANCH.CHANNELS": "MASK_CONVS_DIM",
    f"{_MASK}MASK_BRANCH.NUM_CONVS": "MASK_NUM_CONVS",
    f"{_MASK}MASK_BRANCH.NORM": "MASK_NORM",
    f"{_MASK}MASK_BRANCH.USE_MASK_RESCORE": "TEST.MASK_RESCORE",
    "MODEL.KERNEL_HEAD.CONVS_DIM": "KERNEL_CONVS_DIM",
    "MODEL.KERNEL_HEAD.NUM_CONVS": "KERNEL_NUM_CONVS",
}

# Used by the authors' code, with one value here.
_ONE_VALUE = (
    "MODEL.FPN.TOP_LEVELS",
    *(f"{_FCOS}{name}" for name in ("IN_FEATURES", "FPN_STRIDES", "NUM_CLASSES", "NUM_SHARE_CONVS")),
    *(f"{_FCOS}{name}" for name in ("CENTER_SAMPLE", "LOC_LOSS_TYPE", "USE_RELU", "USE_DEFORMABLE")),
    *(f"{_FCOS}{name}" for name in ("USE_SCALE", "TOP_LEVELS", "NORM", "PRIOR_PROB", "LOSS_ALPHA")),
    *(f"{_FCOS}{name}" for name in ("LOSS_GAMMA", "THRESH_WITH_CTR")),
    *(f"{_MASK}{name}" for name in ("MASK_OUT_STRIDE", "MASK_HEAD.CHANNELS", "MASK_HEAD.NUM_LAYERS")),
    *(f"{_MASK}MASK_HEAD.{name}" for name in ("USE_FP16", "DISABLE_REL_COORDS")),
    *(f"{_MASK}MASK_BRANCH.{name}" for name in ("OUT_CHANNELS", "IN_FEATURES", "SEMANTIC_LOSS_ON")),
    *(f"MODEL.KERNEL_HEAD.{name}" for name in ("DEFORM", "COORD", "NORM")),
    *(f"MODEL.SWINT.{name}" for name in ("PATCH_SIZE", "MLP_RATIO", "APE", "OUT_FEATURES")),
)
# Without effect on the entities.
_WITHOUT_EFFECT = (
    *(f"{_FCOS}{name}" for name in ("FB_RATIO", "YIELD_PROPOSAL", "INFERENCE_TH_TRAIN")),
    *(f"{_FCOS}{name}" for name in ("PRE_NMS_TOPK_TRAIN", "POST_NMS_TOPK_TRAIN")),
    *(f"{_MASK}{name}" for name in ("LOW_LEVEL_DIMENSION", "CLASS_AGNOSTIC")),
    "TEST.CLASS_AGNOSTIC",
)


def _one_value(given: Mapping[str, Any], context: Context) -> Mapping[str, Any]:
    for key, value in given.items():
        fixed(KEYS[key], _FIXED)({key: value}, context)
    return {}


BACKBONE_ROWS = (
    Row(
        "MODEL.FPN.IN_FEATURES",
        "`MODEL.BACKBONE.OUT_FEATURES`",
        "in EntitySeg's files the level of stride 4, which it does not use, is not computed",
        _features,
    ),
    Row("MODEL.BACKBONE.FREEZE_AT", "`MODEL.BACKBONE.FREEZE_AT`", "in EntitySeg's files MiT is 2", _freeze),
    Row(
        " ".join(_SWIN_SIZES),
        "`MODEL.BACKBONE.VARIANT large`",
        "the variant with these sizes",
        _variant,
    ),
    Row("MODEL.SWINT.DROP_PATH_RATE", "`MODEL.BACKBONE.DROP_PATH_RATE`", "", _drop_path),
    Row("MODEL.MIT_BACKBONE.NAME", "`MODEL.BACKBONE.VARIANT`", "", _mit),
)

ROWS = (
    Row(
        f"{_FCOS}NUM_CLS_CONVS {_FCOS}NUM_BOX_CONVS",
        f"`{_ENTITYSEG}NUM_CONVS`",
        "the same number for both towers",
        _convs,
    ),
    Row(
        f"{_FCOS}SIZES_OF_INTEREST",
        f"`{_ENTITYSEG}SIZE_RANGES`",
        "the sizes between the ranges",
        _ranges,
    ),
    Row(
        f"{_FCOS}POST_NMS_TOPK_TEST",
        "`TEST.DETECTIONS_PER_IMAGE`",
        "",
        same("TEST.DETECTIONS_PER_IMAGE"),
    ),
    Row(
        f"{_MASK}MASK_HEAD.DYNAMIC {_MASK}MASK_HEAD.DYNAMIC_WEIGHT",
        f"`{_ENTITYSEG}PATH_WEIGHTS`",
        "pairs of a path and its weight",
        _paths,
    ),
    *(_renamed(there, f"{_ENTITYSEG}{here}") for there, here in _RENAMED.items()),
    Row("SOLVER.OPTIMIZER", "`SOLVER.OPTIMIZER`", "sgd is SGD, and adamw AdamW", _optimizer),
    Row(" ".join(_ONE_VALUE), "", "EntitySeg's other keys have their default only", _one_value),
    Row(" ".join(_WITHOUT_EFFECT), "", "no effect", ignore),
)
