"""Fast operations on label maps of 8 and 16 bits.

Shape shorthand: H, W pixels.
"""

from collections.abc import Sequence

import cv2
import numpy as np
from PIL import Image

from segzoo.utils.compiled import load_loops
from segzoo.utils.label_png import label_pixels

# OpenCV counts in float32, which represents every integer up to this one.
LARGEST_COUNT = 1 << 24

_BAND_ROWS = 256


def look_up(table: np.ndarray, indices: np.ndarray) -> np.ndarray:
    """Return `table[indices]` for indices of 8 or 16 bits and a table with an entry for each possible value.

    For 8 bits, the common case, OpenCV's loop is about ten times faster than numpy's.
    """
    if indices.dtype == np.uint8 and table.dtype in (np.uint8, np.int16, np.uint16):
        return cv2.LUT(np.ascontiguousarray(indices), table[:256])
    return table[indices]


def count_values(indices: np.ndarray) -> np.ndarray:
    """Return the count of each value in an (H, W) array of 8 or 16 bits, (256,) or (65536,) int64."""
    if indices.dtype != np.uint8:
        return np.bincount(indices.ravel(), minlength=1 << 16)
    loops = load_loops("segzoo.data.label_loops")
    if loops is not None:
        values = np.ascontiguousarray(indices).reshape(-1)
        counts = np.zeros(256, dtype=np.int64)
        loops.count_bytes(values, values[: values.size // 8 * 8].view(np.uint64), counts)
        return counts
    rows = max(1, LARGEST_COUNT // max(1, indices.shape[1]))
    blocks = (indices[top : top + rows] for top in range(0, len(indices), rows))
    return sum((_count_bytes(block) for block in blocks), np.zeros(256, dtype=np.int64))


def _count_bytes(block: np.ndarray) -> np.ndarray:
    counts = cv2.calcHist([np.ascontiguousarray(block)], [0], None, [256], [0, 256])
    # (256, 1) up to OpenCV 4, (256,) since OpenCV 5.
    return counts.ravel().astype(np.int64)


def rgb_codes(image: Image.Image) -> np.ndarray:
    """Return (H, W) uint32 in [0, 2**24): R + 256 G + 65536 B of every pixel."""
    decoded = label_pixels(image) if image.mode == "RGB" else None
    if decoded is not None:
        return decoded.view(np.uint32)
    width, height = image.size
    image = image if image.mode == "RGB" else image.convert("RGB")
    codes = np.empty((height, width), np.uint32)
    # In bands, because Pillow forms the bytes twice.
    for top in range(0, height, _BAND_ROWS):
        bottom = min(top + _BAND_ROWS, height)
        # Pillow stores RGB in four bytes per pixel, so this is a plain copy.
        band = image.crop((0, top, width, bottom)).tobytes("raw", "RGBX")
        packed = np.frombuffer(band, dtype="<u4").reshape(bottom - top, width)
        np.bitwise_and(packed, 0xFFFFFF, out=codes[top:bottom])
    return codes


def index_codes(
    codes: np.ndarray, listed: Sequence[int], places: Sequence[int], dtype: type
) -> tuple[np.ndarray | None, np.ndarray]:
    """Replace each listed code by its place, and count the pixels of each place.

    Args:
        codes: (H, W) uint32 in [0, 2**24).
        listed: unique codes.
        places: a number for each of them.
        dtype: type of the result, which holds all places.

    Returns:
        (H, W) `dtype`, or None if a code is not listed; (1 + largest place,) int64 number of pixels.
    """
    areas = np.zeros(max(places) + 1, dtype=np.int64)
    loops = load_loops("segzoo.data.label_loops")
    if loops is not None:
        order = np.argsort(listed)
        indices: np.ndarray = np.empty(codes.shape, dtype=dtype)
        flat = np.ascontiguousarray(codes).reshape(-1)
        table = np.asarray(listed, dtype=codes.dtype)[order]
        is_complete = loops.index_codes(
            flat, table, np.asarray(places, dtype=dtype)[order], indices.reshape(-1), areas
        )
        return (indices if is_complete else None), areas
    # Zero pages of this table are never touched, so its 16 million entries cost almost no memory.
    table = np.zeros(1 << 24, dtype=np.uint32)
    table[list(listed)] = np.asarray(places) + 1
    found = table[codes]
    if not found.all():
        return None, areas
    indices = (found - 1).astype(dtype)
    return indices, np.bincount(indices.ravel(), minlength=len(areas))
