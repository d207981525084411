"""Opening image files with Pillow, with one-line errors for files that cannot be used."""

import struct
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Any, BinaryIO, cast

from detectron2.utils.file_io import PathManager
from PIL import Image, ImageFile, TiffImagePlugin, UnidentifiedImageError

from segzoo.utils.errors import InputError
from segzoo.utils.label_png import is_label_png, read_plain_labels
from segzoo.utils.png import decoded_png

# Pillow warns about large images in two lines each, and rejects those of twice that size: see `opened_file`.
warnings.simplefilter("ignore", Image.DecompressionBombWarning)

# What Pillow raises for files that are not images or are damaged.
DECODE_ERRORS = (OSError, SyntaxError, ValueError, EOFError, struct.error, Image.DecompressionBombError)

# The orientation tag of EXIF and TIFF, and its values that exchange width and height.
ORIENTATION = 274
QUARTER_TURNS = (5, 6, 7, 8)

_TRANSPOSITIONS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# The inverses of the orientations that are not their own inverse.
_INVERSE = {6: 8, 8: 6}

# Lossy formats by Pillow's names. JPEG 2000 may be lossless, but the file does not tell.
_LOSSY = {"JPEG": "JPEG", "MPO": "JPEG", "JPEG2000": "JPEG 2000", "AVIF": "AVIF", "HEIF": "HEIF"}
_LOSSY_IN_TIFF = {"jpeg": "JPEG", "tiff_jpeg": "JPEG", "webp": "WebP"}

_TIFF_HEADS = (b"II*\x00", b"MM\x00*", b"II+\x00", b"MM\x00+")
_BITS_PER_SAMPLE, _SAMPLES_PER_PIXEL, _SAMPLE_FORMAT = 258, 277, 339
_PLANAR_CONFIGURATION = 284
_SAMPLE_FORMAT_NAMES = {2: "signed ", 3: "floating-point ", 5: "complex ", 6: "complex "}
_NEW_SUBFILE_TYPE, _SUBFILE_TYPE = 254, 255

# Other formats that are used for labels, by their first bytes.
_OTHER_FORMATS = {
    b"\x93NUMPY": "a NumPy array",
    b"PK\x03\x04": "a zip archive, or a NumPy array (.npz)",
    b"MATLAB": "a MATLAB file",
    b"\x89HDF": "an HDF5 file, as MATLAB writes",
    b"{": "JSON",
    b"[": "JSON",
    b"<?xml": "XML",
    b"<annotation": "XML",
    b"0 ": "text, as in YOLO's format",
}
# Brands of HEIF, the format of many phones.
_HEIF_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")


class BrokenFileError(InputError):
    """A file that is missing or is not an image."""


class UnsuitableFileError(BrokenFileError):
    """An intact image file with contents that are not supported."""


class LossyLabelsError(InputError):
    """Labels in a lossy format."""


@contextmanager
def opened_file(file_name: str) -> Iterator[tuple[ImageFile.ImageFile, BinaryIO]]:
    """Open an image file with Pillow and read its header only.

    Raises:
        BrokenFileError: the file is missing or cannot be decoded, on opening or in the body of the `with`.
        UnsuitableFileError: a TIFF with several pages, or with bands or a sample format that Pillow does not
            read or reads wrong.
    """
    with _reported(file_name) as file, _opened(file, file_name) as image:
        yield image, file


@contextmanager
def _opened(file: BinaryIO, file_name: str) -> Iterator[ImageFile.ImageFile]:
    with Image.open(file) as image:
        _check_pages(image, file_name)
        _check_planes(image, file_name)
        yield image


@contextmanager
def _reported(file_name: str) -> Iterator[BinaryIO]:
    """Open a file, and explain in one line what Pillow raises for it in the body of the `with`."""
    try:
        with PathManager.open(file_name, "rb") as file:
            yield file
    except InputError:
        raise
    except FileNotFoundError:
        raise BrokenFileError(f"{file_name}: does not exist; restore the file") from None
    except Image.DecompressionBombError:
        limit = 2 * (Image.MAX_IMAGE_PIXELS or 0) // 10**6
        raise BrokenFileError(
            f"{file_name}: cannot be read as an image (more than {limit} million pixels); cut it into tiles"
        ) from None
    except DECODE_ERRORS as error:
        tiff = _tiff_content(file_name) if isinstance(error, UnidentifiedImageError) else None
        if tiff is not None:
            raise UnsuitableFileError(
                f"{file_name}: is a TIFF of {tiff}, which Pillow cannot read; save images with three bands "
                "of 8 or 16 bits (RGB), labels with one"
            ) from None
        why = _why(error, file_name)
        remedy = "replace the file"
        if "HEIF" in why:
            remedy = "convert it to JPEG or PNG"
        elif why.startswith("it is ") and why != "it is empty":
            remedy = "convert it to an image"
        raise BrokenFileError(f"{file_name}: cannot be read as an image ({why}); {remedy}") from None


