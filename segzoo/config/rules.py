"""Rules for the values of configuration keys, and their check.

Rules for a method's keys are in its `config.py`, see `register_config`. Names of datasets are checked at
their lookup, names of parts of a model or a training by `segzoo.engine.names`.
"""

import math
import re
from collections.abc import Iterator, Mapping
from typing import Any

from detectron2.config import CfgNode

from segzoo.utils.errors import InputError
from segzoo.utils.text import did_you_mean

from .detector_rules import DETECTOR_GROUPS
from .extensions import registered_rules
from .keys import existing_section
from .rule_types import (
    AMOUNT,
    AMOUNT_OR_NONE,
    BELOW_1,
    COUNT,
    ODD,
    POSITIVE,
    POSITIVE_RANGE,
    RANGE,
    SHARE,
    Rule,
    at_least,
    is_range,
    is_whole,
    one_of,
)

# Keys whose values are names registered by segzoo, Detectron2 or a module of IMPORTS.
NAMES = (
    *("TRAINER", "MODEL.META_ARCHITECTURE", "MODEL.BACKBONE.NAME", "MODEL.NECK.NAME", "MODEL.AUX_HEAD.NAME"),
    *("MODEL.SEM_SEG_HEAD.NAME", "MODEL.SEM_SEG_HEAD.LOSS.NAME", "MODEL.SEM_SEG_HEAD.PIXEL_DECODER_NAME"),
    *("MODEL.MASK_FORMER.TRANSFORMER_DECODER_NAME", "MODEL.MASK_FORMER.CRITERION_NAME"),
    *("MODEL.MASK_FORMER.LOSS_TERMS", "MODEL.MASK_FORMER.MATCHING_COSTS"),
    *("SOLVER.OPTIMIZER", "SOLVER.LR_SCHEDULER_NAME", "INPUT.AUGMENTATION", "INPUT.TARGETS"),
    *("TEST.PROTOCOL", "TEST.EVALUATORS"),
)


def _decay_by_name(pair: Any) -> bool:
    expression, decay = pair
    try:
        re.compile(expression)
    except re.error:
        return False
    return decay is None or (not isinstance(decay, bool) and 0 <= decay < math.inf)


def _factor_by_name(pair: Any) -> bool:
    return _decay_by_name(pair) and pair[1] is not None


_FROM_0 = at_least(0)
_SIDES = Rule(
    "expected one or more sizes in pixels",
    lambda value: len(value) > 0 and all(is_whole(side) and side > 0 for side in value),
)

# Detectron2's own norms, valid but obsolete.
_NAIVE_NORMS = ("naiveSyncBN", "naiveSyncBN_N")

