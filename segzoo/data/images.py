"""Reading pictures as three channels of 8 bits.

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

from .encodings import GRAY_16_BIT
from .image_files import (
    QUARTER_TURNS,
    is_deep_color,
    loaded,
    opened_file,
    stored_orientation,
    without_orientation,
)
from .pixel_range import FULL_16_BITS, PixelRange, fitting_range, to_8_bits

# An image that reaches this value when it keeps its upper 8 bits uses 15 bits or 16.
_BRIGHT = 64


class WrongSizeError(InputError):
    """Labels of another size than their image."""


class TurnedError(WrongSizeError):
    """Labels that lie on the pixels of an image as stored, where its EXIF orientation turns it."""


class Reading(NamedTuple):
    """A picture as it was read.

    Attributes:
        pixels: (H, W, 3) uint8, contiguous.
        orientation: of its EXIF data, 1 (upright) to 8.
    """

    pixels: np.ndarray
    orientation: int


def read_image(
    file_name: str, image_format: str = "RGB", pixel_range: PixelRange | None = None, turned: bool = True
) -> np.ndarray:
    """Read a picture as three channels of 8 bits.

    Gray is repeated, palettes and CMYK are converted, an alpha channel is dropped, as Detectron2 does. Values
    of more than 8 bits become 8 by `pixel_range`.

    Args:
        file_name: any format that Pillow reads.
        image_format: order of the channels, "RGB" or "BGR".
        pixel_range: values of the file that become 0 and 255; files of 8 bits are changed only where it lies
            within 0..255. None: by the brightest pixel of the file, all bits of 8, 10, 12, 14 or 16, which is
            logged once.
        turned: apply the EXIF orientation.

    Returns:
        (H, W, 3) uint8, contiguous.

    Raises:
        InputError: missing or broken file, floating-point pixels without a range, or a value outside a range
            that was not given.
    """
    if image_format not in ("RGB", "BGR"):
        raise InputError(f"INPUT.FORMAT {image_format!r} is RGB or BGR")
    pixels = _read(file_name, pixel_range, turned).pixels
    return pixels if image_format == "RGB" else np.ascontiguousarray(pixels[:, :, ::-1])


def _read(file_name: str, pixel_range: PixelRange | None, turned: bool) -> Reading:
    """See `read_image`; the order of the channels is RGB."""
    with opened_file(file_name) as (image, file):
        is_deep, kind = is_deep_color(image), image.format
        picture, orientation = loaded(image, turned)
        if is_deep:
            pixels = _deep_color(picture, kind, file, orientation if turned else 1, pixel_range, file_name)
        else:
            pixels = _in_8_bits(picture, pixel_range, file_name)
    return Reading(pixels, orientation)


def rgb_pixels(image: Image.Image, name: str, pixel_range: PixelRange | None = None) -> np.ndarray:
    """Return the pixels of a picture that is in memory, as `read_image` makes them of a file; `name`: for errors."""
    return _in_8_bits(loaded(image, turned=True)[0], pixel_range, name)


def _in_8_bits(image: Image.Image, pixel_range: PixelRange | None, file_name: str) -> np.ndarray:
    """Return (H, W, 3) uint8 of a loaded image."""
    if image.mode in GRAY_16_BIT or image.mode == "F":
        return np.repeat(_gray(np.asarray(image), pixel_range, file_name)[:, :, None], 3, axis=2)
    if image.mode == "P" and isinstance(image.info.get("transparency"), bytes):
        image = image.convert("RGBA")  # of RGB Pillow warns, in two lines
    pixels = np.array(image.convert("RGB"))
    if pixel_range is not None and pixel_range.is_of_8_bits and pixel_range[:2] != (0, 255):
        pixels = to_8_bits(pixels, pixel_range, file_name)
    return pixels


def load_image(
    record: Mapping[str, Any], image_format: str = "RGB", configured: Sequence[float] = ()
) -> np.ndarray:
    """Read the picture of a dataset dict as its dataset says: see `read_image`.

    Args:
        record: of `load_split`.
        configured: INPUT.IMAGE_RANGE, which counts unless the dataset's YAML has an image_range.
    """
    pixels = load_reading(record, configured).pixels
    return pixels if image_format == "RGB" else np.ascontiguousarray(pixels[:, :, ::-1])


def load_reading(record: Mapping[str, Any], configured: Sequence[float] = ()) -> Reading:
    """As `load_image`, in RGB, and what EXIF says."""
    pixel_range, _ = _ranges(record, configured)
    return _read(record["file_name"], pixel_range, record.get("exif") != "ignore")


def _ranges(
    record: Mapping[str, Any], configured: Sequence[float]
) -> tuple[PixelRange | None, PixelRange | None]:
    """Return the range that counts for an image, and that of its dataset, given or found out."""
    own = PixelRange(*record["image_range"]) if "image_range" in record else None
    # Equal to what was found out, it comes from there, and larger values stay an error.
    if configured and (own is None or (own.source and own[:2] != tuple(configured))):
        low, high = configured
        return PixelRange(low, high), own
    return own, own


def describe_reading(record: Mapping[str, Any], configured: Sequence[float] = ()) -> dict[str, Any]:
    """Return how the images of a dataset are read, where that is not the usual way: what changes their pixels.

    Args:
        record: one of its dataset dicts.
        configured: as of `load_image`.

    Returns:
        `image_range`, [lowest, highest], where it has an effect on what was seen of its images; `exif`,
        "ignore" where orientations are not applied.
    """
    used, own = _ranges(record, configured)
    facts: dict[str, Any] = {}
    # Without one of its own, nothing of more than 8 bits was found in the dataset.
    if used is not None and (own is not None or used.is_of_8_bits):
        facts["image_range"] = list(used[:2])
    if record.get("exif") == "ignore":
        facts["exif"] = "ignore"
    return facts


def range_remark(record: Mapping[str, Any], configured: Sequence[float]) -> str:
    """Return which range counts, where that of the configuration replaces what was found out; "" elsewhere."""
    used, own = _ranges(record, configured)
    if own is None or used is None or used is own:
        return ""
    return (
        f"images of more than 8 bits are read with {used.low:g} as black and {used.high:g} as white, the "
        f"INPUT.IMAGE_RANGE of the configuration or checkpoint; alone, they would get {own.low:g} and "
        f"{own.high:g}; image_range in {own.source} counts before both"
    )


def check_annotated_size(record: Mapping[str, Any], size: tuple[int, int]) -> None:
    """Find a dataset dict that says another size than its image has.

    Args:
        size: of the image as it is read, (H, W).

    Raises:
        WrongSizeError: it does; TurnedError, where it says that of the image as it is stored.
    """
    annotated = record.get("height", size[0]), record.get("width", size[1])
    if annotated != size:
        raise wrong_size(
            f"{record['file_name']}: is {size[1]}x{size[0]}, but its annotation says "
            f"{annotated[1]}x{annotated[0]}; ",
            "image and annotation have to belong together",
            *(record, annotated, size),
        )


def wrong_size(
    found: str, remedy: str, record: Mapping[str, Any], labeled: tuple[int, int], size: tuple[int, int]
) -> WrongSizeError:
    """Return the error of labels of another size, (H, W), than their image, or than that of a dataset dict.

    Args:
        found, remedy: the message. Where they fit the image as it is stored, the remedy is another one.
    """
    orientation = stored_orientation(record["file_name"]) if labeled == size[::-1] else 1
    if orientation not in QUARTER_TURNS or record.get("exif") == "ignore":
        return WrongSizeError(found + remedy)
    return TurnedError(
        f"{found}"
        f"its EXIF orientation {orientation} turns it, and they fit the pixels as stored: if they lie on "
        "those, set exif: ignore in the YAML of the dataset"
    )


def extreme_values(file_name: str) -> tuple[int, int] | None:
    """Return the smallest and largest value of an image file of more than 8 bits a channel; None for another.

    Also for one that is broken.
    """
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
    """Return whether an image file has integers of more than 8 bits; False for one that cannot be read."""
    try:
        with opened_file(file_name) as (image, _):
            return image.mode in GRAY_16_BIT or is_deep_color(image)
    except InputError:
        return False


def range_of_files(file_names: Iterable[str], source: str) -> PixelRange | None:
    """Return the range that fits all of some image files.

    None where none has more than 8 bits, or some values are below 0 or above 65535.

    Args:
        source: the dataset YAML that they belong to.
    """
    extremes = [values for values in map(extreme_values, file_names) if values is not None]
    if not extremes:
        return None
    lowest, highest = min(low for low, _ in extremes), max(high for _, high in extremes)
    # Of signed values, as of CT scans, nobody knows which is black; of 32 bits, which is white: see `_gray`.
    return None if lowest < 0 or highest > FULL_16_BITS.high else fitting_range(highest, source)


def _turned(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """As the EXIF orientation says, like Pillow's transpositions: (H, W) or (W, H), and channels."""
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
                f"{file_name}: has floating-point pixels; say which become black and white with image_range: "
                "[0, 1] in its dataset YAML, or INPUT.IMAGE_RANGE [0,1], or convert it to 8 bits"
            )
        if pixels.min() < 0 or pixels.max() >= 1 << 16:
            raise InputError(
                f"{file_name}: gray values go from {pixels.min()} to {pixels.max()}, expected 0 to 65535 at "
                "most; say which become black and white, as image_range: "
                f"[{pixels.min()}, {pixels.max()}], in its dataset YAML, or with INPUT.IMAGE_RANGE"
            )
        pixel_range = _own_range(int(pixels.max()), file_name)
    return to_8_bits(pixels, pixel_range, file_name)


