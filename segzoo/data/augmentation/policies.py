"""Augmentation policies for any recipe, in Detectron2's framework.

They see an `AugmentationInput` with `image` and the class map `sem_seg`, as Detectron2's augmentations do.
Random numbers come from numpy's global generator, which `sampling.py` seeds per sample.

Shape shorthand: H, W pixels.
"""

from collections.abc import Callable, Sequence

import numpy as np
from detectron2.data import transforms as T
from fvcore.transforms.transform import CropTransform, NoOpTransform, Transform

from ..label_ops import count_values
from ..label_reader import IndexMap, class_map, class_table
from .transforms import ColorJitterTransform, PadTransform, PadValue, PendingPixels, at_least_one_pixel


class AugmentationInput(T.AugInput):
    """An image and its index map, which augmentations transform together.

    Args:
        image: (H, W, 3) uint8.
        index_map: the annotation; or a function that reads it, called when it is first needed; or None.
        ignore_label: label of void in `sem_seg`.
    """

    def __init__(
        self,
        image: np.ndarray,
        index_map: IndexMap | Callable[[], IndexMap] | None = None,
        ignore_label: int = 255,
    ) -> None:
        self._image = PendingPixels(image)
        self.ignore_label = ignore_label
        self.boxes = None
        self._source = index_map
        self._labels: tuple[IndexMap, PendingPixels] | None = None
        # Transforms of the image that the labels have not had.
        self._applied: list[Transform] = []

    @property
    def image(self) -> np.ndarray:
        """(H, W, 3) uint8."""
        return self._image.pixels

    @image.setter
    def image(self, image: np.ndarray) -> None:
        self._image = PendingPixels(image)

    @property
    def blank(self) -> np.ndarray:
        """A black image of the size of `image`, without memory, for policies that look at the size alone."""
        return self._image.blank

    @property
    def index_map(self) -> IndexMap | None:
        """The transformed annotation."""
        labels = self._pending_labels()
        return None if labels is None else labels[0]._replace(indices=labels[1].pixels)

    @index_map.setter
    def index_map(self, index_map: IndexMap | None) -> None:
        self._source, self._labels, self._applied = index_map, None, []

    @property
    def sem_seg(self) -> np.ndarray | None:
        """(H, W) class of every pixel, uint8, or uint16 if the ignore label needs it."""
        index_map = self.index_map
        if index_map is None:
            return None
        return class_map(index_map, self.ignore_label, np.min_scalar_type(self.ignore_label))

    @property
    def has_labels(self) -> bool:
        """Whether there is an index map."""
        return self._source is not None

    def class_counts(self, crop: CropTransform) -> np.ndarray:
        """Return the number of pixels of each value of `sem_seg` in a crop."""
        labels = self._pending_labels()
        assert labels is not None
        counts = count_values(labels[1].crop(crop))
        classes = class_table(labels[0], self.ignore_label, np.min_scalar_type(self.ignore_label))
        return np.bincount(classes, counts, np.iinfo(classes.dtype).max + 1).astype(np.int64)

    def transform(self, tfm: Transform) -> None:
        """Apply a transform to the image and the index map."""
        self._image.transform(tfm)
        if self._source is not None:
            self._applied.append(tfm)

    def _pending_labels(self) -> tuple[IndexMap, PendingPixels] | None:
        if self._labels is None and self._source is not None:
            index_map = self._source() if callable(self._source) else self._source
            self._labels = index_map, PendingPixels(index_map.indices, are_indices=True)
        if self._labels is not None:
            for tfm in self._applied:
                self._labels[1].transform(tfm)
            self._applied = []
        return self._labels


class BySize(T.Augmentation):
    """Base class of policies that look at the size of an image alone, so that its resize may be pending.

    A class derived from such a policy, with a `get_transform` of its own, sees the pixels, unless it names
    BySize among its bases.
    """

    sees_pixels = False

    def __init_subclass__(cls, **kwargs) -> None:
        super().__init_subclass__(**kwargs)
        if BySize in cls.__bases__:
            cls.sees_pixels = False
        elif "get_transform" in vars(cls):
            cls.sees_pixels = True

    def __call__(self, aug_input: T.AugInput) -> Transform:
        if self.sees_pixels or not isinstance(aug_input, AugmentationInput):
            return super().__call__(aug_input)
        tfm = self.get_transform(aug_input.blank)
        aug_input.transform(tfm)
        return tfm


class RandomFlip(BySize, T.RandomFlip):
    """Detectron2's RandomFlip."""


class RandomCrop(BySize, T.RandomCrop):
    """Detectron2's RandomCrop."""


