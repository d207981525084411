"""Conversion of images of more than 8 bits to 8 bits: the values of black and white.

Shape shorthand: H, W pixels.
"""

from functools import lru_cache
from typing import NamedTuple

import numpy as np

from segzoo.utils.errors import InputError

from .label_ops import look_up

# The largest values of 8, 10, 12, 14 and 16 bits.
_LARGEST = (255, 1023, 4095, 16383, 65535)


class PixelRange(NamedTuple):
    """The values of a file that become 0 and 255.

    Attributes:
        low, high: values in the file, low < high; values outside become 0 or 255.
        source: the dataset's YAML, if the range was estimated from images of the dataset. Then a value
            outside is an error.
    """

    low: float
    high: float
    source: str = ""

    @property
    def is_of_8_bits(self) -> bool:
        """Whether the range lies within 0..255; only then it applies to images of 8 bits."""
        return self.low >= 0 and self.high <= 255


FULL_16_BITS = PixelRange(0, 65535)


def fitting_range(brightest: int, source: str = "") -> PixelRange:
    """Return the range of the fewest bits (8, 10, 12, 14 or 16) that hold the brightest value."""
    return PixelRange(0, next((high for high in _LARGEST if brightest <= high), _LARGEST[-1]), source)


def to_8_bits(pixels: np.ndarray, pixel_range: PixelRange, file_name: str) -> np.ndarray:
    """Convert the pixels of an image to 8 bits.

    Integers keep their upper 8 bits if the range has 2**n values, n >= 8. In a range of fewer than 256
    values, and for floating-point numbers, values are scaled so that `high` becomes 255.

    Args:
        pixels: (H, W) or (H, W, C), any integers or floating-point numbers; NaN becomes 0.
        file_name: the image, for messages.

    Returns:
        uint8, of the same shape.

    Raises:
        InputError: a value outside an estimated range.
    """
    low, high, source = pixel_range
    if source and pixels.dtype.kind != "u" and pixels.min() < 0:
        raise InputError(
            f"{file_name}: has the value {pixels.min()}, but other images of {source} have none below 0; set "
            f"image_range: [{pixels.min()}, {high}] in {source}"
        )
    if source and pixels.max() > high:
        largest = int(pixels.max())
        white = max(largest, int(fitting_range(largest).high))
        raise InputError(
            f"{file_name}: has the value {pixels.max()}, but other images of {source} have none above "
            f"{high}; set image_range: [0, {white}] in {source}"
        )
    if pixels.dtype == np.uint8 or pixels.dtype == np.uint16:
        return look_up(_table(low, high), pixels)
    return _scaled(pixels, low, high)


def _scaled(values: np.ndarray, low: float, high: float) -> np.ndarray:
    above = values.astype(np.float64) - low
    if values.dtype.kind == "f" or high - low < 255:
        scaled = np.round(above * (255 / (high - low)))
    else:
        scaled = np.floor(above * (256 / (high - low + 1)))
    return np.nan_to_num(np.clip(scaled, 0, 255)).astype(np.uint8)


@lru_cache
def _table(low: float, high: float) -> np.ndarray:
    """Return (65536,) uint8: the 8-bit value of each 16-bit value."""
    return _scaled(np.arange(1 << 16), low, high)
