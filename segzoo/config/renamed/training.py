"""Convert the keys of datasets, weights, augmentation and evaluation of MaskFormer and Mask2Former."""

import os
from collections.abc import Mapping
from typing import Any, NamedTuple

from segzoo.utils.paths import expand_home

from .heads import DETECTORS, ENTITYSEG
from .row import Context, Row, ignore, refuse, same


class _Mapper(NamedTuple):
    task: str
    augmentation: str


_MAPPER_KEY = "INPUT.DATASET_MAPPER_NAME"
_MAPPERS = {
    "mask_former_semantic": _Mapper("semantic", "semantic"),
    "mask_former_panoptic": _Mapper("panoptic", "semantic"),
    "mask_former_instance": _Mapper("instance", "semantic"),
    "detr_panoptic": _Mapper("panoptic", "detr"),
    "coco_panoptic_lsj": _Mapper("panoptic", "lsj"),
    "coco_instance_lsj": _Mapper("instance", "lsj"),
}

# Datasets with another name in segzoo.
DATASETS = {
    "coco_2017_train": "coco_2017_train_instances",
    "coco_2017_val": "coco_2017_val_instances",
    "coco_2017_train_panoptic_with_sem_seg": "coco_2017_train_panoptic",
    "coco_2017_val_panoptic_with_sem_seg": "coco_2017_val_panoptic",
    "coco_2017_train_entity": "coco_2017_train_panoptic",
    "coco_2017_val_entity": "coco_2017_val_panoptic",
    "cityscapes_fine_sem_seg_train": "cityscapes_sem_seg_train",
    "cityscapes_fine_sem_seg_val": "cityscapes_sem_seg_val",
    "cityscapes_fine_sem_seg_test": "cityscapes_sem_seg_test",
}

_WEIGHTS = "MODEL.WEIGHTS"
_SWIN_URL = "https://github.com/SwinTransformer/storage/releases/download/v1.0.0/"
_MSRA = "detectron2://ImageNetPretrained/MSRA/"
_MIT_URL = "https://download.openmmlab.com/mmsegmentation/v0.5/pretrain/segformer/"
_MIT = (
    ("b0", "20220624-7e0fe6dd"),
    ("b2", "20220624-66e8bf70"),
    ("b3", "20220624-13b1141c"),
    ("b5", "20220624-658746d9"),
)
# Files that users of these code bases convert by hand, and the published originals.
WEIGHTS = {
    "R-101.pkl": "detectron2://ImageNetPretrained/torchvision/R-101.pkl",
    **{
        f"{name}.pkl": f"{_SWIN_URL}{name}.pth"
        for name in (
            "swin_tiny_patch4_window7_224",
            "swin_small_patch4_window7_224",
            "swin_base_patch4_window12_384",
            "swin_base_patch4_window12_384_22k",
            "swin_large_patch4_window12_384_22k",
        )
    },
    # EntitySeg's.
    **{f"pretrained_model/R-{depth}.pkl": f"{_MSRA}R-{depth}.pkl" for depth in (50, 101)},
    **{
        f"pretrained_model/{name}_trans.pth": f"{_SWIN_URL}{name}.pth"
        for name in ("swin_tiny_patch4_window7_224", "swin_large_patch4_window7_224_22k")
    },
    **{f"pretrained_model/mit_{name}_trans.pth": f"{_MIT_URL}mit_{name}_{stamp}.pth" for name, stamp in _MIT},
}

# Values with another spelling in segzoo, which have no other meaning there.
VALUES = {
    "MODEL.BACKBONE.NAME": {"D2SwinTransformer": "SwinTransformer"},
    "MODEL.SEM_SEG_HEAD.PIXEL_DECODER_NAME": {
        "BasePixelDecoder": "FPNPixelDecoder",
        "TransformerEncoderPixelDecoder": "TransformerFPNPixelDecoder",
    },
    "MODEL.MASK_FORMER.TRANSFORMER_DECODER_NAME": {
        "StandardTransformerDecoder": "MaskFormerTransformerDecoder"
    },
    "SOLVER.OPTIMIZER": {"ADAMW": "AdamW"},
}


def _mapper(given: Mapping[str, Any], context: Context) -> Mapping[str, Any]:
    name = given[_MAPPER_KEY]
    if name not in _MAPPERS:
        refuse(_MAPPER_KEY, name, f"has no counterpart here; known: {', '.join(_MAPPERS)}")
    mapper = _MAPPERS[name]
    result: dict[str, Any] = {"TASK": mapper.task, "INPUT.AUGMENTATION": mapper.augmentation}
    if not context.whole and context.ours["TASK"] != mapper.task:
        result["TEST.TASKS"] = (mapper.task,)
    return result