@contextmanager
def opened_image(file_name: str) -> Iterator[Image.Image]:
    """Open and decode an image file with Pillow.

    Raises:
        InputError: see `opened_file`.
    """
    with opened_file(file_name) as (image, _):
        decoded = decoded_png(image)
        if decoded is None:
            image.load()
        yield image if decoded is None else decoded


@contextmanager
def opened_labels(
    file_name: str, as_stored: bool = False, *, decoded: bool = True
) -> Iterator[tuple[Image.Image, int]]:
    """Open and decode a label file, whose values must be exact.

    Args:
        as_stored: apply no orientation. By default the orientation of a TIFF is applied, and no other.
        decoded: False leaves PNGs to `label_array` and `rgb_codes`, which are faster, in the body of the
            `with`; and yields `PlainLabels` in the place of the image of a plain PNG.

    Yields:
        The image, and its EXIF orientation, 1 (upright) to 8, unless that was applied (then 1).

    Raises:
        LossyLabelsError: the format is lossy.
        UnsuitableFileError: an animation, or 16 bits in several channels. See also `opened_file`.
    """
    with _reported(file_name) as file:
        plain = None if decoded else read_plain_labels(file)
        if plain is not None:
            yield cast(Image.Image, plain), 1
            return
        file.seek(0)
        with _opened(file, file_name) as image:
            _check_exact(image, file, file_name)
            # A palette is read from a loaded image.
            if not decoded and image.mode != "P" and is_label_png(image):
                yield image, orientation_of(image)
                return
            is_tiff = image.format == "TIFF"
            upright, orientation = load_oriented(image, apply_exif=is_tiff and not as_stored)
            yield upright, 1 if is_tiff else orientation


def _check_exact(image: ImageFile.ImageFile, file: BinaryIO, file_name: str) -> None:
    """Raise InputError for an opened image that may not have the values of the labels."""
    lossy = lossy_format(image, file)
    if lossy is not None:
        raise LossyLabelsError(
            f"{file_name}: holds labels as {lossy}, a lossy format that changes values; export them "
            "again from their source as PNG (converting this file does not undo the changes)"
        )
    frames = 1 if image.format == "TIFF" else getattr(image, "n_frames", 1)
    if frames > 1:
        raise UnsuitableFileError(
            f"{file_name}: holds labels as an animation of {frames} frames, of which only one would be "
            "read; save each frame as a separate file"
        )
    if is_deep_color(image):
        raise UnsuitableFileError(
            f"{file_name}: holds labels in several channels of 16 bits, of which only 8 would be read; "
            "save one channel of 8 or 16 bits (for colors, as in panoptic labels, three of 8)"
        )


def load_oriented(image: Image.Image, apply_exif: bool) -> tuple[Image.Image, int]:
    """Decode an opened image, apply its EXIF orientation on request, and return it with the orientation."""
    is_tiff = image.format == "TIFF"
    # Pillow applies a TIFF's orientation while loading it, and finds the EXIF data of a PNG only then.
    orientation = orientation_of(image) if is_tiff else 1
    decoded = decoded_png(image)
    if decoded is None:
        image.load()
    if is_tiff:
        turn = 1 if apply_exif else _INVERSE.get(orientation, orientation)
    else:
        orientation = orientation_of(image)
        turn = orientation if apply_exif else 1
    loaded = image if decoded is None else decoded
    return (loaded.transpose(_TRANSPOSITIONS[turn]) if turn > 1 else loaded), orientation


def load_unmapped(image: Any) -> None:
    """Decode, in place, an image that was opened elsewhere, without Pillow's memory mapping.

    Pillow maps an uncompressed file that was opened by name into memory. For a TIFF with an orientation of
    90 degrees it then confuses width and height, and the rows of pixels are scrambled.

    Raises:
        InputError: the image is loaded and scrambled already.
    """
    name = getattr(image, "filename", "")
    if image.format != "TIFF" or not name:
        image.load()
        return
    may_be_scrambled = getattr(image, "map", None) is not None and image.width != image.height
    if may_be_scrambled and stored_orientation(name) in QUARTER_TURNS:
        raise InputError(
            f"{name}: Pillow has scrambled its rows in loading it (an uncompressed TIFF with an orientation "
            "of 90 degrees); give its path, or the image before it is loaded"
        )
    image.filename = ""  # without a name Pillow does not map the file
    try:
        image.load()
    finally:
        image.filename = name


