"""Decode JPEG files with OpenCV where it gives Pillow's pixels, in less time."""

import functools
import io

import cv2
import numpy as np
from PIL import Image

# Only OpenCV from 4.10 on decodes to RGB.
_TO_RGB: int = getattr(cv2, "IMREAD_COLOR_RGB", 0)


def jpeg_pixels(image: Image.Image) -> np.ndarray | None:
    """Return the pixels of an opened JPEG that is not loaded, as Pillow decodes them; it stays unloaded.

    The EXIF orientation is not applied.

    Returns:
        (H, W, 3) uint8 RGB, or None where Pillow has to decode: another format or mode, a truncated file, a
        resolution that Pillow was asked to reduce, or an OpenCV with other pixels.
    """
    file = getattr(image, "fp", None)
    if image.format != "JPEG" or image.mode != "RGB" or file is None or not _equals_pillow():
        return None
    position = file.tell()
    try:
        file.seek(0)
        pixels = _decoded(file.read())
    finally:
        file.seek(position)
    return pixels if pixels is not None and pixels.shape == (image.height, image.width, 3) else None


def _decoded(content: bytes) -> np.ndarray | None:
    """Return the pixels of a JPEG; None if OpenCV cannot decode it."""
    try:
        return cv2.imdecode(np.frombuffer(content, np.uint8), _TO_RGB | cv2.IMREAD_IGNORE_ORIENTATION)
    except cv2.error:
        return None


@functools.cache
def _equals_pillow() -> bool:
    """Return whether OpenCV decodes as Pillow does: both may use libjpeg-turbo, or another library."""
    if not _TO_RGB:
        return False
    noise = np.random.default_rng(0).integers(0, 256, (37, 45, 3), dtype=np.uint8)
    smooth = cv2.GaussianBlur(noise, (0, 0), 3.0)
    for pixels in (noise, smooth):
        for subsampling in (0, 1, 2):
            file = io.BytesIO()
            Image.fromarray(pixels).save(file, "JPEG", quality=80, subsampling=subsampling)
            theirs = np.asarray(Image.open(io.BytesIO(file.getvalue())))
            ours = _decoded(file.getvalue())
            if ours is None or not np.array_equal(ours, theirs):
                return False
    return True