def _names(given: Mapping[str, Any], context: Context) -> Mapping[str, Any]:
    return {key: tuple(DATASETS.get(str(name), name) for name in names) for key, names in given.items()}


def _weights(given: Mapping[str, Any], context: Context) -> Mapping[str, Any]:
    ((key, value),) = given.items()
    return {key: value if os.path.isfile(expand_home(value)) else WEIGHTS.get(value, value)}


def _filter_empty(given: Mapping[str, Any], context: Context) -> Mapping[str, Any]:
    # Detectron2 checks instance annotations; records of semantic and panoptic labels have none.
    return {key: value and context.ours["TASK"] in ("instance", "entity") for key, value in given.items()}


def _crop(given: Mapping[str, Any], context: Context) -> Mapping[str, Any]:
    family = context.ours["INPUT.AUGMENTATION"]
    enabled, crop_type, size = (given[f"INPUT.CROP.{name}"] for name in ("ENABLED", "TYPE", "SIZE"))
    expected = {"semantic": "absolute", "detr": "absolute_range"}.get(family)
    if expected is None or (family == "semantic" and not enabled):
        return {"INPUT.CROP_SIZE": ()}
    if context.ours["MODEL.META_ARCHITECTURE"] in DETECTORS:
        refuse("INPUT.CROP.ENABLED", enabled, "has no counterpart: Detectron2 crops before it resizes")
    if not enabled:
        refuse(
            "INPUT.CROP.ENABLED",
            enabled,
            "has no counterpart: INPUT.AUGMENTATION detr crops",
        )
    if crop_type != expected:
        refuse(
            "INPUT.CROP.TYPE",
            crop_type,
            f"has no counterpart with INPUT.AUGMENTATION {family}; use {expected}",
        )
    return {"INPUT.CROP_SIZE" if family == "semantic" else "INPUT.DETR_CROP_SIZE": tuple(size)}


def _padding(given: Mapping[str, Any], context: Context) -> Mapping[str, Any]:
    ((key, value),) = given.items()
    if context.whole and context.ours["INPUT.AUGMENTATION"] != "semantic":
        return {}  # the other mappers do not read it
    if value <= 0:
        return {"INPUT.PAD_TO_CROP": False}
    crop = tuple(context.ours["INPUT.CROP_SIZE"])
    if crop != (value, value):
        refuse(key, value, f"has no counterpart: training images are padded to INPUT.CROP_SIZE {crop}")
    return {"INPUT.PAD_TO_CROP": True}


def _scale(given: Mapping[str, Any], context: Context) -> Mapping[str, Any]:
    low, high = context.ours["INPUT.LSJ_SCALE"]
    return {"INPUT.LSJ_SCALE": (given.get("INPUT.MIN_SCALE", low), given.get("INPUT.MAX_SCALE", high))}


def _flip(given: Mapping[str, Any], context: Context) -> Mapping[str, Any]:
    ((key, value),) = given.items()
    detector = context.ours["MODEL.META_ARCHITECTURE"] in (*DETECTORS, ENTITYSEG)
    obeyed = detector or context.ours["INPUT.AUGMENTATION"] == "lsj"
    if value == "none" and obeyed:
        return {"INPUT.FLIP_PROB": 0.0}
    if value not in ("none", "horizontal"):
        refuse(key, value, "has no counterpart: images are only flipped horizontally")
    return {"INPUT.FLIP_PROB": 0.5}  # the other mappers ignore the key


_FLAGS = {f"MODEL.MASK_FORMER.TEST.{task.upper()}_ON": task for task in ("panoptic", "semantic", "instance")}


_RESIZED_FIRST = "MODEL.MASK_FORMER.TEST.SEM_SEG_POSTPROCESSING_BEFORE_INFERENCE"
_RESIZING = "MODEL.MASK_FORMER.TEST.SEMANTIC_RESIZING"


def _tests(given: Mapping[str, Any], context: Context) -> Mapping[str, Any]:
    flags = {key: value for key, value in given.items() if key != _RESIZED_FIRST}
    if context.whole:
        return {"TEST.TASKS": _whole_tasks(flags, context.ours["TASK"]), _RESIZING: _resizing(given, context)}
    result: dict[str, Any] = {}
    if flags:
        result["TEST.TASKS"] = _changed_tasks(flags, context)
    if _RESIZED_FIRST in given:
        result[_RESIZING] = "masks" if given[_RESIZED_FIRST] else ""
    return result


def _whole_tasks(flags: Mapping[str, Any], task: str) -> tuple[str, ...]:
    if task != "panoptic":
        return (task,)  # other tasks are computed there but not evaluated
    always = () if "MODEL.MASK_FORMER.TEST.SEMANTIC_ON" in flags else ("semantic",)
    return tuple(name for key, name in _FLAGS.items() if flags.get(key) or name in always)