_GROUPS: dict[Rule, dict[str, str]] = {
    COUNT: {
        "SOLVER": "IMS_PER_BATCH ACCUMULATE LOG_PERIOD",
        "TEST": "IMS_PER_BATCH DETECTIONS_PER_IMAGE SHARD_PERIOD",
        "INPUT": "BASE_SIZE LSJ_SIZE",
        "MODEL.SEM_SEG_HEAD": "CONVS_DIM MASK_DIM LOSS.OHEM_KEEP_FRACTION",
        "MODEL.BACKBONE": "DEFORM_GROUPS",
        "MODEL.AUX_HEAD": "CONVS_DIM",
        "MODEL.FPN": "OUT_CHANNELS",
        "MODEL.MASK_FORMER": "HIDDEN_DIM NUM_OBJECT_QUERIES NHEADS DIM_FEEDFORWARD DEC_LAYERS "
        "DEFORMABLE_POINTS DEFORMABLE_FEEDFORWARD OVERSAMPLE_RATIO",
    },
    _FROM_0: {
        "DATALOADER": "NUM_WORKERS",
        "SOLVER": "MAX_ITER CHECKPOINT_KEEP CHECKPOINT_PERIOD WARMUP_ITERS",
        "TEST": "EVAL_PERIOD EARLY_STOP_PATIENCE INFERENCE.WINDOW_BATCH SCORING_THREADS NUM_PICTURES",
        "INPUT": "MIN_SIZE_TEST MAX_SIZE_TEST MAX_SIZE_TRAIN",
        "MODEL.SEM_SEG_HEAD": "NUM_CLASSES NUM_CONVS TRANSFORMER_ENC_LAYERS SIZE_DIVISIBILITY",
        "MODEL.AUX_HEAD": "NUM_CONVS",
        "MODEL.MASK_FORMER": "SIZE_DIVISIBILITY TRAIN_NUM_POINTS",
    },
    Rule(
        "expected one or more names, each of them once",
        lambda value: (
            not isinstance(value, str)
            and 0 < len(value) == len(set(value))
            and all(isinstance(name, str) for name in value)
        ),
    ): {"MODEL.MASK_FORMER": "LOSS_TERMS MATCHING_COSTS"},
    ODD: {"INPUT": "BLUR_KERNEL"},
    Rule("expected a class, counted from 0, or -1 for the ignore label", lambda value: value >= -1): {
        "INPUT": "PAD_LABEL"
    },
    Rule("expected a number from 0 to 255", lambda value: 0 <= value <= 255): {"INPUT": "PAD_VALUE"},
    Rule("expected (lowest, highest), both at least 0", lambda value: is_range(value) and value[0] >= 0): {
        "INPUT": "BLUR_RADIUS"
    },
    Rule(
        "expected iterations in rising order",
        lambda value: all(is_whole(step) and step >= 0 for step in value) and list(value) == sorted(value),
    ): {"SOLVER": "STEPS"},
    Rule(
        "expected different stages of res2, res3, res4, res5, or () for none",
        lambda value: (
            not isinstance(value, str)
            and len(set(value)) == len(value)
            and set(value) <= {"res2", "res3", "res4", "res5"}
        ),
    ): {"MODEL.BACKBONE": "DEFORM_STAGES"},
    Rule(
        "expected 0 (nothing), 1 (the stem), 2 (the stem and res2), ..., 5 (all)",
        lambda value: value in range(6),
    ): {"MODEL.BACKBONE": "FREEZE_AT"},
    one_of(1, 2, 4, 8): {"MODEL.SEM_SEG_HEAD": "LOSS.ZOOM_FACTOR"},
    one_of(4, 8, 16, 32): {"MODEL.BACKBONE": "OUTPUT_STRIDE"},
    AMOUNT: {
        "SOLVER": "BASE_LR WEIGHT_DECAY BACKBONE_MULTIPLIER HEAD_MULTIPLIER POLY_LR_POWER "
        "POLY_LR_CONSTANT_ENDING GAMMA BIAS_LR_FACTOR",
        "MODEL.AUX_HEAD": "LOSS_WEIGHT",
        "MODEL.MASK_FORMER": "CLASS_WEIGHT MASK_WEIGHT DICE_WEIGHT NO_OBJECT_WEIGHT",
    },
    AMOUNT_OR_NONE: {
        "SOLVER": "WEIGHT_DECAY_NORM WEIGHT_DECAY_EMBED WEIGHT_DECAY_HEAD_NORM WEIGHT_DECAY_BIAS",
    },
    Rule(
        "expected pairs of a regular expression and a weight decay of at least 0, or None for "
        'SOLVER.WEIGHT_DECAY, e.g. [["norm", 0.0]]',
        lambda value: all(_decay_by_name(pair) for pair in value),
    ): {"SOLVER": "WEIGHT_DECAY_BY_NAME"},
    Rule(
        'expected pairs of a regular expression and a factor of at least 0, e.g. [["sampling_offsets", 0.1]]',
        lambda value: all(_factor_by_name(pair) for pair in value),
    ): {"SOLVER": "LR_MULTIPLIERS_BY_NAME"},
    Rule("expected a number above 0 and at most 1", lambda value: 0 < value <= 1): {"SOLVER": "LAYER_DECAY"},
    POSITIVE: {"SOLVER.CLIP_GRADIENTS": "CLIP_VALUE"},
    SHARE: {
        "INPUT": "FLIP_PROB ROTATION_PROB BLUR_PROB CROP_SINGLE_CATEGORY_MAX",
        "SOLVER": "WARMUP_FACTOR",
        "TEST": "ENTITY_SCORE_THRESHOLD",
        "MODEL.SEM_SEG_HEAD": "LOSS.OHEM_THRESHOLD",
        "MODEL.MASK_FORMER": "IMPORTANCE_SAMPLE_RATIO TEST.OBJECT_MASK_THRESHOLD TEST.OVERLAP_THRESHOLD",
    },
    BELOW_1: {
        "SOLVER": "MOMENTUM",
        "TEST": "BOUNDARY_DILATION",
        "MODEL.SEM_SEG_HEAD": "DROPOUT",
        "MODEL.BACKBONE": "DROP_PATH_RATE",
        "MODEL.AUX_HEAD": "DROPOUT",
        "MODEL.MASK_FORMER": "DROPOUT",
    },
    Rule(
        "expected different names, such as ('boundary',)",
        lambda value: all(isinstance(name, str) and name for name in value) and len(set(value)) == len(value),
    ): {"TEST": "EVALUATORS"},
    Rule(
        "expected a list of names",
        lambda value: all(isinstance(name, str) and name for name in value),
    ): {
        "DATASETS": "TRAIN TEST FILES",
        "MODEL.COMPILE": "PARTS",
        "TEST": "TASKS",
        "INPUT": "TARGETS",
        "MODEL.FPN": "IN_FEATURES OUT_FEATURES",
        "MODEL.RPN": "IN_FEATURES",
        "MODEL.ROI_HEADS": "IN_FEATURES",
    },
    RANGE: {"INPUT": "ROTATION"},
    POSITIVE_RANGE: {"INPUT": "SCALE_RANGE LSJ_SCALE DETR_CROP_SIZE"},
    _SIDES: {"INPUT": "MIN_SIZE_TRAIN DETR_CROP_SHORT_EDGE", "TEST": "AUG.MIN_SIZES"},
    Rule(
        "expected (height, width) of at least 1, or () for no crop",
        lambda value: len(value) in (0, 2) and all(is_whole(side) and side > 0 for side in value),
    ): {"INPUT": "CROP_SIZE"},
    Rule(
        "expected (lowest, highest) of the pixel values, or ()",
        lambda value: len(value) == 0 or (is_range(value) and value[0] < value[1]),
    ): {"INPUT": "IMAGE_RANGE"},
    Rule(
        "expected finite numbers of at least 0",
        lambda value: all(0 <= number < math.inf for number in value),
    ): {"MODEL": "SEM_SEG_HEAD.LOSS.CLASS_WEIGHTS"},
    Rule(
        "expected three numbers",
        lambda value: len(value) == 3 and all(math.isfinite(number) for number in value),
    ): {"MODEL": "PIXEL_MEAN"},
    Rule(
        "expected three numbers above 0",
        lambda value: len(value) == 3 and all(0 < number < math.inf for number in value),
    ): {"MODEL": "PIXEL_STD"},
    Rule(
        "expected cpu, cuda, or cuda:1 for one of several GPUs",
        # meta: shapes without values, to inspect a model; jobs refuse it.
        lambda value: re.fullmatch(r"(cpu|mps|meta|cuda|xpu|npu)(:\d+)?", value) is not None,
    ): {"MODEL": "DEVICE"},
    Rule(
        "expected BN, SyncBN, FrozenBN, GN or LN",
        lambda value: value in ("", "BN", "SyncBN", "FrozenBN", "GN", "LN", "nnSyncBN", *_NAIVE_NORMS),
    ): {"MODEL": "BACKBONE.NORM FPN.NORM SEM_SEG_HEAD.NORM"},
    one_of("default", "reduce-overhead", "max-autotune"): {"MODEL.COMPILE": "MODE"},
    one_of("predicted", "always", "never"): {"TEST": "BOX_AP"},
    one_of("mask", "box"): {"TEST": "ENTITY_AREA"},
    one_of("stop", "skip"): {"DATALOADER": "ON_ERROR"},
    one_of("RGB", "BGR"): {"INPUT": "FORMAT"},
    one_of("choice", "range"): {"INPUT": "MIN_SIZE_TRAIN_SAMPLING"},
    one_of("polygon", "bitmask"): {"INPUT": "MASK_FORMAT"},
    one_of("float16", "bfloat16"): {"SOLVER": "AMP.DTYPE"},
    one_of("full_model", "norm", "value"): {"SOLVER.CLIP_GRADIENTS": "CLIP_TYPE"},
    one_of("linear", "constant"): {"SOLVER": "WARMUP_METHOD"},
    one_of("channel", "element"): {"MODEL.SEM_SEG_HEAD": "DROPOUT_KIND", "MODEL.BACKBONE": "DROPOUT_KIND"},
    one_of("valid", "all"): {"MODEL.SEM_SEG_HEAD": "LOSS.AVERAGE_OVER"},
    one_of("focal", "bce"): {"MODEL.MASK_FORMER": "MASK_LOSS"},
    one_of("", "scores", "masks"): {"MODEL.MASK_FORMER": "TEST.SEMANTIC_RESIZING"},
    one_of("sum", "avg"): {"MODEL.FPN": "FUSE_TYPE"},
    one_of("", "max_pool", "p6", "p6p7"): {"MODEL.FPN": "TOP_BLOCK"},
    one_of("nearest", "bilinear"): {"MODEL.SEM_SEG_HEAD": "TOP_DOWN_UPSAMPLE"},
}


