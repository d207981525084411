"""The size of an image from its file's header, as the image is read."""

from detectron2.utils.file_io import PathManager
from PIL import ExifTags, Image

from .formats import BROKEN, BrokenFileError, read_image

# EXIF's orientations that turn an image by a quarter.
_QUARTER_TURNS = (5, 6, 7, 8)


def image_size(file_name: str) -> tuple[int, int]:
    """(height, width) that `read_image` gives, without decoding the pixels.

    Raises:
        BrokenFileError: the file is missing or is no image.
    """
    try:
        with PathManager.open(file_name, "rb") as file, Image.open(file) as image:
            width, height = image.size
            # Pillow turns a TIFF while it decodes it.
            if image.format != "TIFF":
                turned = image.getexif().get(ExifTags.Base.Orientation, 1) in _QUARTER_TURNS
                return (width, height) if turned else (height, width)
    except BROKEN as error:
        # What is wrong with it is told as for any image.
        read_image(file_name)
        raise BrokenFileError(f"{file_name}: its size cannot be read ({error}); save it again") from None
    return read_image(file_name).shape[:2]
