"""Training augmentations, in Detectron2's framework: policies that draw transforms, and transforms.

They see an `AugmentationInput`: `image` and the class map `sem_seg`, as Detectron2's own augmentations expect
them. Whatever is randomly drawn comes from numpy's global generator, which the mapper seeds per sample.

Letters: H, W pixels.
"""

from collections.abc import Callable, Sequence

import cv2
import numpy as np
from detectron2.config import CfgNode
from detectron2.data import transforms as T
from fvcore.transforms.transform import CropTransform, HFlipTransform, NoOpTransform, Transform, TransformList

from segzoo.errors import InputError

from .formats import IndexMap, class_map
from .messages import did_you_mean


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


def apply_to_indices(transform: Transform, indices: np.ndarray) -> np.ndarray:
    """Transforms an index map (H, W) of uint8 or uint16, both by the same nearest-pixel rule.

    Transforms are exact for 8 bits only (Detectron2's resize rounds positions otherwise for other types), so
    16 bits go through as two planes of 8.
    """
    if indices.dtype == np.uint8:
        return transform.apply_segmentation(indices)
    low = transform.apply_segmentation((indices & 255).astype(np.uint8))
    high = transform.apply_segmentation((indices >> 8).astype(np.uint8))
    return low.astype(np.uint16) | high.astype(np.uint16) << 8


def count_flips(transform: Transform) -> int:
    """How many horizontal flips there are in a transform."""
    if isinstance(transform, TransformList):
        return sum(count_flips(one) for one in transform.transforms)
    return int(isinstance(transform, HFlipTransform))


class PadTransform(Transform):
    """Pads at the right and the bottom: the image with `pad_value`, the index map with void."""

    def __init__(self, right: int, bottom: int, pad_value: int) -> None:
        super().__init__()
        self.right, self.bottom, self.pad_value = right, bottom, pad_value

    def apply_image(self, img: np.ndarray) -> np.ndarray:
        return self._pad(img, self.pad_value)

    def apply_segmentation(self, segmentation: np.ndarray) -> np.ndarray:
        return self._pad(segmentation, 0)

    def apply_coords(self, coords: np.ndarray) -> np.ndarray:
        return coords

    def _pad(self, pixels: np.ndarray, value: int) -> np.ndarray:
        height, width = pixels.shape[:2]
        shape = (height + self.bottom, width + self.right, *pixels.shape[2:])
        padded = np.full(shape, value, dtype=pixels.dtype)
        padded[:height, :width] = pixels
        return padded


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
            counts = np.bincount(crop.apply_segmentation(sem_seg).ravel(), minlength=self.ignore_label + 1)
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


class ColorJitterTransform(Transform):
    """Brightness, contrast, saturation and hue of an 8-bit image, each changed so much or not at all (None).

    Equal to the steps of Detectron2's ColorAugSSDTransform, which draws anew whenever it is applied.

    Args:
        image_format: "RGB" or "BGR".
        brightness: added to every channel.
        contrast: factor of every channel.
        saturation: factor of the saturation.
        hue: added to the hue, in units of 2 degrees.
        contrast_first: contrast before saturation and hue, or after them.
    """

    def __init__(
        self,
        image_format: str,
        brightness: float | None,
        contrast: float | None,
        saturation: float | None,
        hue: int | None,
        contrast_first: bool,
    ) -> None:
        super().__init__()
        self._set_attributes(locals())

    def apply_image(self, img: np.ndarray) -> np.ndarray:
        steps = [self._contrast, self._saturation, self._hue]
        steps = steps if self.contrast_first else [*steps[1:], steps[0]]
        img = np.ascontiguousarray(img)
        for step in (self._brightness, *steps):
            img = step(img)
        return img

    def apply_segmentation(self, segmentation: np.ndarray) -> np.ndarray:
        return segmentation

    def apply_coords(self, coords: np.ndarray) -> np.ndarray:
        return coords

    def _brightness(self, img: np.ndarray) -> np.ndarray:
        return img if self.brightness is None else cv2.LUT(img, _linear_table(1.0, self.brightness))

    def _contrast(self, img: np.ndarray) -> np.ndarray:
        return img if self.contrast is None else cv2.LUT(img, _linear_table(self.contrast, 0.0))

    def _saturation(self, img: np.ndarray) -> np.ndarray:
        if self.saturation is None:
            return img
        return self._in_hsv(img, 1, _linear_table(self.saturation, 0.0))

    def _hue(self, img: np.ndarray) -> np.ndarray:
        if self.hue is None:
            return img
        return self._in_hsv(img, 0, ((np.arange(256) + self.hue) % 180).astype(np.uint8))

    def _in_hsv(self, img: np.ndarray, channel: int, table: np.ndarray) -> np.ndarray:
        to_hsv, back = (
            (cv2.COLOR_RGB2HSV, cv2.COLOR_HSV2RGB)
            if self.image_format == "RGB"
            else (cv2.COLOR_BGR2HSV, cv2.COLOR_HSV2BGR)
        )
        tables = np.tile(np.arange(256, dtype=np.uint8)[:, None], (1, 3))
        tables[:, channel] = table
        return cv2.cvtColor(cv2.LUT(cv2.cvtColor(img, to_hsv), tables[None]), back)


def _linear_table(factor: float, offset: float) -> np.ndarray:
    """(256,) uint8: what `value * factor + offset`, clipped, is for every 8-bit value."""
    values = np.arange(256, dtype=np.float32) * np.float32(factor) + np.float32(offset)
    return np.clip(values, 0, 255).astype(np.uint8)


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
        T.ResizeScale(*cfg.INPUT.LSJ_SCALE, side, side),
        FixedCrop((side, side)),
        *_color(cfg),
        PadTo((side, side), cfg.INPUT.PAD_VALUE),
    ]


def detr_augmentations(cfg: CfgNode, ignore_label: int) -> list[T.Augmentation]:
    """Flip, then a resize by short edge; half of the time a smaller resize and a crop come before it.

    The training of DETR (arXiv:2005.12872) and of MaskFormer's panoptic models (recipe family F).
    """
    crop = [
        T.ResizeShortestEdge(list(cfg.INPUT.DETR_CROP_SHORT_EDGE), sample_style="choice"),
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
    return [T.ResizeShortestEdge([cfg.INPUT.MIN_SIZE_TEST] * 2, cfg.INPUT.MAX_SIZE_TEST or _no_limit())]


def _no_limit() -> int:
    return 1 << 30


def _resize(cfg: CfgNode) -> T.Augmentation:
    sizes = cfg.INPUT.MIN_SIZE_TRAIN
    sizes = [sizes] if isinstance(sizes, int) else list(sizes)
    style = cfg.INPUT.MIN_SIZE_TRAIN_SAMPLING
    if style == "range" and len(sizes) == 1:
        sizes *= 2
    return T.ResizeShortestEdge(sizes, cfg.INPUT.MAX_SIZE_TRAIN or _no_limit(), style)


def _color(cfg: CfgNode) -> list[T.Augmentation]:
    return [ColorJitter(cfg.INPUT.FORMAT)] if cfg.INPUT.COLOR_AUG else []
