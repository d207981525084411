"""Training augmentations: families, each a list of policies configured by the keys of INPUT.

A family is the order of steps of a recipe; the policies are in policies.py (for any recipe) and recipes.py
(semseg, GluonCV, SegFormer).
"""

from collections.abc import Callable, Sequence
from functools import partial

from detectron2.config import CfgNode
from detectron2.data import transforms as T

from segzoo.utils.errors import InputError
from segzoo.utils.text import did_you_mean

from .policies import (
    AugmentationInput,
    CategoryCappedCrop,
    ColorJitter,
    EitherOf,
    FixedCrop,
    PadTo,
    RandomCrop,
    RandomFlip,
    ResizeScale,
    ResizeShortestEdge,
)
from .recipes import GaussianBlur, RandomRotation, RescaleImage, ResizeEdge, ResizeWithin
from .transforms import PadValue

__all__ = [
    "FAMILIES",
    "AugmentationInput",
    "CategoryCappedCrop",
    "ColorJitter",
    "EitherOf",
    "FixedCrop",
    "PadTo",
    "ResizeScale",
    "ResizeShortestEdge",
    "build_test_augmentations",
    "build_train_augmentations",
]


def semantic_augmentations(cfg: CfgNode, ignore_label: int) -> list[T.Augmentation]:
    """Return the augmentations of MaskFormer's semantic models.

    Resize by short edge, crop with a cap on the share of a category, jitter colors, flip, pad to crop size.
    """
    augmentations: list[T.Augmentation] = [_resize(cfg)]
    if cfg.INPUT.CROP_SIZE:
        crop = CategoryCappedCrop(cfg.INPUT.CROP_SIZE, cfg.INPUT.CROP_SINGLE_CATEGORY_MAX, ignore_label)
        augmentations.append(crop)
    augmentations += [*_color(cfg), RandomFlip(cfg.INPUT.FLIP_PROB)]
    if cfg.INPUT.CROP_SIZE and cfg.INPUT.PAD_TO_CROP:
        augmentations.append(_pad_to(cfg, cfg.INPUT.CROP_SIZE))
    return augmentations


def lsj_augmentations(cfg: CfgNode, ignore_label: int) -> list[T.Augmentation]:
    """Return large-scale jitter (arXiv:2012.07177): flip, resize by a wide range, crop, pad to a square."""
    side = cfg.INPUT.LSJ_SIZE
    return [
        RandomFlip(cfg.INPUT.FLIP_PROB),
        ResizeScale(*cfg.INPUT.LSJ_SCALE, side, side),
        FixedCrop((side, side)),
        *_color(cfg),
        _pad_to(cfg, (side, side)),
    ]


def padded_lsj_augmentations(cfg: CfgNode, ignore_label: int) -> list[T.Augmentation]:
    """Return large-scale jitter with the flip last, so that the padding may be on the left (Detectron2)."""
    flip, *others = lsj_augmentations(cfg, ignore_label)
    return [*others, flip]


def detr_augmentations(cfg: CfgNode, ignore_label: int) -> list[T.Augmentation]:
    """Return the augmentations of DETR (arXiv:2005.12872) and of MaskFormer's panoptic models.

    Flip, then resize by short edge; with probability 1/2 preceded by a smaller resize and a crop.
    """
    crop = [
        ResizeShortestEdge(list(cfg.INPUT.DETR_CROP_SHORT_EDGE), sample_style="choice"),
        RandomCrop("absolute_range", tuple(cfg.INPUT.DETR_CROP_SIZE)),
    ]
    return [
        RandomFlip(cfg.INPUT.FLIP_PROB),
        EitherOf([_resize(cfg)], [*crop, _resize(cfg)]),
        *_color(cfg),
    ]


def semseg_augmentations(cfg: CfgNode, ignore_label: int) -> list[T.Augmentation]:
    """Return the augmentations of semseg's PSPNet and PSANet.

    Resize by a factor, rotate, blur, flip, crop with padding on all sides.
    """
    keys = cfg.INPUT
    return [
        RescaleImage(keys.SCALE_RANGE),
        T.RandomApply(RandomRotation(keys.ROTATION, tuple(cfg.MODEL.PIXEL_MEAN)), keys.ROTATION_PROB),
        T.RandomApply(GaussianBlur(kernel=keys.BLUR_KERNEL), keys.BLUR_PROB),
        RandomFlip(keys.FLIP_PROB),
        _pad_to(cfg, _crop_size(cfg), centered=True),
        CategoryCappedCrop(_crop_size(cfg), keys.CROP_SINGLE_CATEGORY_MAX, ignore_label),
    ]


def gluon_augmentations(cfg: CfgNode, ignore_label: int, edge: str) -> list[T.Augmentation]:
    """Return the augmentations of GluonCV (by the long edge) and pytorch-cv (by the short edge).

    Flip, resize one edge to a random length, crop with padding at the right and the bottom, blur.
    """
    keys = cfg.INPUT
    return [
        RandomFlip(keys.FLIP_PROB),
        ResizeEdge(keys.BASE_SIZE, keys.SCALE_RANGE, edge),
        _pad_to(cfg, _crop_size(cfg)),
        CategoryCappedCrop(_crop_size(cfg), keys.CROP_SINGLE_CATEGORY_MAX, ignore_label),
        T.RandomApply(GaussianBlur(sigma=keys.BLUR_RADIUS), keys.BLUR_PROB),
    ]


