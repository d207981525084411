"""JPEG files decoded by OpenCV, compared with Pillow."""

import io

import cv2
import numpy as np
import pytest
from PIL import Image, ImageOps

from segzoo.data.image_files import ORIENTATION, BrokenFileError
from segzoo.data.images import read_image
from segzoo.utils import jpeg

needs_rgb = pytest.mark.skipif(not hasattr(cv2, "IMREAD_COLOR_RGB"), reason="OpenCV before 4.10")


def picture(height=61, width=83, seed=0):
    noise = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(cv2.GaussianBlur(noise, (0, 0), 1.5))


def saved(image, **options):
    file = io.BytesIO()
    image.save(file, "JPEG", **options)
    return file.getvalue()


def by_pillow(content):
    return np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))


@needs_rgb
@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("subsampling", [0, 1, 2])
@pytest.mark.parametrize("quality", [30, 95])
def test_colors_are_those_of_pillow(subsampling, progressive, quality):
    for height, width in ((61, 83), (64, 80), (1, 1), (17, 200)):
        content = saved(
            picture(height, width), subsampling=subsampling, progressive=progressive, quality=quality
        )
        opened = Image.open(io.BytesIO(content))
        pixels = jpeg.jpeg_pixels(opened)
        assert pixels is not None
        assert np.array_equal(pixels, by_pillow(content))
        # Pillow can still read it.
        assert np.array_equal(np.asarray(opened), pixels)


@pytest.mark.parametrize("turn", range(1, 9))
def test_orientations_are_applied_as_by_pillow(tmp_path, turn):
    exif = Image.Exif()
    exif[ORIENTATION] = turn
    path = tmp_path / "a.jpg"
    path.write_bytes(saved(picture(), exif=exif))
    upright = np.asarray(ImageOps.exif_transpose(Image.open(path)))
    assert np.array_equal(read_image(str(path)), upright)
    assert np.array_equal(read_image(str(path), "BGR"), upright[:, :, ::-1])
    assert np.array_equal(read_image(str(path), apply_exif=False), np.asarray(Image.open(path)))


def test_other_modes_and_formats_are_left_to_pillow(tmp_path):
    for mode in ("L", "CMYK"):
        content = saved(picture().convert(mode))
        assert jpeg.jpeg_pixels(Image.open(io.BytesIO(content))) is None
        path = tmp_path / f"{mode}.jpg"
        path.write_bytes(content)
        assert np.array_equal(read_image(str(path)), by_pillow(content))
    png = io.BytesIO()
    picture().save(png, "PNG")
    assert jpeg.jpeg_pixels(Image.open(png)) is None
    reduced = Image.open(io.BytesIO(saved(picture())))
    reduced.draft("RGB", (20, 20))
    assert jpeg.jpeg_pixels(reduced) is None


def test_a_truncated_file_is_reported_as_before(tmp_path):
    path = tmp_path / "a.jpg"
    content = saved(picture())
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(BrokenFileError, match="truncated"):
        read_image(str(path))


@needs_rgb
def test_an_opencv_with_other_pixels_is_not_used(monkeypatch):
    decode = cv2.imdecode
    monkeypatch.setattr(cv2, "imdecode", lambda *arguments: decode(*arguments) ^ 1)
    jpeg._equals_pillow.cache_clear()
    assert jpeg.jpeg_pixels(Image.open(io.BytesIO(saved(picture())))) is None
    monkeypatch.undo()
    jpeg._equals_pillow.cache_clear()
    assert jpeg.jpeg_pixels(Image.open(io.BytesIO(saved(picture())))) is not None
