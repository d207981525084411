"""Opening image files with Pillow: what a file is, and one line for each that cannot be used."""

import struct
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Any, BinaryIO, cast

from detectron2.utils.file_io import PathManager
from PIL import Image, ImageFile, TiffImagePlugin, UnidentifiedImageError

from segzoo.utils.errors import InputError

# Pillow warns of large images in two lines each, and refuses those of twice that size: see `opened_image`.
warnings.simplefilter("ignore", Image.DecompressionBombWarning)

# What Pillow raises for files that are not, or no longer, images.
BROKEN = (OSError, SyntaxError, ValueError, EOFError, struct.error, Image.DecompressionBombError)

# The tag of EXIF and TIFF that says how to turn an image, and its values that exchange width and height.
ORIENTATION = 274
QUARTER_TURNS = (5, 6, 7, 8)

_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# The orientations that undo those which do not undo themselves.
_BACK = {6: 8, 8: 6}

# Formats whose compression changes values, as Pillow calls them. JPEG 2000 may be without loss, but the file
# does not say whether it was cut to a size.
_LOSSY = {"JPEG": "JPEG", "MPO": "JPEG", "JPEG2000": "JPEG 2000", "AVIF": "AVIF", "HEIF": "HEIF"}
_LOSSY_IN_TIFF = {"jpeg": "JPEG", "tiff_jpeg": "JPEG", "webp": "WebP"}

_TIFF_HEADS = (b"II*\x00", b"MM\x00*", b"II+\x00", b"MM\x00+")
_BITS_PER_SAMPLE, _SAMPLES_PER_PIXEL, _SAMPLE_FORMAT = 258, 277, 339
_PLANAR_CONFIGURATION = 284
_SAMPLE_KINDS = {2: "signed ", 3: "floating-point ", 5: "complex ", 6: "complex "}
_NEW_SUBFILE_TYPE, _SUBFILE_TYPE = 254, 255

# What people have labels in that are no images, by their first bytes.
_NO_IMAGES = {
    b"\x93NUMPY": "an array of NumPy",
    b"PK\x03\x04": "a zip archive, or an array of NumPy (.npz)",
    b"MATLAB": "a file of MATLAB",
    b"\x89HDF": "an HDF5 file, as MATLAB writes",
    b"{": "JSON",
    b"[": "JSON",
    b"<?xml": "XML",
    b"<annotation": "XML",
    b"0 ": "text, as of YOLO",
}
# Brands of HEIF, as phones write it.
_HEIF = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")


class BrokenFileError(InputError):
    """A file that is missing or is no image."""


class UnsuitableFileError(BrokenFileError):
    """An image file that is whole, but has contents that are not read."""


class LossyLabelsError(InputError):
    """Labels in a format that changes values."""


@contextmanager
def opened_file(file_name: str) -> Iterator[tuple[ImageFile.ImageFile, BinaryIO]]:
    """Open an image file with Pillow, and reads its header only.

    Raises:
        BrokenFileError: the file is missing or cannot be decoded, then or in the body of the `with`.
        UnsuitableFileError: it is a TIFF of several pages, or of bands or numbers that Pillow does not read,
            or reads wrong.
    """
    try:
        with PathManager.open(file_name, "rb") as file, Image.open(file) as image:
            _check_pages(image, file_name)
            _check_planes(image, file_name)
            yield image, file
    except InputError:
        raise
    except FileNotFoundError:
        raise BrokenFileError(f"{file_name}: does not exist; restore the file") from None
    except Image.DecompressionBombError:
        limit = 2 * (Image.MAX_IMAGE_PIXELS or 0) // 10**6
        raise BrokenFileError(
            f"{file_name}: cannot be read as an image (more than {limit} million pixels); cut it into tiles"
        ) from None
    except BROKEN as error:
        tiff = _tiff_content(file_name) if isinstance(error, UnidentifiedImageError) else None
        if tiff is not None:
            raise UnsuitableFileError(
                f"{file_name}: is a TIFF of {tiff}, which Pillow cannot read; save three bands of 8 or 16 "
                "bits (RGB) as an image, one as labels"
            ) from None
        why = _why(error, file_name)
        remedy = "replace the file"
        if "HEIF" in why:
            remedy = "convert it to JPEG or PNG"
        elif why.startswith("it is ") and why != "it is empty":
            remedy = "convert it to an image"
        raise BrokenFileError(f"{file_name}: cannot be read as an image ({why}); {remedy}") from None


@contextmanager
def opened_image(file_name: str) -> Iterator[ImageFile.ImageFile]:
    """Open and decodes an image file with Pillow.

    Raises:
        InputError: see `opened_file`.
    """
    with opened_file(file_name) as (image, _):
        image.load()
        yield image


