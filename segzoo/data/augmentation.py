"""Training augmentations, in Detectron2's framework: policies that draw transforms, and lists of policies.

They see an `AugmentationInput`: `image` and the class map `sem_seg`, as Detectron2's own augmentations expect
them. Whatever is drawn at random comes from numpy's global generator; `sampling.py` seeds it per sample.

Letters: H, W pixels.
"""

from collections.abc import Callable, Sequence

import numpy as np
from detectron2.config import CfgNode
from detectron2.data import transforms as T
from fvcore.transforms.transform import CropTransform, NoOpTransform, Transform

from segzoo.errors import InputError

from .formats import IndexMap, class_map
from .messages import did_you_mean
from .pixels import count_values
from .transforms import ColorJitterTransform, PadTransform, apply_to_indices, at_least_one_pixel


class AugmentationInput(T.AugInput):
    """What augmentations look at and transform: the image and its index map.

    Args:
        image: (H, W, 3) uint8.
        index_map: the annotation, or None.
        ignore_label: of void in `sem_seg`.
    """

    def __init__(self, image: np.ndarray, index_map: IndexMap | None = None, ignore_label: int = 255) -> None:
        self.image = image
        self.index_map = index_map
        self.ignore_label = ignore_label
        self.boxes = None

    @property
    def sem_seg(self) -> np.ndarray | None:
        """(H, W) class of every pixel, uint8, or uint16 where the ignore label needs it."""
        if self.index_map is None:
            return None
        return class_map(self.index_map, self.ignore_label, np.min_scalar_type(self.ignore_label))

    def transform(self, tfm: Transform) -> None:
        """Applies a transform to the image and the index map."""
        self.image = tfm.apply_image(self.image)
        if self.index_map is not None:
            indices = apply_to_indices(tfm, self.index_map.indices)
            self.index_map = self.index_map._replace(indices=indices)


class ResizeShortestEdge(T.ResizeShortestEdge):
    """Detectron2's, but a very thin image keeps one pixel where rounding would leave none."""

    def get_transform(self, image: np.ndarray) -> Transform:
        return at_least_one_pixel(super().get_transform(image))


class ResizeScale(T.ResizeScale):
    """Detectron2's, but a very thin image keeps one pixel where rounding would leave none."""

    def get_transform(self, image: np.ndarray) -> Transform:
        return at_least_one_pixel(super().get_transform(image))


class PadTo(T.Augmentation):
    """Pads a smaller image to `size` (height, width); a larger one stays."""

    def __init__(self, size: Sequence[int], pad_value: int = 128) -> None:
        super().__init__()
        self.size, self.pad_value = tuple(size), pad_value

    def get_transform(self, image: np.ndarray) -> Transform:
        bottom, right = (
            max(0, wanted - there) for wanted, there in zip(self.size, image.shape, strict=False)
        )
        return PadTransform(right, bottom, self.pad_value) if bottom or right else NoOpTransform()


class CategoryCappedCrop(T.RandomCrop):
    """Random crop that is redrawn, 10 times at most, while one category has too large a share of it.

    Detectron2's RandomCrop_CategoryAreaConstraint with the same draws, counting pixels by histogram.

    Args:
        size: (height, width) in pixels; a smaller image is not cropped along that side.
        max_share: largest share of one category among the pixels that are not void; 1 for any.
        ignore_label: void in `sem_seg`.
    """

    tries = 10

    def __init__(self, size: Sequence[int], max_share: float = 1.0, ignore_label: int = 255) -> None:
        super().__init__("absolute", tuple(size))
        self.size, self.max_share, self.ignore_label = tuple(size), max_share, ignore_label
        # Without a cap the class map is not needed, and so not made.
        self.input_args = ("image", "sem_seg") if max_share < 1.0 else ("image",)

    def get_transform(self, image: np.ndarray, sem_seg: np.ndarray | None = None) -> Transform:
        if sem_seg is None:
            return super().get_transform(image)
        for _ in range(self.tries):
            crop = super().get_transform(image)
            counts = count_values(crop.apply_segmentation(sem_seg))
            counts[self.ignore_label] = 0
            if np.count_nonzero(counts) > 1 and counts.max() < counts.sum() * self.max_share:
                break
        return crop


class FixedCrop(T.Augmentation):
    """Crops to `size` (height, width) at a random place along the diagonal, as large-scale jitter does.

    Where Detectron2's FixedSizeCrop also pads, `PadTo` does it here, so that padded labels are void.
    """

    def __init__(self, size: Sequence[int]) -> None:
        super().__init__()
        self.size = tuple(size)

    def get_transform(self, image: np.ndarray) -> Transform:
        spare = np.maximum(np.subtract(image.shape[:2], self.size), 0)
        top, left = np.round(spare * np.random.uniform(0.0, 1.0)).astype(int)
        return CropTransform(int(left), int(top), self.size[1], self.size[0])


