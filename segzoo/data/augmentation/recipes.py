"""Policies of the recipes of semseg, GluonCV and SegFormer; build.py has their order."""

from collections.abc import Sequence

import numpy as np
from fvcore.transforms.transform import Transform

from segzoo.utils.errors import InputError

from .policies import BySize
from .transforms import (
    GaussianBlurTransform,
    OpenCVResizeTransform,
    PillowResizeTransform,
    RotateInPlaceTransform,
)


class RescaleImage(BySize):
    """Multiplies both sides by one factor drawn uniformly from `scale_range` (semseg)."""

    def __init__(self, scale_range: Sequence[float]) -> None:
        super().__init__()
        self.scale_range = _ascending("INPUT.SCALE_RANGE", scale_range)

    def get_transform(self, image: np.ndarray) -> Transform:
        factor = np.random.uniform(*self.scale_range)
        # Rounds half to even, as OpenCV does when it is given factors.
        height, width = image.shape[:2]
        return OpenCVResizeTransform(round(height * factor), round(width * factor), (height, width))


class ResizeEdge(BySize):
    """Resizes one edge to a length drawn uniformly from the integers of a range (GluonCV).

    Uses Pillow's bilinear resize, which antialiases.

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
        chosen = (min if self.edge == "short" else max)(height, width)
        # As in GluonCV: the other edge is truncated if it is the long one, rounded if it is the short one.
        # The order of the floating-point operations matters.
        half = 0.5 if self.edge == "long" else 0.0
        other = [
            length if side == chosen else int(1.0 * side * length / chosen + half) for side in (height, width)
        ]
        return PillowResizeTransform(height, width, max(other[0], 1), max(other[1], 1))


class ResizeWithin(BySize):
    """Resizes to the largest size that fits into a box whose sides are multiplied by a random factor.

    Args:
        box: (long, short) in pixels; the longer side of the image must fit into the long one.
        scale_range: range of the factor, which is drawn uniformly.
    """

    def __init__(self, box: Sequence[int], scale_range: Sequence[float]) -> None:
        super().__init__()
        self.box, self.scale_range = tuple(box), _ascending("INPUT.SCALE_RANGE", scale_range)

    def get_transform(self, image: np.ndarray) -> Transform:
        factor = np.random.uniform(*self.scale_range)
        long, short = (int(side * factor) for side in sorted(self.box, reverse=True))
        height, width = image.shape[:2]
        ratio = min(long / max(height, width), short / min(height, width))
        new_size = int(height * ratio + 0.5), int(width * ratio + 0.5)
        return OpenCVResizeTransform(*new_size, (height, width))


class RandomRotation(BySize):
    """Rotates by an angle drawn uniformly from `angles`, in degrees, and keeps the size (semseg)."""

    def __init__(self, angles: Sequence[float], pad_value: Sequence[float]) -> None:
        super().__init__()
        self.angles, self.pad_value = _ascending("INPUT.ROTATION", angles), tuple(pad_value)

    def get_transform(self, image: np.ndarray) -> Transform:
        height, width = image.shape[:2]
        return RotateInPlaceTransform(height, width, np.random.uniform(*self.angles), self.pad_value)


class GaussianBlur(BySize):
    """Blurs with a kernel of fixed size (semseg), or with a standard deviation drawn from a range (GluonCV).

    Args:
        kernel: side in pixels, odd; 0: chosen for the standard deviation.
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
