"""Inputs of a Predictor: files, Pillow images, tensors and arrays, one or many.

Shape shorthand: H, W size of an image; N images.
"""

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor, strided, uint8

from segzoo.data import PixelRange, read_image, rgb_pixels
from segzoo.data.image_files import DECODE_ERRORS, load_unmapped
from segzoo.utils.errors import InputError
from segzoo.utils.paths import user_path

ImageInput = str | os.PathLike | Image.Image | Tensor | np.ndarray

COLORS = ("RGB", "BGR")
_EXPECTED = (
    "expected the path of an image, a PIL image, a (3, H, W) uint8 tensor in RGB, or an (H, W, 3) uint8 "
    'array with color="RGB" or "BGR"'
)
_BYTES = "decode it first: Image.open(io.BytesIO(data))"


def check_color(color: str | None) -> None:
    """Raise InputError for an unknown channel order."""
    if color is not None and color not in COLORS:
        raise InputError(f"color {color!r}: expected RGB or BGR, the order of an array's channels")


def images_in(given: Any) -> Iterable[ImageInput] | None:
    """Return the iterable of images given to a Predictor; None for a single image.

    Raises:
        InputError: neither an image nor an iterable.
    """
    if isinstance(given, Tensor | np.ndarray):
        return given if given.ndim == 4 else None
    if isinstance(given, str | os.PathLike | Image.Image):
        return None
    if given is None or isinstance(given, bytes | bytearray | memoryview | Mapping) or hasattr(given, "read"):
        raise InputError(_not_an_image(given, "image"))
    if not isinstance(given, Iterable):
        raise InputError(_not_an_image(given, "image"))
    return given


def rgb_images(
    images: Iterable[ImageInput], color: str | None, image_range: Sequence[float] = ()
) -> Iterator[np.ndarray]:
    """Yield each image as `as_rgb` reads it; errors name its index."""
    for index, image in enumerate(images):
        yield as_rgb(image, color, f"image {index}", image_range)


def as_rgb(
    image: ImageInput, color: str | None = None, name: str = "image", image_range: Sequence[float] = ()
) -> np.ndarray:
    """Return an image as an RGB array: read a file, or check and convert an image in memory.

    Args:
        image: path of an image file; a PIL image of any mode, treated like its file (EXIF orientation
            applied, gray repeated, alpha dropped); a (3, H, W) RGB or (1, H, W) gray uint8 tensor; an
            (H, W, 3) or (H, W, 4) uint8 array, whose fourth channel is dropped, or a gray one, (H, W) or
            (H, W, 1).
        color: channel order of an array, "RGB" or "BGR"; required for an array of more than one channel.
        name: for errors.
        image_range: values of a file or PIL image of more than 8 bits that become 0 and 255; (): see
            `read_image`.

    Returns:
        (H, W, 3) uint8, RGB.

    Raises:
        InputError: not readable, of another shape or type, or an array without its `color`.
    """
    check_color(color)
    if isinstance(image, np.ndarray):
        return _from_array(image, color, name)
    if isinstance(image, Tensor):
        return _from_tensor(image, name)
    pixel_range = PixelRange(*image_range) if image_range else None
    if isinstance(image, Image.Image):
        return _from_pil(image, name, pixel_range)
    if isinstance(image, str | os.PathLike):
        return _from_file(image, name, pixel_range)
    raise InputError(_not_an_image(image, name))


def _from_file(path: str | os.PathLike, name: str, pixel_range: PixelRange | None) -> np.ndarray:
    text = os.fspath(path)
    if isinstance(text, bytes) or not text:
        raise InputError(f"{name}: found the path {text!r}; {_EXPECTED}")
    if "://" in text:
        raise InputError(f"{text}: found a URL, expected a file; download it, and give the file")
    file = user_path(text)
    if os.path.isdir(file):  # Path.is_dir raises for a name that is too long
        raise InputError(f"{text}: found a folder; give its files: sorted(Path({text!r}).glob('*.jpg'))")
    return read_image(str(file), "RGB", pixel_range)