def lossy_format(image: ImageFile.ImageFile, file: BinaryIO) -> str | None:
    """Return the name of the format of an opened image that is not loaded yet, if it is lossy; else None."""
    if image.format == "WEBP":
        return None if _is_lossless_webp(file) else "lossy WebP"
    if image.format == "TIFF":
        name = _LOSSY_IN_TIFF.get(image.info.get("compression", ""))
        return f"TIFF with {name} compression" if name else None
    return _LOSSY.get(image.format or "")


def _is_lossless_webp(file: BinaryIO) -> bool:
    """Return whether the first image of a WebP file is lossless; restores the file position."""
    position = file.tell()
    try:
        file.seek(12)
        while len(head := file.read(8)) == 8:
            name, size = head[:4], int.from_bytes(head[4:], "little")
            if name in (b"VP8 ", b"VP8L"):
                return name == b"VP8L"
            # A frame of an animation has a header of 16 bytes before the chunks of its image.
            file.seek(16 if name == b"ANMF" else size + size % 2, 1)
        return False
    finally:
        file.seek(position)


def is_deep_color(image: ImageFile.ImageFile) -> bool:
    """Return whether an opened image that is not loaded has several 16-bit channels (Pillow keeps 8 bits)."""
    if image.mode not in ("RGB", "RGBA", "LA"):
        return False
    if image.format == "JPEG2000" and image.fp is not None:
        return _bits_of_jpeg_2000(image.fp) == 16  # Pillow keeps the upper 8 of any number of bits
    if image.format == "PPM":
        return any(isinstance(tile[3], tuple) and tile[3][-1] > 255 for tile in image.tile)
    return any(";16" in str(tile[3]) for tile in image.tile)


def _bits_of_jpeg_2000(file: IO[bytes]) -> int | None:
    """Return the bits per channel of the first header, None without one; restores the file position."""
    position = file.tell()
    file.seek(0)
    head = file.read(1024)
    file.seek(position)
    for start, offset in ((b"ihdr", 14), (b"\xff\x4f\xff\x51", 42)):
        place = head.find(start)
        if place >= 0 and place + offset < len(head):
            return (head[place + offset] & 127) + 1
    return None


def orientation_of(image: Any) -> int:
    """Return the EXIF orientation of an image, 1 (upright) to 8; a loaded TIFF has none."""
    # EXIF data that cannot be parsed is ignored.
    try:
        if image.format == "PNG" and image.tile and image.fp and not _may_have_late_exif(image.fp):
            # PngImageFile.getexif decodes the pixels, to see whether EXIF data follows them.
            found = Image.Image.getexif(image).get(ORIENTATION, 1)
        else:
            found = image.getexif().get(ORIENTATION, 1)
    except DECODE_ERRORS:
        return 1
    return found if found in range(1, 9) else 1


def _may_have_late_exif(file: IO[bytes]) -> bool:
    """Return whether EXIF data or text follows the pixels of a PNG file; restores the file position."""
    position = file.tell()
    try:
        file.seek(8)
        is_late = False
        while len(head := file.read(8)) == 8 and head[4:] != b"IEND":
            if is_late and head[4:] in (b"eXIf", b"tEXt", b"zTXt", b"iTXt"):
                return True
            is_late = is_late or head[4:] == b"IDAT"
            file.seek(int.from_bytes(head[:4], "big") + 4, 1)
        return False
    finally:
        file.seek(position)


def stored_orientation(file_name: str) -> int:
    """Return the EXIF orientation of a file; 1 (upright) if it has none or cannot be read."""
    try:
        with opened_file(file_name) as (image, _):
            return orientation_of(image)
    except InputError:
        return 1


def without_orientation(content: bytearray) -> bytearray:
    """Set the orientation of a TIFF's first page to upright, in place, and return the bytes."""
    order = {b"II*\x00": "<", b"MM\x00*": ">"}.get(bytes(content[:4]))
    try:
        if order is not None:
            (directory,) = struct.unpack_from(order + "I", content, 4)
            (count,) = struct.unpack_from(order + "H", content, directory)
            for entry in range(directory + 2, directory + 2 + 12 * count, 12):
                if struct.unpack_from(order + "H", content, entry) == (ORIENTATION,):
                    struct.pack_into(order + "H", content, entry + 8, 1)
    except struct.error:
        pass  # The decoder reports what is wrong.
    return content


