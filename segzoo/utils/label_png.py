"""Decode PNG files of labels: in most rows, few pixels differ from their neighbors.

The bytes are inflated by zlib-ng, where it is installed, else by zlib, and the rows restored by a compiled
loop that computes only pixels at the borders of regions. Photographs differ in every pixel: see `png`.
"""

import contextlib
import math
import struct
import zlib
from collections.abc import Iterator
from types import ModuleType
from typing import Any, BinaryIO

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
_HEADER = b"\x00\x00\x00\rIHDR"
# Bits of a value, color type, compression, filter and interlacing of files that need nothing else.
_PLAIN = {b"\x08\x00\x00\x00\x00": "L", b"\x08\x02\x00\x00\x00": "RGB"}
_HEAD = 41  # bytes of a file up to the name of the chunk after the header
_LOOPS = "segzoo.utils.png_loops"


class PlainLabels:
    """The labels of a plain PNG in the place of Pillow's image, whose reading of a header takes as long.

    A plain PNG has a header, 8-bit gray or RGB pixels, not interlaced, and nothing else: no palette, no
    orientation, no transparent color.

    Attributes:
        values: (H, W) uint8; for RGB int32 R + 256 G + 65536 B.
        mode, size, width, height, format: as an image of Pillow has them.
    """

    format = "PNG"

    def __init__(self, mode: str, values: np.ndarray) -> None:
        self.mode, self.values = mode, values
        self.height, self.width = values.shape
        self.size = self.width, self.height

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        """Return the pixels as those of Pillow's image: (H, W), or (H, W, 3), uint8."""
        pixels = self.values
        if self.mode == "RGB":
            stored = np.ascontiguousarray(self.values, "<i4").view(np.uint8)
            pixels = stored.reshape(self.height, self.width, 4)[:, :, :3]
        return pixels if dtype is None else pixels.astype(dtype)


def is_label_png(image: Image.Image) -> bool:
    """Return whether `label_pixels` may decode an opened image: a PNG of 8-bit values that is not loaded.

    Its pixels are not decoded: the data can turn out to be damaged.
    """
    return (
        image.mode in _PIXELS
        and raw_png_mode(image) == image.mode
        and not image.info.get("interlace")
        and load_loops(_LOOPS) is not None
    )


def label_pixels(image: Image.Image | PlainLabels) -> np.ndarray | None:
    """Return the labels of an opened PNG that is not loaded, and leave it so.

    Returns:
        (H, W) uint8 values or palette indices; for RGB (H, W) int32 R + 256 G + 65536 B. None where
        `is_label_png` is False, or if the file is damaged: then Pillow says how.
    """
    if isinstance(image, PlainLabels):
        return image.values
    if not is_label_png(image):
        return None
    return _decoded(png_content(image), image.size, image.mode)


def plain_labels(content: bytes) -> PlainLabels | None:
    """Return the labels of a PNG file's bytes without Pillow; None unless it is plain and intact.

    None stands also for more pixels than Pillow opens, and for a missing numba.
    """
    mode = _plain_mode(content)
    if mode is None or zlib.crc32(content[12:29]).to_bytes(4, "big") != content[29:33]:
        return None
    size = struct.unpack_from(">II", content, 16)
    if not 0 < size[0] * size[1] <= (Image.MAX_IMAGE_PIXELS or math.inf) or load_loops(_LOOPS) is None:
        return None
    values = _decoded(content, size, mode, plain=True)
    return None if values is None else PlainLabels(mode, values)


def read_plain_labels(file: BinaryIO) -> PlainLabels | None:
    """Return `plain_labels` of an open file; of one that is not plain, only the beginning is read."""
    head = file.read(_HEAD)
    return plain_labels(head + file.read()) if _plain_mode(head) is not None else None


def _plain_mode(content: bytes) -> str | None:
    """Return "L" or "RGB" if a file begins as a plain PNG."""
    plain = content.startswith(_START + _HEADER) and content[37:_HEAD] == b"IDAT"
    return _PLAIN.get(content[24:29]) if plain else None


def _decoded(
    content: bytes, image_size: tuple[int, int], mode: str, *, plain: bool = False
) -> np.ndarray | None:
    """Return the labels in a PNG file of 8-bit values, or None if it is damaged, or not plain as demanded."""
    step, dtype = _PIXELS[mode]
    width, height = image_size
    size = height * (1 + step * width)
    try:
        compressed = b"".join(_pixel_chunks(content, plain))
        stream = inflater.decompressobj()
        inflated = stream.decompress(compressed, size + 1)
    except (ValueError, struct.error, inflater.error):
        return None
    if len(inflated) != size or not stream.eof:
        return None
    values: np.ndarray = np.empty((height, width), dtype)
    raw = np.frombuffer(inflated, np.uint8).reshape(height, -1)
    loops = load_loops(_LOOPS)
    assert loops is not None
    return values if loops.undo_filters(raw, step, values) else None


def label_array(image: Image.Image | PlainLabels) -> np.ndarray:
    """Return `np.asarray(image)`, in less time for an opened gray or palette PNG that is not loaded."""
    if isinstance(image, PlainLabels):
        return np.asarray(image)
    values = label_pixels(image) if image.mode != "RGB" else None
    values = png_pixels(image) if values is None else values
    return np.asarray(image) if values is None else values


def _pixel_chunks(content: bytes, plain: bool = False) -> Iterator[bytes]:
    """Yield the data of a PNG file's IDAT chunks.

    Args:
        content: the file.
        plain: accept no other chunk after the header.

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
        elif plain and found:
            raise ValueError("not plain")
        before, position = name, end + 4