def _from_pil(image: Image.Image, name: str, pixel_range: PixelRange | None) -> np.ndarray:
    try:
        # First: Pillow applies the orientation of a TIFF on loading it, and drops it then.
        load_unmapped(image)
    except InputError:
        raise
    except (*DECODE_ERRORS, AssertionError, AttributeError) as error:  # the last two for a closed file
        reason = " ".join(str(error).split()) or "its file is closed"
        raise InputError(
            f"{name}: the PIL image cannot be loaded ({reason}); open its file again, and leave it open"
        ) from None
    if image.mode == "La":  # premultiplied gray, which Pillow converts to LA only
        image = image.convert("LA")
    return _not_empty(rgb_pixels(image, name, pixel_range), name)


def _from_array(array: np.ndarray, color: str | None, name: str) -> np.ndarray:
    found = f"{name}: found a {array.dtype} array of the shape {array.shape}"
    if array.dtype != np.uint8:
        raise InputError(f"{found}, expected uint8, 0 to 255{_to_8_bits(array)}")
    _not_empty(array, name)
    if array.ndim == 2 or (array.ndim == 3 and array.shape[2] == 1):
        return np.repeat(array.reshape(*array.shape[:2], 1), 3, axis=2)
    if array.ndim != 3 or array.shape[2] not in (3, 4):
        remedy = (
            "; transpose it: array.transpose(1, 2, 0)" if array.ndim == 3 and len(array) in (3, 4) else ""
        )
        raise InputError(f"{found}, expected uint8 (H, W, 3){remedy}")
    if color is None:
        raise InputError(
            f'{found}: give the order of its channels, color="RGB" (Pillow, imageio, matplotlib) or '
            'color="BGR" (OpenCV)'
        )
    return array[..., :3] if color == "RGB" else array[..., 2::-1]


def _to_8_bits(array: np.ndarray) -> str:
    if array.dtype == bool:
        return "; convert False and True: array.astype(np.uint8) * 255"
    if array.dtype.kind not in "fiu" or not array.size:
        return ""
    if array.dtype.kind == "f" and array.max() <= 1:
        return "; convert values from 0 to 1: (array * 255).round().astype(np.uint8)"
    return "; scale its values to this range and use array.astype(np.uint8)"


def _from_tensor(tensor: Tensor, name: str) -> np.ndarray:
    found = f"{name}: found a tensor {tuple(tensor.shape)} of {tensor.dtype}"
    if tensor.dtype != uint8:
        raise InputError(
            f"{found}, expected uint8, 0 to 255, neither scaled nor normalized: the model does this itself"
        )
    if tensor.ndim != 3 or tensor.shape[0] not in (1, 3):
        remedy = ""
        if tensor.ndim == 3 and tensor.shape[2] in (1, 3, 4):
            remedy = "; permute it: tensor.permute(2, 0, 1)[:3]"
        raise InputError(f"{found}, expected (3, H, W) in RGB{remedy}")
    if tensor.is_meta or tensor.layout != strided:
        remedy = "one with values, not on the meta device" if tensor.is_meta else "tensor.to_dense()"
        raise InputError(f"{found}, {tensor.layout}, expected a dense tensor: {remedy}")
    pixels = _not_empty(tensor.detach().cpu().permute(1, 2, 0).numpy(), name)
    return np.repeat(pixels, 3, axis=2) if pixels.shape[2] == 1 else pixels


def _not_empty(pixels: np.ndarray, name: str) -> np.ndarray:
    if pixels.size == 0:
        raise InputError(f"{name}: found an empty array {pixels.shape}, expected at least one pixel")
    return pixels


def _not_an_image(given: Any, name: str) -> str:
    type_name = type(given).__name__
    if given is None:
        return f"{name}: found None (cv2.imread returns it for a file that it cannot read); {_EXPECTED}"
    if isinstance(given, bytes | bytearray | memoryview):
        return f"{name}: found {type_name}; {_BYTES}"
    if hasattr(given, "read"):
        return f"{name}: found an open file; give its path, or {_BYTES.replace('data', 'file.read()')}"
    if isinstance(given, list | tuple) and given:
        return f"{name}: found a {type_name} in a list; give one flat list of images"
    return f"{name}: found {type_name}; {_EXPECTED}"
