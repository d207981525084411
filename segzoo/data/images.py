"""Reading images as three channels of 8 bits.

Shape shorthand: H, W pixels.
"""

import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, BinaryIO, NamedTuple

import cv2
import numpy as np
from detectron2.utils.logger import log_first_n
from PIL import Image

from segzoo.utils.errors import InputError
from segzoo.utils.jpeg import jpeg_pixels

from .encodings import GRAY_16_BIT
from .image_files import (
    QUARTER_TURNS,
    is_deep_color,
    load_oriented,
    opened_file,
    orientation_of,
    stored_orientation,
    without_orientation,
)
from .pixel_range import FULL_16_BITS, PixelRange, fitting_range, to_8_bits

# An image that reaches this value in its upper 8 bits uses 15 bits or 16.
_BRIGHT = 64


class WrongSizeError(InputError):
    """Labels whose size differs from that of their image."""


class OrientationError(WrongSizeError):
    """Labels that fit the stored pixels of an image, but not its EXIF orientation."""


class OrientedImage(NamedTuple):
    """An image and its EXIF orientation.

    Attributes:
        pixels: (H, W, 3) uint8, contiguous.
        orientation: 1 (upright) to 8, whether or not it was applied.
    """

    pixels: np.ndarray
    orientation: int


def read_image(
    file_name: str, image_format: str = "RGB", pixel_range: PixelRange | None = None, apply_exif: bool = True
) -> np.ndarray:
    """Read an image as three channels of 8 bits.

    Gray is repeated, palettes and CMYK are converted, an alpha channel is dropped, as in Detectron2. Values
    of more than 8 bits are scaled to 8 bits by `pixel_range`.

    Args:
        file_name: a file in any format that Pillow reads.
        image_format: order of the channels, "RGB" or "BGR".
        pixel_range: values of the file that become 0 and 255; files of 8 bits are changed only if it lies
            within 0..255. None: the range of 8, 10, 12, 14 or 16 bits that the brightest pixel of the file
            needs, which is logged once.
        apply_exif: apply the EXIF orientation.

    Returns:
        (H, W, 3) uint8, contiguous.

    Raises:
        InputError: missing or broken file, floating-point pixels without a range, or a value outside an
            estimated range.
    """
    if image_format not in ("RGB", "BGR"):
        raise InputError(f"INPUT.FORMAT {image_format!r}; expected RGB or BGR")
    pixels = _read(file_name, pixel_range, apply_exif).pixels
    return pixels if image_format == "RGB" else np.ascontiguousarray(pixels[:, :, ::-1])


def _read(file_name: str, pixel_range: PixelRange | None, apply_exif: bool) -> OrientedImage:
    """Read an image in RGB; see `read_image`."""
    with opened_file(file_name) as (image, file):
        is_deep, file_format = is_deep_color(image), image.format
        pixels = None if is_deep else jpeg_pixels(image)
        if pixels is not None:
            orientation = orientation_of(image)
            pixels = _apply_orientation(pixels, orientation if apply_exif else 1)
            return OrientedImage(_in_range(pixels, pixel_range, file_name), orientation)
        oriented, orientation = load_oriented(image, apply_exif)
        if is_deep:
            pixels = _read_deep_color(
                oriented, file_format, file, orientation if apply_exif else 1, pixel_range, file_name
            )
        else:
            pixels = _to_rgb_8_bits(oriented, pixel_range, file_name)
    return OrientedImage(pixels, orientation)


def rgb_pixels(image: Image.Image, name: str, pixel_range: PixelRange | None = None) -> np.ndarray:
    """Convert a Pillow image as `read_image` converts a file; `name` is for messages."""
    return _to_rgb_8_bits(load_oriented(image, apply_exif=True)[0], pixel_range, name)


def _to_rgb_8_bits(image: Image.Image, pixel_range: PixelRange | None, file_name: str) -> np.ndarray:
    """Convert a loaded image to (H, W, 3) uint8."""
    if image.mode in GRAY_16_BIT or image.mode == "F":
        return np.repeat(_gray(np.asarray(image), pixel_range, file_name)[:, :, None], 3, axis=2)
    if image.mode == "P" and isinstance(image.info.get("transparency"), bytes):
        image = image.convert("RGBA")  # for RGB Pillow warns, in two lines
    return _in_range(np.array(image.convert("RGB")), pixel_range, file_name)


def _in_range(pixels: np.ndarray, pixel_range: PixelRange | None, file_name: str) -> np.ndarray:
    """Scale pixels of 8 bits, if the range lies within 0..255."""
    if pixel_range is not None and pixel_range.is_of_8_bits and pixel_range[:2] != (0, 255):
        return to_8_bits(pixels, pixel_range, file_name)
    return pixels


