"""Transforms that Detectron2 lacks, and the application of transforms to index maps.

Shape shorthand: H, W pixels.
"""

import functools
from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
from detectron2.data.transforms import ResizeTransform
from fvcore.transforms.transform import CropTransform, HFlipTransform, NoOpTransform, Transform, TransformList
from PIL import Image

from .pillow_resize import Window, nearest_positions, resized_window

#: A gray value, or one value for each channel.
PadValue = float | Sequence[float]


def apply_to_indices(transform: Transform, indices: np.ndarray) -> np.ndarray:
    """Transform an index map (H, W) of uint8 or uint16, with the same nearest-pixel rule for both.

    Detectron2's resize rounds positions differently for types other than uint8, so 16 bits are transformed as
    two planes of 8 bits. Padding rounds nothing.
    """
    if type(transform) is HFlipTransform:
        return cv2.flip(indices, 1)
    if isinstance(transform, ResizeWindows):
        return transform.label_window(indices, (0, 0, *transform.new_size))
    if indices.dtype == np.uint8 or isinstance(transform, (PadTransform, CropTransform)):
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
    """Return Detectron2's resize as `PillowResizeTransform` with sides of at least one pixel.

    Any other transform is returned unchanged.
    """
    if not isinstance(transform, ResizeTransform):
        return transform
    height, width = max(transform.new_h, 1), max(transform.new_w, 1)
    return PillowResizeTransform(transform.h, transform.w, height, width, transform.interp)


class ResizeWindows:
    """A resize that can compute a window of its result, for a crop that follows.

    Attributes:
        new_size: (height, width) after the resize.
    """

    new_size: tuple[int, int]

    def image_window(self, img: np.ndarray, window: Window) -> np.ndarray:
        """Return the window of the resized image."""
        raise NotImplementedError

    def label_window(self, labels: np.ndarray, window: Window) -> np.ndarray:
        """Return the window of resized labels (H, W) of uint8 or uint16, by the nearest-pixel rule."""
        top, left, height, width = window
        rows = self.nearest(labels.shape[0], self.new_size[0])[top : top + height]
        columns = self.nearest(labels.shape[1], self.new_size[1])[left : left + width]
        # Whole rows are copied, twice: faster than single pixels.
        return cv2.transpose(cv2.transpose(labels[rows])[columns])

    def nearest(self, old_side: int, new_side: int) -> np.ndarray:
        """Return the position of the pixel that a label is taken from, along one side."""
        raise NotImplementedError


class PillowResizeTransform(ResizeWindows, ResizeTransform):
    """Detectron2's ResizeTransform, by Pillow's filter: the same pixels in a part of the time."""

    @property
    def new_size(self) -> tuple[int, int]:  # type: ignore[override]
        return self.new_h, self.new_w

    def apply_image(self, img: np.ndarray, interp: int | None = None) -> np.ndarray:
        if interp is None:
            return self.image_window(img, (0, 0, self.new_h, self.new_w))
        return super().apply_image(img, interp)

    def image_window(self, img: np.ndarray, window: Window) -> np.ndarray:
        assert img.shape[:2] == (self.h, self.w)
        if self.interp == Image.Resampling.BILINEAR:
            pixels = resized_window(img, self.new_size, window)
            if pixels is not None:
                return pixels
        top, left, height, width = window
        return super().apply_image(img)[top : top + height, left : left + width]

    def nearest(self, old_side: int, new_side: int) -> np.ndarray:
        return nearest_positions(old_side, new_side)