@contextmanager
def opened_labels(file_name: str, as_stored: bool = False) -> Iterator[tuple[Image.Image, int]]:
    """As `opened_image`, for files whose values mean something.

    Args:
        as_stored: without its orientation. Otherwise that of a TIFF is applied, by Pillow, and no other.

    Yields:
        The image, and the EXIF orientation that it has and that was not applied: 1 (upright) to 8.

    Raises:
        LossyLabelsError: the format changes values.
        UnsuitableFileError: an animation, or 16 bits in several channels. See also `opened_file`.
    """
    with opened_file(file_name) as (image, file):
        lossy = lossy_format(image, file)
        if lossy is not None:
            raise LossyLabelsError(
                f"{file_name}: holds labels as {lossy}, a lossy format that changes values; export them "
                "again from their source as PNG (a converted file keeps the damage)"
            )
        frames = 1 if image.format == "TIFF" else getattr(image, "n_frames", 1)
        if frames > 1:
            raise UnsuitableFileError(
                f"{file_name}: holds labels as an animation of {frames} frames, of which one would be read; "
                "save each as a file of its own"
            )
        if is_deep_color(image):
            raise UnsuitableFileError(
                f"{file_name}: holds labels in 16 bits of several channels, of which 8 would be read; "
                "save one channel of 8 or 16 bits (of colors, as of panoptic labels, three of 8)"
            )
        is_tiff = image.format == "TIFF"
        upright, orientation = loaded(image, turned=is_tiff and not as_stored)
        yield upright, 1 if is_tiff else orientation


def loaded(image: Image.Image, turned: bool) -> tuple[Image.Image, int]:
    """Return an opened image with its pixels, turned by its EXIF orientation or as they are stored; and that."""
    is_tiff = image.format == "TIFF"
    # Pillow turns a TIFF while it loads it, and finds the EXIF data of a PNG only then.
    orientation = orientation_of(image) if is_tiff else 1
    image.load()
    if is_tiff:
        turn = 1 if turned else _BACK.get(orientation, orientation)
    else:
        orientation = orientation_of(image)
        turn = orientation if turned else 1
    return (image.transpose(_TURNS[turn]) if turn > 1 else image), orientation


def load_unmapped(image: Any) -> None:
    """Decode, in place, an image that was opened elsewhere.

    Pillow maps an uncompressed file that was opened by its name into memory. It takes the width for the
    height then in a TIFF that has to be turned by 90 degrees, and tears the rows of pixels.

    Raises:
        InputError: this has happened already.
    """
    name = getattr(image, "filename", "")
    if image.format != "TIFF" or not name:
        image.load()
        return
    is_torn = getattr(image, "map", None) is not None and image.width != image.height
    if is_torn and stored_orientation(name) in QUARTER_TURNS:
        raise InputError(
            f"{name}: Pillow has torn its rows in loading it (a TIFF without compression, turned by 90 "
            "degrees); give its path, or the image before it is loaded"
        )
    image.filename = ""  # without a name nothing is mapped
    try:
        image.load()
    finally:
        image.filename = name


def lossy_format(image: ImageFile.ImageFile, file: BinaryIO) -> str | None:
    """Return the name of the format of an opened image, not yet loaded, where it changes values; else None."""
    if image.format == "WEBP":
        return None if _is_lossless_webp(file) else "lossy WebP"
    if image.format == "TIFF":
        name = _LOSSY_IN_TIFF.get(image.info.get("compression", ""))
        return f"TIFF with {name} compression" if name else None
    return _LOSSY.get(image.format or "")


def _is_lossless_webp(file: BinaryIO) -> bool:
    """Return whether the (first) picture of a WebP file is in its lossless format; leaves the file where it was."""
    position = file.tell()
    try:
        file.seek(12)
        while len(head := file.read(8)) == 8:
            name, size = head[:4], int.from_bytes(head[4:], "little")
            if name in (b"VP8 ", b"VP8L"):
                return name == b"VP8L"
            # A frame of an animation has 16 bytes of its own before the picture's chunks.
            file.seek(16 if name == b"ANMF" else size + size % 2, 1)
        return False
    finally:
        file.seek(position)


def is_deep_color(image: ImageFile.ImageFile) -> bool:
    """Return whether an image that is opened but not loaded has 16 bits in several channels: Pillow will keep 8."""
    if image.mode not in ("RGB", "RGBA", "LA"):
        return False
    if image.format == "JPEG2000" and image.fp is not None:
        return _bits_of_jpeg_2000(image.fp) == 16  # it keeps the upper 8 of any number of bits
    if image.format == "PPM":
        return any(isinstance(tile[3], tuple) and tile[3][-1] > 255 for tile in image.tile)
    return any(";16" in str(tile[3]) for tile in image.tile)


def _bits_of_jpeg_2000(file: IO[bytes]) -> int | None:
    """Return bits of a channel, by the first header; None without one. Leaves the file where it was."""
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
    """Return the EXIF orientation of an image: 1 (upright) to 8. A TIFF that is loaded has none."""
    # Whatever cannot be parsed does not turn an image.
    try:
        if image.format == "PNG" and image.tile and image.fp and not _may_have_late_exif(image.fp):
            # That of Pillow's class for PNG decodes the pixels, to see whether something follows them.
            found = Image.Image.getexif(image).get(ORIENTATION, 1)
        else:
            found = image.getexif().get(ORIENTATION, 1)
    except BROKEN:
        return 1
    return found if found in range(1, 9) else 1