def _by_key(groups: Mapping[Rule, Mapping[str, str]]) -> Iterator[tuple[str, Rule]]:
    for rule, sections in groups.items():
        for section, names in sections.items():
            yield from ((f"{section}.{name}".lstrip("."), rule) for name in names.split())


RULES: dict[str, Rule] = {**dict(_by_key(_GROUPS)), **dict(_by_key(DETECTOR_GROUPS))}


def may_be_none(key: str) -> bool:
    """Return whether a key may be None."""
    rules = [rule for name, rule in _all_rules() if name == key]
    return bool(rules) and all(rule.allows(None) for rule in rules)


# Detectron2's default, in the order of its INPUT.FORMAT.
_IMAGENET_MEAN_BGR = [103.53, 116.28, 123.675]


def _all_rules() -> Iterator[tuple[str, Rule]]:
    yield from RULES.items()
    yield from registered_rules()


def check_values(cfg: CfgNode) -> None:
    """Check the values of all keys with rules.

    Raises:
        InputError: a value is not allowed.
    """
    for key, rule in _all_rules():
        *path, leaf = key.split(".")
        value: Any = existing_section(cfg, path)[leaf]
        if not rule.allows(value):
            choices = rule.expected.removeprefix("expected ").split(" or ") if isinstance(value, str) else ()
            raise InputError(f"{key} {value!r}: {rule.expected}{did_you_mean(value, choices)}")
    node = cfg.MODEL.MASK_FORMER
    if node.HIDDEN_DIM % 4:
        raise InputError(
            f"MODEL.MASK_FORMER.HIDDEN_DIM {node.HIDDEN_DIM}: expected a multiple of 4, for the sine and "
            "cosine of x and y in the position encoding"
        )
    if node.HIDDEN_DIM % node.NHEADS:
        raise InputError(
            f"MODEL.MASK_FORMER.NHEADS {node.NHEADS}: expected a divisor of MODEL.MASK_FORMER.HIDDEN_DIM "
            f"{node.HIDDEN_DIM}"
        )
    if cfg.INPUT.FORMAT == "RGB" and list(cfg.MODEL.PIXEL_MEAN) == _IMAGENET_MEAN_BGR:
        raise InputError(
            f"MODEL.PIXEL_MEAN {list(cfg.MODEL.PIXEL_MEAN)}: it is in BGR order, INPUT.FORMAT is RGB; give "
            f"{_IMAGENET_MEAN_BGR[::-1]}, or INPUT.FORMAT BGR for weights of BGR images"
        )