class EitherOf(T.Augmentation):
    """One of two lists of augmentations, each half of the time."""

    def __init__(self, first: Sequence[T.Augmentation], second: Sequence[T.Augmentation]) -> None:
        super().__init__()
        self.first, self.second = T.AugmentationList(first), T.AugmentationList(second)

    def __call__(self, aug_input: T.AugInput) -> Transform:
        return (self.first if np.random.rand() > 0.5 else self.second)(aug_input)


class ColorJitter(T.Augmentation):
    """The colour jitter of SSD (arXiv:1512.02325): each of four changes is made half of the time.

    Args:
        image_format: "RGB" or "BGR".
        brightness: largest offset, of 255.
        contrast, saturation: range of the factor.
        hue: largest offset, in units of 2 degrees.
    """

    def __init__(
        self,
        image_format: str,
        brightness: float = 32.0,
        contrast: tuple[float, float] = (0.5, 1.5),
        saturation: tuple[float, float] = (0.5, 1.5),
        hue: int = 18,
    ) -> None:
        super().__init__()
        self._init(locals())

    def get_transform(self, image: np.ndarray) -> Transform:
        made = np.random.randint(2, size=5).astype(bool)
        brightness = np.random.uniform(-self.brightness, self.brightness)
        contrast, saturation = np.random.uniform(*self.contrast), np.random.uniform(*self.saturation)
        hue = np.random.randint(-self.hue, self.hue + 1)
        return ColorJitterTransform(
            self.image_format,
            brightness if made[0] else None,
            contrast if made[1] else None,
            saturation if made[2] else None,
            hue if made[3] else None,
            contrast_first=bool(made[4]),
        )


def semantic_augmentations(cfg: CfgNode, ignore_label: int) -> list[T.Augmentation]:
    """Resize by short edge, crop with a cap on one category, colour jitter, flip, padding to the crop's size.

    The training of MaskFormer's semantic models (recipe family E).
    """
    augmentations: list[T.Augmentation] = [_resize(cfg)]
    if cfg.INPUT.CROP_SIZE:
        crop = CategoryCappedCrop(cfg.INPUT.CROP_SIZE, cfg.INPUT.CROP_SINGLE_CATEGORY_MAX, ignore_label)
        augmentations.append(crop)
    augmentations += [*_color(cfg), T.RandomFlip(cfg.INPUT.FLIP_PROB)]
    if cfg.INPUT.CROP_SIZE and cfg.INPUT.PAD_TO_CROP:
        augmentations.append(PadTo(cfg.INPUT.CROP_SIZE, cfg.INPUT.PAD_VALUE))
    return augmentations


def lsj_augmentations(cfg: CfgNode, ignore_label: int) -> list[T.Augmentation]:
    """Large-scale jitter (arXiv:2012.07177): flip, resize by a wide range, crop and pad to a square."""
    side = cfg.INPUT.LSJ_SIZE
    return [
        T.RandomFlip(cfg.INPUT.FLIP_PROB),
        ResizeScale(*cfg.INPUT.LSJ_SCALE, side, side),
        FixedCrop((side, side)),
        *_color(cfg),
        PadTo((side, side), cfg.INPUT.PAD_VALUE),
    ]


def detr_augmentations(cfg: CfgNode, ignore_label: int) -> list[T.Augmentation]:
    """Flip, then a resize by short edge; half of the time a smaller resize and a crop come before it.

    The training of DETR (arXiv:2005.12872) and of MaskFormer's panoptic models (recipe family F).
    """
    crop = [
        ResizeShortestEdge(list(cfg.INPUT.DETR_CROP_SHORT_EDGE), sample_style="choice"),
        T.RandomCrop("absolute_range", tuple(cfg.INPUT.DETR_CROP_SIZE)),
    ]
    return [
        T.RandomFlip(cfg.INPUT.FLIP_PROB),
        EitherOf([_resize(cfg)], [*crop, _resize(cfg)]),
        *_color(cfg),
    ]


FAMILIES: dict[str, Callable[[CfgNode, int], list[T.Augmentation]]] = {
    "semantic": semantic_augmentations,
    "lsj": lsj_augmentations,
    "detr": detr_augmentations,
}


def build_train_augmentations(cfg: CfgNode, ignore_label: int) -> list[T.Augmentation]:
    """The augmentations of INPUT.AUGMENTATION.

    Raises:
        InputError: unknown family.
    """
    family = cfg.INPUT.AUGMENTATION
    if family not in FAMILIES:
        raise InputError(
            f"INPUT.AUGMENTATION {family!r} is unknown{did_you_mean(family, FAMILIES)}; "
            f"known: {', '.join(FAMILIES)}"
        )
    return FAMILIES[family](cfg, ignore_label)


def build_test_augmentations(cfg: CfgNode) -> list[T.Augmentation]:
    """The resize of evaluation: short edge INPUT.MIN_SIZE_TEST (0: none), long edge at most MAX_SIZE_TEST."""
    if cfg.INPUT.MIN_SIZE_TEST == 0:
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