def _own_range(brightest: int, file_name: str) -> PixelRange:
    found = fitting_range(brightest)
    if brightest > 0 and found != FULL_16_BITS:
        log_first_n(
            logging.WARNING,
            f"{file_name}: its 16 bits hold no value above {brightest}, so 0..{found.high} is taken for its "
            "range, and each such file has its own; set INPUT.IMAGE_RANGE for one range",
            name=__name__,
        )
    return found


def _deep_color(
    image: Image.Image,
    kind: str | None,
    file: BinaryIO,
    turn: int,
    pixel_range: PixelRange | None,
    file_name: str,
) -> np.ndarray:
    """Return (H, W, 3) uint8 RGB of an image of 16 bits a channel, of which Pillow has loaded the upper 8.

    Args:
        kind: Pillow's name of the format.
    """
    upper = np.array(image.convert("RGB"))
    if (pixel_range is not None and pixel_range[:2] == FULL_16_BITS[:2]) or (
        pixel_range is None and upper.max() >= _BRIGHT
    ):
        return upper
    stored = _decoded(file)
    if stored is not None:
        deep = _turned(stored, turn)
        if _is_same_picture(deep, upper, kind):
            return to_8_bits(deep, pixel_range or _own_range(int(deep.max()), file_name), file_name)
    raise InputError(
        f"{file_name}: its 16 bits a channel cannot be read, only the upper 8; convert it to 8 bits"
    )


def _is_same_picture(deep: np.ndarray, upper: np.ndarray, kind: str | None) -> bool:
    """Return whether 16 bits and 8, as two decoders give them, are of the same pixels."""
    if kind == "PPM":
        return True  # not compressed; Pillow spreads it by the largest value that its header says
    difference = cv2.absdiff((deep >> 8).astype(np.uint8), upper).max()
    return difference <= (1 if kind == "JPEG2000" else 0)  # which is rounded


def _decoded(file: BinaryIO) -> np.ndarray | None:
    """Return (H, W, 3) uint16 RGB of a file of 16 bits a channel, as stored, or None. Pillow has no such mode."""
    file.seek(0)
    # OpenCV turns TIFFs by some orientations.
    content = without_orientation(bytearray(file.read()))
    pixels = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_UNCHANGED)
    if pixels is None or pixels.dtype != np.uint16:
        return None
    pixels = pixels[:, :, None] if pixels.ndim == 2 else pixels
    return np.repeat(pixels[:, :, :1], 3, axis=2) if pixels.shape[2] < 3 else pixels[:, :, 2::-1]
