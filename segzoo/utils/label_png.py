"""Decode PNG files of labels: in most rows, few pixels differ from their neighbors.

The bytes are inflated by zlib-ng, where it is installed, else by zlib, and the rows restored by a compiled
loop that computes only pixels at the borders of regions. Photographs differ in every pixel: see `png`.
"""

import contextlib
import struct
import zlib
from collections.abc import Iterator
from types import ModuleType

import numpy as np
from PIL import Image

from .compiled import load_loops
from .png import png_content, png_pixels, raw_png_mode

#: Module with zlib's `decompressobj` and `error`.
inflater: ModuleType = zlib
with contextlib.suppress(ImportError):
    from zlib_ng import zlib_ng

    inflater = zlib_ng

#: Bytes of a pixel in the modes that are decoded, and the type of its value.
_PIXELS: dict[str, tuple[int, type]] = {"L": (1, np.uint8), "P": (1, np.uint8), "RGB": (3, np.int32)}
_START = b"\x89PNG\r\n\x1a\n"


def is_label_png(image: Image.Image) -> bool:
    """Return whether `label_pixels` may decode an opened image: a PNG of 8-bit values that is not loaded.

    Its pixels are not decoded: the data can turn out to be damaged.
    """
    return (
        image.mode in _PIXELS
        and raw_png_mode(image) == image.mode
        and not image.info.get("interlace")
        and load_loops("segzoo.utils.png_loops") is not None
    )


def label_pixels(image: Image.Image) -> np.ndarray | None:
    """Return the labels of an opened PNG that is not loaded, and leave it so.

    Returns:
        (H, W) uint8 values or palette indices; for RGB (H, W) int32 R + 256 G + 65536 B. None where
        `is_label_png` is False, or if the file is damaged: then Pillow says how.
    """
    if not is_label_png(image):
        return None
    step, dtype = _PIXELS[image.mode]
    width, height = image.size
    size = height * (1 + step * width)
    try:
        compressed = b"".join(_pixel_chunks(png_content(image)))
        stream = inflater.decompressobj()
        content = stream.decompress(compressed, size + 1)
    except (ValueError, struct.error, inflater.error):
        return None
    if len(content) != size or not stream.eof:
        return None
    values: np.ndarray = np.empty((height, width), dtype)
    raw = np.frombuffer(content, np.uint8).reshape(height, -1)
    loops = load_loops("segzoo.utils.png_loops")
    assert loops is not None
    return values if loops.undo_filters(raw, step, values) else None


def label_array(image: Image.Image) -> np.ndarray:
    """Return `np.asarray(image)`, in less time for an opened gray or palette PNG that is not loaded."""
    values = label_pixels(image) if image.mode != "RGB" else None
    values = png_pixels(image) if values is None else values
    return np.asarray(image) if values is None else values


def _pixel_chunks(content: bytes) -> Iterator[bytes]:
    """Yield the data of a PNG file's IDAT chunks.

    Raises:
        ValueError: a check sum is wrong, or another chunk is between them, as Pillow does not accept.
        struct.error: the file ends early.
    """
    position = len(_START)
    before = b""
    found = False
    while True:
        (length,) = struct.unpack_from(">I", content, position)
        start, end = position + 4, position + 8 + length
        (expected,) = struct.unpack_from(">I", content, end)
        name = content[start : start + 4]
        if name == b"IEND":
            return
        if name == b"IDAT":
            if found and before != name:
                raise ValueError("pixels in two places")
            found = True
            if zlib.crc32(memoryview(content)[start:end]) != expected:
                raise ValueError("wrong check sum")
            yield content[start + 4 : end]
        before, position = name, end + 4
