"""The size of an image from its file's header, as the image is read."""

from .image_files import QUARTER_TURNS, as_tiff, opened_file, orientation_of

# Of a TIFF, as stored. The size that Pillow says before it loads one depends on Pillow's version.
_WIDTH, _HEIGHT = 256, 257


def image_size(file_name: str, turned: bool = True) -> tuple[int, int]:
    """Return (height, width) that `read_image` gives, without decoding the pixels.

    Args:
        turned: by the EXIF orientation.

    Raises:
        BrokenFileError: the file is missing or is no image.
    """
    with opened_file(file_name) as (image, _):
        width, height = image.size
        if image.format == "TIFF":
            tags = as_tiff(image).tag_v2
            width, height = tags[_WIDTH], tags[_HEIGHT]
        is_quarter_turn = turned and orientation_of(image) in QUARTER_TURNS
    return (width, height) if is_quarter_turn else (height, width)