def _may_have_late_exif(file: IO[bytes]) -> bool:
    """Return whether EXIF data or text follows the pixels of a PNG file; leaves the file where it was."""
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
    """Return the EXIF orientation of a file; 1, upright, for one that has none, or cannot be read."""
    try:
        with opened_file(file_name) as (image, _):
            return orientation_of(image)
    except InputError:
        return 1


def without_orientation(content: bytearray) -> bytearray:
    """Return the bytes of a file, changed in place, with the orientation of a TIFF's first page set to upright."""
    order = {b"II*\x00": "<", b"MM\x00*": ">"}.get(bytes(content[:4]))
    try:
        if order is not None:
            (directory,) = struct.unpack_from(order + "I", content, 4)
            (count,) = struct.unpack_from(order + "H", content, directory)
            for entry in range(directory + 2, directory + 2 + 12 * count, 12):
                if struct.unpack_from(order + "H", content, entry) == (ORIENTATION,):
                    struct.pack_into(order + "H", content, entry + 8, 1)
    except struct.error:
        pass  # The decoder says what is wrong.
    return content


def as_tiff(image: ImageFile.ImageFile) -> TiffImagePlugin.TiffImageFile:
    """Return the same image, whose format is TIFF, by the type that knows its tags."""
    return cast(TiffImagePlugin.TiffImageFile, image)


def _check_pages(image: ImageFile.ImageFile, file_name: str) -> None:
    """Refuse a TIFF of several pages: bands, slices, times. The first may be followed by smaller copies."""
    if image.format != "TIFF" or as_tiff(image).n_frames == 1:
        return
    pages, size = 1, image.size
    for page in range(1, as_tiff(image).n_frames):
        try:
            image.seek(page)
            pages += not _is_reduced(image, size)
        except BROKEN:
            pages += 1
    image.seek(0)
    if pages > 1:
        raise UnsuitableFileError(
            f"{file_name}: is a TIFF of {pages} pages, of which one would be read; save each page that is an "
            "image (or the bands together, as RGB) as a file of its own"
        )


def _check_planes(image: ImageFile.ImageFile, file_name: str) -> None:
    """Refuse a TIFF whose bands lie one behind the other, where Pillow takes their bytes for its pixels."""
    if image.format != "TIFF" or max(as_tiff(image).tag_v2.get(_BITS_PER_SAMPLE, (1,))) <= 8:
        return
    is_planar = as_tiff(image).tag_v2.get(_PLANAR_CONFIGURATION) == 2
    if is_planar and any(len(_raw_mode(tile)) == 1 for tile in image.tile):
        raise UnsuitableFileError(
            f"{file_name}: is a TIFF of {_tiff_content(file_name)}, one band behind the other, which Pillow "
            "reads wrong; save it with interleaved bands (planarconfig contig)"
        )


def _raw_mode(tile: tuple) -> str:
    return tile[3] if isinstance(tile[3], str) else tile[3][0]


def _is_reduced(image: ImageFile.ImageFile, size: tuple[int, int]) -> bool:
    """Return whether the page is a smaller copy, or a mask, of one of `size` (W, H)."""
    tags = as_tiff(image).tag_v2
    if tags.get(_NEW_SUBFILE_TYPE, 0) & 5 or tags.get(_SUBFILE_TYPE) == 2:
        return True
    (width, height), (full_width, full_height) = image.size, size
    # Of the same proportions, to a pixel.
    skewed = abs(width * full_height - height * full_width) > max(full_width, full_height)
    return width < full_width and height < full_height and not skewed


def _tiff_content(file_name: str) -> str | None:
    """Return what a TIFF file holds, as "4 bands of 8 bits"; None for a file that is no TIFF, or a broken one."""
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
            kind = _SAMPLE_KINDS.get(tags.get(_SAMPLE_FORMAT, (1,))[0], "")
    except (*BROKEN, TypeError, IndexError, KeyError):
        return None
    several = f"{bands} bands" if bands != 1 else "one band"
    return f"{several} of {kind}{bits[0]} bits" if bits else None


def _why(error: Exception, file_name: str) -> str:
    """Return what is wrong with a file that Pillow or the system cannot read."""
    if isinstance(error, UnidentifiedImageError):
        with PathManager.open(file_name, "rb") as file:
            head = file.read(12)
        if head[4:8] == b"ftyp" and head[8:12] in _HEIF:
            return "it is HEIF/HEIC, which Pillow does not know"
        for start, name in _NO_IMAGES.items():
            if head.startswith(start):
                return f"it is {name}"
        return f"no known format, it begins with {head!r}" if head else "it is empty"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.lower()
    return " ".join(str(error).split()) or type(error).__name__
