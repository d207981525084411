"""Decode PNG files with kornia-rs, if it is installed, in a fraction of Pillow's time."""

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
from PIL import Image

#: Pillow's description of the stored pixels: its mode for them, kornia-rs's mode, and the type of a value.
#: kornia-rs does not unpack values of fewer than 8 bits.
_STORED: dict[str, tuple[str, str, type]] = {
    "L": ("L", "mono", np.uint8),
    "P": ("P", "mono", np.uint8),
    "RGB": ("RGB", "rgb", np.uint8),
    "RGBA": ("RGBA", "rgba", np.uint8),
    "I;16B": ("I;16", "mono", np.uint16),
}


@functools.cache
def _decoders() -> dict[type, Callable[..., Any]] | None:
    """Return kornia-rs's decoder for each type of values; None if it is missing or has another interface."""
    try:
        from kornia_rs import io
    except ImportError:
        return None
    try:
        return {np.uint8: io.decode_image_png_u8, np.uint16: io.decode_image_png_u16}
    except AttributeError:
        return None


def raw_png_mode(image: Image.Image) -> str | None:
    """Return how Pillow describes the stored pixels of an opened PNG that is not loaded, or None.

    None also stands for an animation.
    """
    tiles: Any = getattr(image, "tile", ())
    if image.format != "PNG" or getattr(image, "fp", None) is None or len(tiles) != 1:
        return None
    return str(tiles[0][3]) if getattr(image, "n_frames", 1) == 1 else None


def png_content(image: Any) -> bytes:
    """Return the bytes of the file of an opened PNG, which stays unloaded."""
    position = image.fp.tell()
    try:
        image.fp.seek(0)
        return image.fp.read()
    finally:
        image.fp.seek(position)


def png_pixels(image: Image.Image) -> np.ndarray | None:
    """Return the pixels of an opened PNG that is not loaded, as `np.asarray(image)` does; it stays unloaded.

    Args:
        image: an image that Pillow has opened; for a palette, the pixels are its indices.

    Returns:
        (H, W) uint8 or uint16, or (H, W, 3 or 4) uint8; None where Pillow has to decode: kornia-rs is not
        installed, another format, an animation, values of fewer than 8 bits or several of 16, gray with
        alpha, or data that kornia-rs refuses.
    """
    decoders, raw_mode = _decoders(), raw_png_mode(image)
    mode, kind, dtype = _STORED.get(raw_mode or "", ("", "", np.uint8))
    if decoders is None or not mode or mode != image.mode:
        return None
    width, height = image.size
    try:
        pixels = np.asarray(decoders[dtype](png_content(image), (height, width), kind))
    except Exception:  # Pillow reports what is wrong with the file
        return None
    pixels = pixels[:, :, 0] if pixels.ndim == 3 and kind == "mono" else pixels
    channels = () if kind == "mono" else (len(mode),)
    is_expected = pixels.dtype == dtype and pixels.shape == (height, width, *channels)
    return pixels if is_expected else None


def decoded_png(image: Image.Image) -> Image.Image | None:
    """Return a loaded copy of an opened PNG with its palette and information, or None: see `png_pixels`.

    The information lacks what follows the pixels in the file.
    """
    pixels = png_pixels(image)
    if pixels is None:
        return None
    loaded = Image.frombuffer(image.mode, image.size, np.ascontiguousarray(pixels), "raw", image.mode, 0, 1)
    loaded.palette, loaded.info, loaded.format = image.palette, dict(image.info), image.format
    loaded.load()  # gives the pixels their palette
    return loaded
