"""Translate base files of version 0.1, for configurations that still list them.

In that version `datasets/` also held sizes and learning rates, `recipes/` was `schedules/`, and methods set
the norm of their backbone. A list of bases that names a removed file keeps the meaning it had.
"""

import re
from collections.abc import Sequence
from pathlib import PurePath
from typing import Any

_SIZES = {
    "ade20k": "maskformer/crops",
    "camvid": "maskformer/camvid",
    "coco_entity": "maskformer/coco",
    "coco_instance": "mask2former/coco_50ep",
    "coco_panoptic": "maskformer/coco",
    "shapes": "segzoo/shapes",
    "shapes_semantic": "segzoo/shapes",
}
# Former file: (dataset, recipe).
_DATASETS = {
    "ade20k_512": ("ade20k", "maskformer/ade20k_512"),
    "ade20k_640": ("ade20k", "maskformer/ade20k_640"),
    "ade20k_full_512": ("ade20k_full", "maskformer/ade20k_full"),
    "ade20k_gluon_long": ("ade20k", "gluoncv/ade20k"),
    "ade20k_instance_640": ("ade20k_instance", "mask2former/ade20k_640"),
    "ade20k_mmseg": ("ade20k", "upernet/ade20k"),
    "ade20k_panoptic_640": ("ade20k_panoptic", "maskformer/ade20k_640"),
    "ade20k_segformer": ("ade20k", "segformer/ade20k"),
    "ade20k_segformer_640": ("ade20k", "segformer/ade20k_640"),
    "ade20k_semseg": ("ade20k", "semseg/ade20k"),
    "camvid_segformer": ("camvid", "segformer/camvid"),
    "cityscapes_512x1024": ("cityscapes", "maskformer/cityscapes"),
    "cityscapes_gluon_long": ("cityscapes", "gluoncv/cityscapes"),
    "cityscapes_gluon_short": ("cityscapes", "pytorch_cv/cityscapes"),
    "cityscapes_instance_512x1024": ("cityscapes_instance", "mask2former/cityscapes"),
    "cityscapes_mmseg": ("cityscapes", "upernet/cityscapes"),
    "cityscapes_panoptic_512x1024": ("cityscapes_panoptic", "mask2former/cityscapes"),
    "cityscapes_segformer": ("cityscapes", "segformer/cityscapes"),
    "cityscapes_semseg": ("cityscapes", "semseg/cityscapes"),
    "cityscapes_vplr": ("cityscapes", "vplr/cityscapes"),
    "coco_21_gluon_long": ("coco_21", "gluoncv/coco_21"),
    "coco_21_torchvision": ("coco_21", "torchvision/coco_21"),
    "coco_entity_lsj": ("coco_entity", "mask2former/coco_50ep"),
    "coco_instance_lsj": ("coco_instance", "mask2former/coco_50ep"),
    "coco_panoptic_lsj": ("coco_panoptic", "mask2former/coco_50ep"),
    "coco_stuff_10k_640": ("coco_stuff_10k", "maskformer/coco_stuff_10k"),
    "coco_stuff_segformer": ("coco_stuff", "segformer/coco_stuff"),
    "mapillary_vistas_1024": ("mapillary_vistas", "mask2former/mapillary_vistas"),
    "mapillary_vistas_1280": ("mapillary_vistas", "maskformer/mapillary_vistas"),
    "mapillary_vistas_panoptic_1024": ("mapillary_vistas_panoptic", "mask2former/mapillary_vistas"),
    "pascal_context_gluon_short": ("pascal_context", "pytorch_cv/pascal_context"),
    "voc_2012_gluon_long": ("voc_2012", "gluoncv/voc_2012"),
    "voc_2012_gluon_short": ("voc_2012", "pytorch_cv/voc_2012"),
    "voc_2012_gluon_trainval": ("voc_2012_trainval", "gluoncv/voc_2012_trainval"),
    "voc_2012_semseg": ("voc_2012", "semseg/voc_2012"),
    **{name: (name, recipe) for name, recipe in _SIZES.items()},
}
_SCHEDULES = {
    "adamw_mask2former": "mask2former/recipe",
    "adamw_resnet": "maskformer/recipe_resnet",
    "adamw_swin": "maskformer/recipe_swin",
    "recipe_a_semseg": "semseg/recipe",
    "recipe_b_gluon": "pytorch_cv/recipe",
    "recipe_c_gluon": "gluoncv/recipe",
    "recipe_d_segformer": "segformer/recipe",
    "recipe_d_upernet": "upernet/recipe",
    "recipe_torchvision": "torchvision/recipe",
    "recipe_vplr": "vplr/recipe",
}
# Name: (batch size, iterations, steps).
_STEPS = {
    "step_100ep_bs16": (16, 737500, "(655556, 710184)"),
    "step_50ep_bs16": (16, 368750, "(327778, 355092)"),
    "step_554k_bs64": (64, 554400, "(369600,)"),
}
_POLY = re.compile(r"poly_(\d+)k_bs(\d+)")
# The norm of the backbone is now set by the backbone's file.
_NORM = {"MODEL": {"BACKBONE": {"NORM": "SyncBN"}}}
_WITH_NORM = re.compile(r"(bisenet|ccnet|danet|deeplabv3|deeplabv3plus|fcn|ocnet|psanet|pspnet)(_.+)?")

