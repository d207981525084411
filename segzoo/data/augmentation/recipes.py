"""Policies of the recipes of semseg, GluonCV and SegFormer; their order stands in augmentation.py."""

from collections.abc import Sequence

import numpy as np
from detectron2.data import transforms as T
from detectron2.data.transforms import ResizeTransform
from fvcore.transforms.transform import Transform

from segzoo.utils.errors import InputError

from .transforms import GaussianBlurTransform, OpenCVResizeTransform, RotateInPlaceTransform


class RescaleImage(T.Augmentation):
    """Multiplies both sides by one factor drawn uniformly from `scale_range` (semseg)."""

    def __init__(self, scale_range: Sequence[float]) -> None:
        super().__init__()
        self.scale_range = _ascending("INPUT.SCALE_RANGE", scale_range)

    def get_transform(self, image: np.ndarray) -> Transform:
        factor = np.random.uniform(*self.scale_range)
        # Python's rounding, to the even number, is that of OpenCV when it is given factors.
        return OpenCVResizeTransform(*(round(side * factor) for side in image.shape[:2]))


class ResizeEdge(T.Augmentation):
    """Resizes so that one edge has a length drawn uniformly from the integers of a range (GluonCV).

    Bilinear as Pillow does it, which smooths where it shrinks.

    Args:
        base_size: pixels.
        scale_range: the length is at least int(first * base_size) and at most int(second * base_size).
        edge: "short" or "long".
    """

    def __init__(self, base_size: int, scale_range: Sequence[float], edge: str) -> None:
        super().__init__()
        self.lengths = [int(base_size * factor) for factor in _ascending("INPUT.SCALE_RANGE", scale_range)]
        self.edge = edge

    def get_transform(self, image: np.ndarray) -> Transform:
        length = np.random.randint(self.lengths[0], self.lengths[1] + 1)
        height, width = image.shape[:2]
        # Of equal sides it does not matter which.
        chosen = (min if self.edge == "short" else max)(height, width)
        # As GluonCV computes it: a long edge that follows from the short one is cut to whole pixels, a short
        # one that follows from the long one is rounded. The order of the operations decides over some.
        half = 0.5 if self.edge == "long" else 0.0
        other = [
            length if side == chosen else int(1.0 * side * length / chosen + half) for side in (height, width)
        ]
        return ResizeTransform(height, width, max(other[0], 1), max(other[1], 1))


class ResizeWithin(T.Augmentation):
    """Resizes to the largest size that fits into a box whose sides are multiplied by one random factor.

    Args:
        box: (long, short) in pixels; the longer side of the image has to fit into the long one.
        scale_range: of the factor, drawn uniformly.
    """

    def __init__(self, box: Sequence[int], scale_range: Sequence[float]) -> None:
        super().__init__()
        self.box, self.scale_range = tuple(box), _ascending("INPUT.SCALE_RANGE", scale_range)

    def get_transform(self, image: np.ndarray) -> Transform:
        factor = np.random.uniform(*self.scale_range)
        long, short = (int(side * factor) for side in sorted(self.box, reverse=True))
        height, width = image.shape[:2]
        ratio = min(long / max(height, width), short / min(height, width))
        return OpenCVResizeTransform(int(height * ratio + 0.5), int(width * ratio + 0.5))


class RandomRotation(T.Augmentation):
    """Rotates by an angle drawn uniformly from `angles`, in degrees, and keeps the size (semseg)."""

    def __init__(self, angles: Sequence[float], pad_value: Sequence[float]) -> None:
        super().__init__()
        self.angles, self.pad_value = _ascending("INPUT.ROTATION", angles), tuple(pad_value)

    def get_transform(self, image: np.ndarray) -> Transform:
        height, width = image.shape[:2]
        return RotateInPlaceTransform(height, width, np.random.uniform(*self.angles), self.pad_value)


class GaussianBlur(T.Augmentation):
    """Blurs with a kernel of fixed side (semseg), or with a standard deviation drawn from a range (GluonCV).

    Args:
        kernel: pixels of a side, odd; 0: what the standard deviation needs.
        sigma: range of the standard deviation in pixels.
    """

    def __init__(self, kernel: int = 0, sigma: Sequence[float] = (0.0, 0.0)) -> None:
        super().__init__()
        if kernel and kernel % 2 == 0:
            raise InputError(f"INPUT.BLUR_KERNEL {kernel}: expected an odd number of pixels, or 0")
        self.kernel, self.sigma = kernel, (sigma[0], sigma[1])

    def get_transform(self, image: np.ndarray) -> Transform:
        return GaussianBlurTransform(self.kernel, np.random.uniform(*self.sigma))


def _ascending(key: str, values: Sequence[float]) -> tuple[float, float]:
    if len(values) != 2 or values[0] > values[1]:
        raise InputError(f"{key} {tuple(values)}: expected (lowest, highest)")
    lowest, highest = values
    return lowest, highest
