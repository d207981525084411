"""Transforms that Detectron2 lacks, and the application of transforms to index maps.

Shape shorthand: H, W pixels.
"""

from collections.abc import Sequence

import cv2
import numpy as np
from detectron2.data.transforms import ResizeTransform
from fvcore.transforms.transform import HFlipTransform, Transform, TransformList

#: A gray value, or one value for each channel.
PadValue = float | Sequence[float]


def apply_to_indices(transform: Transform, indices: np.ndarray) -> np.ndarray:
    """Transform an index map (H, W) of uint8 or uint16, with the same nearest-pixel rule for both.

    Detectron2's resize rounds positions differently for types other than uint8, so 16 bits are transformed as
    two planes of 8 bits. Padding rounds nothing.
    """
    if indices.dtype == np.uint8 or isinstance(transform, PadTransform):
        return transform.apply_segmentation(indices)
    low = transform.apply_segmentation((indices & 255).astype(np.uint8))
    high = transform.apply_segmentation((indices >> 8).astype(np.uint8))
    return low.astype(np.uint16) | high.astype(np.uint16) << 8


def count_flips(transform: Transform) -> int:
    """Return the number of horizontal flips in a transform."""
    if isinstance(transform, TransformList):
        return sum(count_flips(one) for one in transform.transforms)
    return int(isinstance(transform, HFlipTransform))


def at_least_one_pixel(transform: Transform) -> Transform:
    """Return a resize to a side of 0 pixels as a resize to 1 pixel; any other transform unchanged."""
    if not isinstance(transform, ResizeTransform) or min(transform.new_h, transform.new_w) > 0:
        return transform
    height, width = max(transform.new_h, 1), max(transform.new_w, 1)
    return ResizeTransform(transform.h, transform.w, height, width, transform.interp)


class PadTransform(Transform):
    """Pads the image with `pad_value` and the index map with `index`.

    Args:
        right, bottom, left, top: number of pixels added.
        pad_value: one number, or one per channel; rounded to an integer.
        index: index of a segment, 0 for void.
    """

    def __init__(
        self, right: int, bottom: int, pad_value: PadValue, left: int = 0, top: int = 0, *, index: int = 0
    ) -> None:
        super().__init__()
        self.index = index
        self.right, self.bottom, self.left, self.top = right, bottom, left, top
        self.pad_value: np.ndarray = np.rint(pad_value)

    def apply_image(self, img: np.ndarray) -> np.ndarray:
        return self._pad(img, self.pad_value)

    def apply_segmentation(self, segmentation: np.ndarray) -> np.ndarray:
        return self._pad(segmentation, self.index)

    def apply_coords(self, coords: np.ndarray) -> np.ndarray:
        return coords + np.asarray([self.left, self.top], coords.dtype)

    def _pad(self, pixels: np.ndarray, value: PadValue | np.ndarray) -> np.ndarray:
        height, width = pixels.shape[:2]
        shape = (self.top + height + self.bottom, self.left + width + self.right, *pixels.shape[2:])
        padded = np.empty(shape, dtype=pixels.dtype)
        padded[...] = value
        padded[self.top : self.top + height, self.left : self.left + width] = pixels
        return padded


class OpenCVResizeTransform(Transform):
    """Resizes with OpenCV's bilinear interpolation, without antialiasing.

    Labels take the pixel under the center of the new one, as in Detectron2's resize (semseg and
    MMSegmentation take the one under its upper left corner, half a pixel off the image).

    Args:
        new_height, new_width: size after the resize.
        old_size: (height, width) before it, needed for points only.
    """

    def __init__(self, new_height: int, new_width: int, old_size: Sequence[int] = ()) -> None:
        super().__init__()
        self.size = max(int(new_width), 1), max(int(new_height), 1)
        self.old_size = tuple(old_size)

    def apply_image(self, img: np.ndarray) -> np.ndarray:
        return cv2.resize(np.ascontiguousarray(img), self.size, interpolation=cv2.INTER_LINEAR)

    def apply_segmentation(self, segmentation: np.ndarray) -> np.ndarray:
        contiguous = np.ascontiguousarray(segmentation)
        return cv2.resize(contiguous, self.size, interpolation=cv2.INTER_NEAREST_EXACT)

    def apply_coords(self, coords: np.ndarray) -> np.ndarray:
        height, width = self.old_size
        return coords * np.divide(self.size, (width, height))


class RotateInPlaceTransform(Transform):
    """Rotates about the center without changing the size; new pixels are `pad_value`, and void in labels.

    Args:
        height, width: size of the image.
        angle: degrees, counterclockwise.
        pad_value: one number per channel.
    """

    def __init__(self, height: int, width: int, angle: float, pad_value: Sequence[float]) -> None:
        super().__init__()
        self.matrix = cv2.getRotationMatrix2D((width / 2, height / 2), angle, 1)
        self.angle, self.size, self.pad_value = angle, (width, height), tuple(pad_value)

    def apply_image(self, img: np.ndarray) -> np.ndarray:
        return self._warp(img, cv2.INTER_LINEAR, self.pad_value)

    def apply_segmentation(self, segmentation: np.ndarray) -> np.ndarray:
        return self._warp(segmentation, cv2.INTER_NEAREST, (0,))

    def apply_coords(self, coords: np.ndarray) -> np.ndarray:
        return np.hstack([coords, np.ones((len(coords), 1))]) @ self.matrix.T

    def _warp(self, pixels: np.ndarray, interpolation: int, value: Sequence[float]) -> np.ndarray:
        return cv2.warpAffine(
            np.ascontiguousarray(pixels),
            self.matrix,
            self.size,
            flags=interpolation,
            borderMode=cv2.BORDER_CONSTANT,
            borderValue=value,
        )


class GaussianBlurTransform(Transform):
    """Blurs the image; labels are unchanged.

    Args:
        kernel: side in pixels, odd; 0: chosen for `sigma`.
        sigma: standard deviation in pixels; 0: OpenCV's default for the kernel, binomial up to 7 pixels.
    """

    def __init__(self, kernel: int = 0, sigma: float = 0.0) -> None:
        super().__init__()
        self.kernel, self.sigma = kernel, sigma

    def apply_image(self, img: np.ndarray) -> np.ndarray:
        if not self.kernel and self.sigma <= 0:
            return img
        return cv2.GaussianBlur(np.ascontiguousarray(img), (self.kernel, self.kernel), self.sigma)

    def apply_segmentation(self, segmentation: np.ndarray) -> np.ndarray:
        return segmentation

    def apply_coords(self, coords: np.ndarray) -> np.ndarray:
        return coords


class ColorJitterTransform(Transform):
    """Changes brightness, contrast, saturation and hue of an 8-bit image by fixed amounts (None: unchanged).

    Equal to the steps of Detectron2's ColorAugSSDTransform, which draws random values at each application.

    Args:
        image_format: "RGB" or "BGR".
        brightness: added to every channel.
        contrast: factor for every channel.
        saturation: factor for the saturation.
        hue: added to the hue, in units of 2 degrees.
        contrast_first: whether contrast is changed before saturation and hue, or after them.
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
    """Return (256,) uint8: clipped `value * factor + offset` for every 8-bit value."""
    values = np.arange(256, dtype=np.float32) * np.float32(factor) + np.float32(offset)
    return np.clip(values, 0, 255).astype(np.uint8)