Base = str | dict[str, Any]

# Keys of a schedule that a method now sets.
_BESIDE: dict[str, list[Base]] = {
    "recipe_torchvision": [{"MODEL": {"SEM_SEG_HEAD": {"ALIGN_CORNERS": False}}}]
}


def is_former(bases: Sequence[Base]) -> bool:
    """Return whether base files are from version 0.1: one was removed, or a dataset has no recipe."""
    places = [_place(base) for base in bases]
    recipes = any("/_base_/recipes/" in f"/{base}" for base in bases)
    return any(
        folder == "schedules"
        or (folder == "datasets" and name in _DATASETS and not (name in _SIZES and recipes))
        for folder, name in places
    )


def present_bases(bases: Sequence[Base]) -> tuple[list[Base], list[str]]:
    """Translate base files of version 0.1.

    Args:
        bases: paths in their order, such as `../../_base_/schedules/adamw_resnet.yaml`.

    Returns:
        Paths, and nested keys that are in no file, in the order of merging; and for each changed path a line
        that says what to write instead.
    """
    sizes: list[Base] = []
    result: list[Base] = []
    changes = []
    for base in bases:
        folder, name = _place(base)
        now = _translated(folder, name)
        if now is None:
            result.append(base)
            continue
        assert isinstance(base, str)
        root = base[: base.rindex(f"{folder}/{name}")]
        parts = [part if isinstance(part, dict) else f"{root}{part}.yaml" for part in now]
        if folder == "datasets" and name in _SIZES:
            sizes.append(parts.pop())  # a guess, which any other file in the list overrides
        result += parts
        files = [f"{part}.yaml" for part in now if isinstance(part, str)]
        if files != [f"{folder}/{name}.yaml"]:
            changes.append(f"{folder}/{name}.yaml is now {' and '.join(files) or _keys(now[0])}")
    return [*sizes, *result], changes


def _place(base: Base) -> tuple[str, str]:
    """Return the folder below `_base_` and the name of a base file; ("", "") for other files."""
    if not isinstance(base, str):
        return "", ""
    parts = PurePath(base).with_suffix("").parts
    return (parts[-2], parts[-1]) if len(parts) > 2 and parts[-3] == "_base_" else ("", "")


def _translated(folder: str, name: str) -> list[Base] | None:
    if folder == "datasets" and name in _DATASETS:
        dataset, recipe = _DATASETS[name]
        return [f"datasets/{dataset}", f"recipes/{recipe}"]
    if folder == "methods" and _WITH_NORM.fullmatch(name):
        return [_NORM, f"methods/{name}"]
    if folder == "schedules" and name in _SCHEDULES:
        return [f"recipes/{_SCHEDULES[name]}", *_BESIDE.get(name, [])]
    if folder == "schedules" and name in _STEPS:
        batch, iterations, steps = _STEPS[name]
        return [_solver(batch, iterations, LR_SCHEDULER_NAME="WarmupMultiStepLR", STEPS=steps)]
    if folder == "schedules" and (match := _POLY.fullmatch(name)):
        iterations, batch = int(match[1]) * 1000, int(match[2])
        return [_solver(batch, iterations, LR_SCHEDULER_NAME="WarmupPolyLR", POLY_LR_POWER=0.9)]
    return None


def _solver(batch: int, iterations: int, **schedule: Any) -> dict[str, Any]:
    return {"SOLVER": {"IMS_PER_BATCH": batch, "MAX_ITER": iterations, **schedule}}


def _keys(keys: Base) -> str:
    solver = keys["SOLVER"] if isinstance(keys, dict) else {}
    return "SOLVER: {" + ", ".join(f"{key}: {value}" for key, value in solver.items()) + "}"