class ResizeShortestEdge(BySize, T.ResizeShortestEdge):
    """Detectron2's ResizeShortestEdge, with sides of at least one pixel."""

    def get_transform(self, image: np.ndarray) -> Transform:
        return at_least_one_pixel(super().get_transform(image))


class ResizeScale(BySize, T.ResizeScale):
    """Detectron2's ResizeScale, with sides of at least one pixel."""

    def get_transform(self, image: np.ndarray) -> Transform:
        return at_least_one_pixel(super().get_transform(image))


class PadTo(BySize):
    """Pads sides that are smaller than `size` (height, width).

    Args:
        pad_value: value for the image, one number or one per channel.
        centered: pad on all sides (an odd pixel at the right or bottom), instead of right and bottom only.
        index: value for the index map, 0 for void.
    """

    def __init__(
        self, size: Sequence[int], pad_value: PadValue = 128, centered: bool = False, index: int = 0
    ) -> None:
        super().__init__()
        self.size, self.pad_value, self.centered = tuple(size), pad_value, centered
        self.index = index

    def get_transform(self, image: np.ndarray) -> Transform:
        height, width = (
            max(0, wanted - there) for wanted, there in zip(self.size, image.shape, strict=False)
        )
        if not height and not width:
            return NoOpTransform()
        top, left = (height // 2, width // 2) if self.centered else (0, 0)
        return PadTransform(width - left, height - top, self.pad_value, left, top, index=self.index)


class CategoryCappedCrop(T.RandomCrop):
    """Random crop that is drawn up to 10 times until no category has too large a share of it.

    Equal to Detectron2's RandomCrop_CategoryAreaConstraint, with the same draws; counts pixels by histogram.

    Args:
        size: (height, width) in pixels; a smaller image is not cropped along that side.
        max_share: largest share of one category among the pixels that are not void; 1 for any.
        ignore_label: void in `sem_seg`.
    """

    tries = 10

    def __init__(self, size: Sequence[int], max_share: float = 1.0, ignore_label: int = 255) -> None:
        super().__init__("absolute", tuple(size))
        self.size, self.max_share, self.ignore_label = tuple(size), max_share, ignore_label
        # Without a cap the class map is not needed, so it is not computed.
        self.input_args = ("image", "sem_seg") if max_share < 1.0 else ("image",)

    def __call__(self, aug_input: T.AugInput) -> Transform:
        if not isinstance(aug_input, AugmentationInput):
            return super().__call__(aug_input)
        needs_classes = self.max_share < 1.0 and aug_input.has_labels
        crop = self._draw(aug_input.blank, aug_input.class_counts if needs_classes else None)
        aug_input.transform(crop)
        return crop

    def get_transform(self, image: np.ndarray, sem_seg: np.ndarray | None = None) -> Transform:
        if sem_seg is None:
            return self._draw(image, None)
        return self._draw(image, lambda crop: count_values(crop.apply_segmentation(sem_seg)))

    def _draw(
        self, image: np.ndarray, counts_in: Callable[[CropTransform], np.ndarray] | None
    ) -> CropTransform:
        for _ in range(self.tries):
            crop = super().get_transform(image)
            if counts_in is None:
                break
            counts = counts_in(crop)
            counts[self.ignore_label] = 0
            if np.count_nonzero(counts) > 1 and counts.max() < counts.sum() * self.max_share:
                break
        return crop


class FixedCrop(BySize):
    """Crops to `size` (height, width) at a random position along the diagonal, as large-scale jitter does.

    Unlike Detectron2's FixedSizeCrop it does not pad; `PadTo` does, and pads labels with void.
    """

    def __init__(self, size: Sequence[int]) -> None:
        super().__init__()
        self.size = tuple(size)

    def get_transform(self, image: np.ndarray) -> Transform:
        spare = np.maximum(np.subtract(image.shape[:2], self.size), 0)
        top, left = np.round(spare * np.random.uniform(0.0, 1.0)).astype(int)
        return CropTransform(int(left), int(top), self.size[1], self.size[0])


class EitherOf(T.Augmentation):
    """One of two lists of augmentations, each with probability 1/2."""

    def __init__(self, first: Sequence[T.Augmentation], second: Sequence[T.Augmentation]) -> None:
        super().__init__()
        self.first, self.second = T.AugmentationList(first), T.AugmentationList(second)

    def __call__(self, aug_input: T.AugInput) -> Transform:
        return (self.first if np.random.rand() > 0.5 else self.second)(aug_input)


class ColorJitter(BySize):
    """The color jitter of SSD (arXiv:1512.02325): four changes, each applied with probability 1/2.

    Args:
        image_format: "RGB" or "BGR".
        brightness: largest offset, in 0..255.
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