def load_image(
    record: Mapping[str, Any], image_format: str = "RGB", configured: Sequence[float] = ()
) -> np.ndarray:
    """Read the image of a record with the settings of its dataset; see `read_image`.

    Args:
        record: a record of `load_split`.
        configured: INPUT.IMAGE_RANGE, used unless the dataset's YAML sets image_range.
    """
    pixels = load_with_orientation(record, configured).pixels
    return pixels if image_format == "RGB" else np.ascontiguousarray(pixels[:, :, ::-1])


def load_with_orientation(record: Mapping[str, Any], configured: Sequence[float] = ()) -> OrientedImage:
    """Read the image of a record in RGB, with its EXIF orientation; see `load_image`."""
    pixel_range, _ = _ranges(record, configured)
    return _read(record["file_name"], pixel_range, record.get("exif") != "ignore")


def _ranges(
    record: Mapping[str, Any], configured: Sequence[float]
) -> tuple[PixelRange | None, PixelRange | None]:
    """Return the range used for an image, and the range of its dataset, set in the YAML or estimated."""
    own = PixelRange(*record["image_range"]) if "image_range" in record else None
    # A configured range equal to the estimate comes from it, so that larger values stay an error.
    if configured and (own is None or (own.source and own[:2] != tuple(configured))):
        low, high = configured
        return PixelRange(low, high), own
    return own, own


def describe_reading(record: Mapping[str, Any], configured: Sequence[float] = ()) -> dict[str, Any]:
    """Return the settings for reading a dataset's images that differ from the default.

    Args:
        record: a record of the dataset.
        configured: see `load_image`.

    Returns:
        `image_range`, [lowest, highest], if it has an effect on the images seen; `exif`, "ignore" if
        orientations are not applied.
    """
    used, own = _ranges(record, configured)
    settings: dict[str, Any] = {}
    # A dataset without a range has no images of more than 8 bits, as far as known.
    if used is not None and (own is not None or used.is_of_8_bits):
        settings["image_range"] = list(used[:2])
    if record.get("exif") == "ignore":
        settings["exif"] = "ignore"
    return settings


def range_override_message(record: Mapping[str, Any], configured: Sequence[float]) -> str:
    """Return a message if the configured range replaces the estimated one; else ""."""
    used, own = _ranges(record, configured)
    if own is None or used is None or used is own:
        return ""
    return (
        f"images of more than 8 bits are read with {used.low:g} as black and {used.high:g} as white, the "
        f"INPUT.IMAGE_RANGE of the configuration or checkpoint; without it, {own.low:g} and {own.high:g} are "
        f"used; image_range in {own.source} overrides both"
    )


def check_annotated_size(record: Mapping[str, Any], size: tuple[int, int]) -> None:
    """Raise WrongSizeError if a record has another size than its image.

    Args:
        size: (H, W) of the image as it is read.

    Raises:
        WrongSizeError: the sizes differ; OrientationError if the record has the size of the stored image.
    """
    annotated = record.get("height", size[0]), record.get("width", size[1])
    if annotated != size:
        raise wrong_size(
            f"{record['file_name']}: is {size[1]}x{size[0]}, but its annotation says "
            f"{annotated[1]}x{annotated[0]}; ",
            "image and annotation must belong together",
            *(record, annotated, size),
        )


def wrong_size(
    found: str, remedy: str, record: Mapping[str, Any], labeled: tuple[int, int], size: tuple[int, int]
) -> WrongSizeError:
    """Return the error for labels, or a record, whose size (H, W) differs from that of the image.

    Args:
        found, remedy: the message. If the labels fit the stored image, the remedy is about its orientation.
    """
    orientation = stored_orientation(record["file_name"]) if labeled == size[::-1] else 1
    if orientation not in QUARTER_TURNS or record.get("exif") == "ignore":
        return WrongSizeError(found + remedy)
    return OrientationError(
        f"{found}"
        f"its EXIF orientation {orientation} is applied, but the labels fit the stored pixels: if they "
        "belong to those, set exif: ignore in the YAML of the dataset"
    )


def extreme_values(file_name: str) -> tuple[int, int] | None:
    """Return the smallest and largest value of an image of more than 8 bits; None for any other file."""
    try:
        with opened_file(file_name) as (image, file):
            is_deep = is_deep_color(image)
            if image.mode not in GRAY_16_BIT and not is_deep:
                return None
            image.load()
            pixels = _decoded(file) if is_deep else np.asarray(image)
            return None if pixels is None else (int(pixels.min()), int(pixels.max()))
    except InputError:
        return None