@functools.lru_cache(maxsize=64)
def _blank(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    return np.broadcast_to(dtype.type(0), shape)


class PendingPixels:
    """An image or an index map whose last resize is made only once its pixels are needed.

    A crop that follows a resize computes the pixels of its window alone.

    Args:
        pixels: (H, W, 3) image or (H, W) index map.
        are_indices: whether it is an index map, see `apply_to_indices`.
    """

    def __init__(self, pixels: np.ndarray, are_indices: bool = False) -> None:
        self._pixels, self._are_indices = pixels, are_indices
        self._resize: ResizeWindows | None = None
        # The crop that was asked for last: a crop is often looked at before it is made.
        self._cropped: tuple[CropTransform, np.ndarray] | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of `pixels`."""
        size = self._pixels.shape[:2] if self._resize is None else self._resize.new_size
        return (*size, *self._pixels.shape[2:])

    @property
    def blank(self) -> np.ndarray:
        """A read-only array of the shape and type of `pixels` that takes no memory, all zero."""
        return _blank(self.shape, self._pixels.dtype)

    @property
    def pixels(self) -> np.ndarray:
        """The pixels after all transforms."""
        if self._resize is not None:
            self._pixels = self._window((0, 0, *self._resize.new_size))
            self._resize = None
        return self._pixels

    def transform(self, transform: Transform) -> None:
        """Apply a transform, now or later."""
        if type(transform) is NoOpTransform:
            return
        if type(transform) is CropTransform:
            self._pixels, self._resize = self.crop(transform), None
            self._cropped = None
            return
        self._cropped = None
        if isinstance(transform, ResizeWindows):
            self._pixels, self._resize = self.pixels, transform
        elif self._are_indices:
            self._pixels = apply_to_indices(transform, self.pixels)
        elif type(transform) is HFlipTransform and self._pixels.dtype == np.uint8:
            # Detectron2's is a view, which every later step copies slowly.
            self._pixels = cv2.flip(self.pixels, 1)
        else:
            self._pixels = transform.apply_image(self.pixels)

    def crop(self, crop: CropTransform) -> np.ndarray:
        """Return the pixels in a crop; the pixels of this object stay."""
        if self._cropped is None or self._cropped[0] is not crop:
            self._cropped = crop, self._crop(crop)
        return self._cropped[1]

    def _crop(self, crop: CropTransform) -> np.ndarray:
        top, left = crop.y0, crop.x0
        height, width = min(crop.h, self.shape[0] - top), min(crop.w, self.shape[1] - left)
        if self._resize is None or min(top, left) < 0 or min(height, width) <= 0:
            return crop.apply_image(self.pixels)
        return self._window((top, left, height, width))

    def _window(self, window: Window) -> np.ndarray:
        assert self._resize is not None
        if self._are_indices:
            return self._resize.label_window(self._pixels, window)
        return self._resize.image_window(self._pixels, window)


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
        channels = 1 if pixels.ndim == 2 else pixels.shape[2]
        if pixels.dtype in (np.uint8, np.uint16) and channels in (1, 3) and pixels.size:
            border = np.broadcast_to(value, (channels,)).astype(pixels.dtype).tolist()
            edges = self.top, self.bottom, self.left, self.right
            padded = cv2.copyMakeBorder(pixels, *edges, cv2.BORDER_CONSTANT, value=border)
            return padded.reshape(*padded.shape[:2], *pixels.shape[2:])
        height, width = pixels.shape[:2]
        shape = (self.top + height + self.bottom, self.left + width + self.right, *pixels.shape[2:])
        padded = np.empty(shape, dtype=pixels.dtype)
        padded[...] = value
        padded[self.top : self.top + height, self.left : self.left + width] = pixels
        return padded


class OpenCVResizeTransform(ResizeWindows, Transform):
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
        self.new_size = self.size[1], self.size[0]

    def apply_image(self, img: np.ndarray) -> np.ndarray:
        return cv2.resize(np.ascontiguousarray(img), self.size, interpolation=cv2.INTER_LINEAR)

    def apply_segmentation(self, segmentation: np.ndarray) -> np.ndarray:
        contiguous = np.ascontiguousarray(segmentation)
        return cv2.resize(contiguous, self.size, interpolation=cv2.INTER_NEAREST_EXACT)

    def image_window(self, img: np.ndarray, window: Window) -> np.ndarray:
        top, left, height, width = window
        return self.apply_image(img)[top : top + height, left : left + width]

    def nearest(self, old_side: int, new_side: int) -> np.ndarray:
        return _nearest_positions(old_side, new_side)

    def apply_coords(self, coords: np.ndarray) -> np.ndarray:
        height, width = self.old_size
        return coords * np.divide(self.size, (width, height))


@functools.lru_cache(maxsize=256)
def _nearest_positions(old_side: int, new_side: int) -> np.ndarray:
    """Return the source position that INTER_NEAREST_EXACT takes for each pixel of a side."""
    positions = np.arange(old_side, dtype=np.float32)[None]  # exact up to 2**24
    resized = cv2.resize(positions, (new_side, 1), interpolation=cv2.INTER_NEAREST_EXACT)
    return resized[0].astype(np.intp)


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
        if self.brightness is None:
            return img
        table = _linear_table(1.0, self.brightness)
        # A sum in almost all cases, which takes less time than looking up.
        added = int(table[128]) - 128
        if not np.array_equal(table, np.clip(np.arange(256) + added, 0, 255)):
            return cv2.LUT(img, table)
        amount: Any = (abs(added),) * 4  # one for each channel; OpenCV's stubs lack it
        return cv2.add(img, amount) if added >= 0 else cv2.subtract(img, amount)

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
        hsv = cv2.cvtColor(img, to_hsv)
        cv2.insertChannel(cv2.LUT(cv2.extractChannel(hsv, channel), table), hsv, channel)
        return cv2.cvtColor(hsv, back)


def _linear_table(factor: float, offset: float) -> np.ndarray:
    """Return (256,) uint8: clipped `value * factor + offset` for every 8-bit value."""
    values = np.arange(256, dtype=np.float32) * np.float32(factor) + np.float32(offset)
    return np.clip(values, 0, 255).astype(np.uint8)