def _changed_tasks(flags: Mapping[str, Any], context: Context) -> tuple[str, ...]:
    tasks = set(context.ours["TEST.TASKS"] or (context.ours["TASK"],))
    for key, value in flags.items():
        if value:
            tasks.add(_FLAGS[key])
        else:
            tasks.discard(_FLAGS[key])
    if not tasks:
        key = next(iter(flags))
        task = context.ours["TASK"]
        refuse(key, flags[key], f"leaves no task to evaluate; set TEST.TASKS \"('{task}',)\"")
    order = [*_FLAGS.values(), "entity"]
    return tuple(sorted(tasks, key=order.index))


def _resizing(given: Mapping[str, Any], context: Context) -> str:
    """Return SEMANTIC_RESIZING of a whole file: masks if one of three keys is set, for any task."""
    mask_keys = (_RESIZED_FIRST, "MODEL.MASK_FORMER.TEST.PANOPTIC_ON", "MODEL.MASK_FORMER.TEST.INSTANCE_ON")
    masks = any(given.get(key) for key in mask_keys)
    if masks == (context.ours["TASK"] != "semantic"):
        return ""  # the task's default
    return "masks" if masks else "scores"


TASK_ROWS = (
    Row(
        _MAPPER_KEY,
        "`TASK`, `INPUT.AUGMENTATION`",
        "`mask_former_semantic`: semantic, semantic; `..._panoptic`: panoptic, semantic; `..._instance`: "
        "instance, semantic; `detr_panoptic`: panoptic, detr; `coco_panoptic_lsj`: panoptic, lsj; "
        "`coco_instance_lsj`: instance, lsj",
        _mapper,
    ),
    Row(
        "DATASETS.TRAIN DATASETS.TEST",
        "`DATASETS.TRAIN`, `DATASETS.TEST`",
        "in their files `coco_2017_train` is `coco_2017_train_instances`, `cityscapes_fine_sem_seg_train` is "
        "`cityscapes_sem_seg_train`, `..._panoptic_with_sem_seg` is `..._panoptic`",
        _names,
    ),
)

INPUT_ROWS = (
    Row(
        "INPUT.CROP.ENABLED INPUT.CROP.TYPE INPUT.CROP.SIZE",
        "`INPUT.CROP_SIZE`",
        "`INPUT.DETR_CROP_SIZE` with `INPUT.AUGMENTATION detr`",
        _crop,
    ),
    Row(
        "INPUT.CROP.SINGLE_CATEGORY_MAX_AREA",
        "`INPUT.CROP_SINGLE_CATEGORY_MAX`",
        "",
        same("INPUT.CROP_SINGLE_CATEGORY_MAX"),
    ),
    Row("INPUT.COLOR_AUG_SSD", "`INPUT.COLOR_AUG`", "", same("INPUT.COLOR_AUG")),
    Row(
        "INPUT.SIZE_DIVISIBILITY",
        "`INPUT.PAD_TO_CROP`",
        "`True` where it is the side of the crop, `False` for -1",
        _padding,
    ),
    Row("INPUT.RANDOM_FLIP", "`INPUT.FLIP_PROB`", "0.5 for `horizontal`, 0.0 for `none`", _flip),
    Row("INPUT.IMAGE_SIZE", "`INPUT.LSJ_SIZE`", "", same("INPUT.LSJ_SIZE")),
    Row("INPUT.MIN_SCALE INPUT.MAX_SCALE", "`INPUT.LSJ_SCALE`", "a pair", _scale),
    Row(
        "DATALOADER.FILTER_EMPTY_ANNOTATIONS",
        "`DATALOADER.FILTER_EMPTY_ANNOTATIONS`",
        "applies to every task here, to instances there; in their files it has effect with "
        "`TASK instance` and `TASK entity` only",
        _filter_empty,
    ),
    Row(
        "DATALOADER.ASPECT_RATIO_GROUPING",
        "",
        "`False` only: a batch depends on seed and iteration alone",
        ignore,
    ),
)

TEST_ROWS = (
    Row(
        f"{' '.join(_FLAGS)} {_RESIZED_FIRST}",
        f"`TEST.TASKS \"('panoptic', 'semantic')\"`, `{_RESIZING}`",
        f"files with a semantic or instance mapper test that task only; `{_RESIZING}` is `masks` where masks "
        "are resized before the semantic scores are computed",
        _tests,
    ),
)

WEIGHTS_ROW = Row(
    _WEIGHTS,
    "`MODEL.WEIGHTS`",
    "`.pkl` and `.pth` as published; `R-101.pkl` and `swin_*.pkl` in their files are replaced by the "
    "published weights that they were converted from",
    _weights,
)