def has_more_than_8_bits(file_name: str) -> bool:
    """Return whether an image file has integers of more than 8 bits; False if it cannot be read."""
    try:
        with opened_file(file_name) as (image, _):
            return image.mode in GRAY_16_BIT or is_deep_color(image)
    except InputError:
        return False


def range_of_files(file_names: Iterable[str], source: str) -> PixelRange | None:
    """Return the range that fits all given image files.

    Args:
        source: the dataset YAML that they belong to.

    Returns:
        None if no image has more than 8 bits, or a value is below 0 or above 65535.
    """
    extremes = [values for values in map(extreme_values, file_names) if values is not None]
    if not extremes:
        return None
    lowest, highest = min(low for low, _ in extremes), max(high for _, high in extremes)
    # For signed values, as in CT scans, black is unknown, and for 32 bits white is unknown: see `_gray`.
    return None if lowest < 0 or highest > FULL_16_BITS.high else fitting_range(highest, source)


def _apply_orientation(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Apply an EXIF orientation to (H, W) or (H, W, C) pixels, like Pillow's transpositions."""
    if orientation >= 5:
        pixels = pixels.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return np.ascontiguousarray(pixels)


def _gray(pixels: np.ndarray, pixel_range: PixelRange | None, file_name: str) -> np.ndarray:
    if pixel_range is None:
        if pixels.dtype.kind == "f":
            raise InputError(
                f"{file_name}: has floating-point pixels; set the values of black and white with "
                "image_range: [0, 1] in its dataset YAML, or INPUT.IMAGE_RANGE [0,1], or convert it to 8 bits"
            )
        if pixels.min() < 0 or pixels.max() >= 1 << 16:
            raise InputError(
                f"{file_name}: gray values range from {pixels.min()} to {pixels.max()}, expected 0 to 65535 "
                "at most; set the values of black and white, e.g. image_range: "
                f"[{pixels.min()}, {pixels.max()}], in its dataset YAML, or with INPUT.IMAGE_RANGE"
            )
        pixel_range = _own_range(int(pixels.max()), file_name)
    return to_8_bits(pixels, pixel_range, file_name)


def _own_range(brightest: int, file_name: str) -> PixelRange:
    found = fitting_range(brightest)
    if brightest > 0 and found != FULL_16_BITS:
        log_first_n(
            logging.WARNING,
            f"{file_name}: its 16 bits hold no value above {brightest}, so 0..{found.high} is used as its "
            "range, and each such file has its own; set INPUT.IMAGE_RANGE for a common range",
            name=__name__,
        )
    return found


def _read_deep_color(
    image: Image.Image,
    file_format: str | None,
    file: BinaryIO,
    turn: int,
    pixel_range: PixelRange | None,
    file_name: str,
) -> np.ndarray:
    """Return (H, W, 3) uint8 RGB of an image of 16 bits per channel, of which Pillow has loaded the upper 8.

    Args:
        file_format: Pillow's name of the format.
    """
    upper = np.array(image.convert("RGB"))
    if (pixel_range is not None and pixel_range[:2] == FULL_16_BITS[:2]) or (
        pixel_range is None and upper.max() >= _BRIGHT
    ):
        return upper
    stored = _decoded(file)
    if stored is not None:
        deep = _apply_orientation(stored, turn)
        if _is_same_image(deep, upper, file_format):
            return to_8_bits(deep, pixel_range or _own_range(int(deep.max()), file_name), file_name)
    raise InputError(
        f"{file_name}: its 16 bits per channel cannot be read, only the upper 8; convert it to 8 bits"
    )


def _is_same_image(deep: np.ndarray, upper: np.ndarray, file_format: str | None) -> bool:
    """Return whether the 16 bits of one decoder and the upper 8 bits of another are of the same pixels."""
    if file_format == "PPM":
        return True  # not compressed; Pillow scales by the maximum value in the header
    difference = cv2.absdiff((deep >> 8).astype(np.uint8), upper).max()
    return difference <= (1 if file_format == "JPEG2000" else 0)  # JPEG 2000 is rounded


def _decoded(file: BinaryIO) -> np.ndarray | None:
    """Decode a file of 16 bits per channel, for which Pillow has no mode: (H, W, 3) uint16 RGB, or None."""
    file.seek(0)
    # OpenCV applies some orientations of TIFFs.
    content = without_orientation(bytearray(file.read()))
    pixels = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_UNCHANGED)
    if pixels is None or pixels.dtype != np.uint16:
        return None
    pixels = pixels[:, :, None] if pixels.ndim == 2 else pixels
    return np.repeat(pixels[:, :, :1], 3, axis=2) if pixels.shape[2] < 3 else pixels[:, :, 2::-1]