def segformer_augmentations(cfg: CfgNode, ignore_label: int) -> list[T.Augmentation]:
    """Return the augmentations of SegFormer (arXiv:2105.15203) and MMSegmentation.

    Resize to fit into a random box, crop with a cap on the share of a category, flip, color jitter, pad.
    """
    keys = cfg.INPUT
    return [
        ResizeWithin((keys.MAX_SIZE_TRAIN, keys.BASE_SIZE), keys.SCALE_RANGE),
        CategoryCappedCrop(_crop_size(cfg), keys.CROP_SINGLE_CATEGORY_MAX, ignore_label),
        RandomFlip(keys.FLIP_PROB),
        *_color(cfg),
        _pad_to(cfg, _crop_size(cfg)),
    ]


FAMILIES: dict[str, Callable[[CfgNode, int], list[T.Augmentation]]] = {
    "semantic": semantic_augmentations,
    "lsj": lsj_augmentations,
    "lsj_padded": padded_lsj_augmentations,
    "detr": detr_augmentations,
    "semseg": semseg_augmentations,
    "gluon_short": partial(gluon_augmentations, edge="short"),
    "gluon_long": partial(gluon_augmentations, edge="long"),
    "segformer": segformer_augmentations,
}


def find_family(name: str) -> Callable[[CfgNode, int], list[T.Augmentation]]:
    """Return the family of that name, a value of INPUT.AUGMENTATION.

    Raises:
        InputError: there is none.
    """
    if name not in FAMILIES:
        raise InputError(
            f"INPUT.AUGMENTATION {name!r} is unknown{did_you_mean(name, FAMILIES)}; "
            f"known: {', '.join(FAMILIES)}"
        )
    return FAMILIES[name]


def build_train_augmentations(cfg: CfgNode, ignore_label: int) -> list[T.Augmentation]:
    """Return the augmentations of INPUT.AUGMENTATION.

    Raises:
        InputError: unknown family.
    """
    return find_family(cfg.INPUT.AUGMENTATION)(cfg, ignore_label)


def has_one_size(cfg: CfgNode) -> bool:
    """Return whether all training images have the same size after augmentation, as far as is known."""
    if cfg.INPUT.AUGMENTATION in ("lsj", "lsj_padded"):
        return True
    padded = cfg.INPUT.PAD_TO_CROP or cfg.INPUT.AUGMENTATION != "semantic"
    return bool(cfg.INPUT.CROP_SIZE) and padded and cfg.INPUT.AUGMENTATION != "detr"


def build_test_augmentations(cfg: CfgNode) -> list[T.Augmentation]:
    """Return the resize of evaluation, or nothing for a TEST.PROTOCOL that resizes by itself.

    The short edge becomes INPUT.MIN_SIZE_TEST (0: no resize), the long edge at most MAX_SIZE_TEST.
    """
    if cfg.INPUT.MIN_SIZE_TEST == 0 or cfg.TEST.PROTOCOL not in ("", "maskformer_tta"):
        return []
    return [ResizeShortestEdge([cfg.INPUT.MIN_SIZE_TEST] * 2, cfg.INPUT.MAX_SIZE_TEST or _no_limit())]


def _no_limit() -> int:
    return 1 << 30


def _resize(cfg: CfgNode) -> T.Augmentation:
    sizes = cfg.INPUT.MIN_SIZE_TRAIN
    sizes = [sizes] if isinstance(sizes, int) else list(sizes)
    style = cfg.INPUT.MIN_SIZE_TRAIN_SAMPLING
    if style == "range" and len(sizes) == 1:
        sizes *= 2
    return ResizeShortestEdge(sizes, cfg.INPUT.MAX_SIZE_TRAIN or _no_limit(), style)


def _color(cfg: CfgNode) -> list[T.Augmentation]:
    return [ColorJitter(cfg.INPUT.FORMAT)] if cfg.INPUT.COLOR_AUG else []


def _crop_size(cfg: CfgNode) -> tuple[int, int]:
    size = tuple(cfg.INPUT.CROP_SIZE)
    if len(size) != 2:
        raise InputError(
            f"INPUT.CROP_SIZE {list(size)}: INPUT.AUGMENTATION {cfg.INPUT.AUGMENTATION} needs (height, width)"
        )
    return size


def _pad_to(cfg: CfgNode, size: Sequence[int], *, centered: bool = False) -> PadTo:
    keys = cfg.INPUT
    # `PadTransform` rounds the image's value to 8 bits.
    value: PadValue = tuple(cfg.MODEL.PIXEL_MEAN) if keys.PAD_WITH_MEAN else keys.PAD_VALUE
    # The semantic label of class k has the index k + 1, void has 0.
    return PadTo(size, value, centered=centered, index=keys.PAD_LABEL + 1)