def as_tiff(image: ImageFile.ImageFile) -> TiffImagePlugin.TiffImageFile:
    """Return the same image, of the format TIFF, cast to the type that has its tags."""
    return cast(TiffImagePlugin.TiffImageFile, image)


def _check_pages(image: ImageFile.ImageFile, file_name: str) -> None:
    """Raise UnsuitableFileError for a TIFF with several pages, unless the others are reduced copies."""
    if image.format != "TIFF" or as_tiff(image).n_frames == 1:
        return
    pages, size = 1, image.size
    for page in range(1, as_tiff(image).n_frames):
        try:
            image.seek(page)
            pages += not _is_reduced(image, size)
        except DECODE_ERRORS:
            pages += 1
    image.seek(0)
    if pages > 1:
        raise UnsuitableFileError(
            f"{file_name}: is a TIFF of {pages} pages, of which only one would be read; save each page that "
            "is an image (or the bands together, as RGB) as a separate file"
        )


def _check_planes(image: ImageFile.ImageFile, file_name: str) -> None:
    """Raise UnsuitableFileError for a planar TIFF of more than 8 bits, which Pillow reads wrong."""
    if image.format != "TIFF" or max(as_tiff(image).tag_v2.get(_BITS_PER_SAMPLE, (1,))) <= 8:
        return
    is_planar = as_tiff(image).tag_v2.get(_PLANAR_CONFIGURATION) == 2
    if is_planar and any(len(_raw_mode(tile)) == 1 for tile in image.tile):
        raise UnsuitableFileError(
            f"{file_name}: is a planar TIFF of {_tiff_content(file_name)}, which Pillow reads wrong; save it "
            "with interleaved bands (planarconfig contig)"
        )


def _raw_mode(tile: tuple) -> str:
    return tile[3] if isinstance(tile[3], str) else tile[3][0]


def _is_reduced(image: ImageFile.ImageFile, size: tuple[int, int]) -> bool:
    """Return whether the page is a reduced copy, or a mask, of a page of `size` (W, H)."""
    tags = as_tiff(image).tag_v2
    if tags.get(_NEW_SUBFILE_TYPE, 0) & 5 or tags.get(_SUBFILE_TYPE) == 2:
        return True
    (width, height), (full_width, full_height) = image.size, size
    # The aspect ratio must agree to a pixel.
    skewed = abs(width * full_height - height * full_width) > max(full_width, full_height)
    return width < full_width and height < full_height and not skewed


def _tiff_content(file_name: str) -> str | None:
    """Return the content of a TIFF file, e.g. "4 bands of 8 bits"; None if it is broken or not a TIFF."""
    try:
        with PathManager.open(file_name, "rb") as file:
            head = file.read(8)
            if head[:4] not in _TIFF_HEADS:
                return None
            head += file.read(8) if head[2:4] in (b"+\x00", b"\x00+") else b""
            tags = TiffImagePlugin.ImageFileDirectory_v2(head)
            file.seek(tags.next)
            tags.load(file)
            bits, bands = tags.get(_BITS_PER_SAMPLE, (1,)), tags.get(_SAMPLES_PER_PIXEL, 1)
            number_format = _SAMPLE_FORMAT_NAMES.get(tags.get(_SAMPLE_FORMAT, (1,))[0], "")
    except (*DECODE_ERRORS, TypeError, IndexError, KeyError):
        return None
    several = f"{bands} bands" if bands != 1 else "one band"
    return f"{several} of {number_format}{bits[0]} bits" if bits else None


def _why(error: Exception, file_name: str) -> str:
    """Return the reason why Pillow or the system cannot read a file."""
    if isinstance(error, UnidentifiedImageError):
        with PathManager.open(file_name, "rb") as file:
            head = file.read(12)
        if head[4:8] == b"ftyp" and head[8:12] in _HEIF_BRANDS:
            return "it is HEIF/HEIC, which Pillow does not support"
        for start, name in _OTHER_FORMATS.items():
            if head.startswith(start):
                return f"it is {name}"
        return f"unknown format, it begins with {head!r}" if head else "it is empty"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.lower()
    return " ".join(str(error).split()) or type(error).__name__
