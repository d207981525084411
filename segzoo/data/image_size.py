"""The size of an image from the header of its file."""

from .image_files import QUARTER_TURNS, as_tiff, opened_file, orientation_of

# Tags of a TIFF, as stored: Pillow's `size` before loading depends on its version.
_WIDTH, _HEIGHT = 256, 257


def image_size(file_name: str, apply_exif: bool = True) -> tuple[int, int]:
    """Return (height, width) that `read_image` gives, without decoding the pixels.

    Args:
        apply_exif: apply the EXIF orientation.

    Raises:
        BrokenFileError: the file is missing or is not an image.
    """
    with opened_file(file_name) as (image, _):
        width, height = image.size
        if image.format == "TIFF":
            tags = as_tiff(image).tag_v2
            width, height = tags[_WIDTH], tags[_HEIGHT]
        is_quarter_turn = apply_exif and orientation_of(image) in QUARTER_TURNS
    return (width, height) if is_quarter_turn else (height, width)
