"""Inputs of a Predictor: the pixels of every type against those from NumPy or Pillow."""

import io
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from segzoo.engine.predictor_inputs import as_rgb, images_in, rgb_images
from segzoo.utils.errors import InputError


@pytest.fixture
def rgb() -> np.ndarray:
    """(4, 6, 3) uint8 with different channels."""
    return np.random.default_rng(0).integers(0, 256, (4, 6, 3), dtype=np.uint8)


def assert_pixels(found: np.ndarray, expected: np.ndarray) -> None:
    assert found.dtype == np.uint8
    assert np.array_equal(found, expected)


def test_arrays_have_the_given_channel_order(rgb):
    bgr = cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR)
    assert_pixels(as_rgb(rgb, "RGB"), rgb)
    assert_pixels(as_rgb(bgr, "BGR"), rgb)
    with_alpha = np.full((4, 6, 1), 7, np.uint8)
    assert_pixels(as_rgb(np.concatenate([rgb, with_alpha], 2), "RGB"), rgb)
    assert_pixels(as_rgb(np.concatenate([bgr, with_alpha], 2), "BGR"), rgb)


@pytest.mark.parametrize("color", [None, "RGB", "BGR"])
def test_gray_arrays_need_no_channel_order(rgb, color):
    gray = rgb[..., 0]
    expected = np.stack([gray] * 3, axis=2)
    assert_pixels(as_rgb(gray, color), expected)
    assert_pixels(as_rgb(gray[..., None], color), expected)


def test_tensors_are_rgb(rgb):
    tensor = torch.from_numpy(rgb).permute(2, 0, 1)
    assert_pixels(as_rgb(tensor), rgb)
    assert_pixels(as_rgb(tensor, "BGR"), rgb)
    assert_pixels(as_rgb(tensor[:1]), np.repeat(rgb[..., :1], 3, axis=2))


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "P", "1", "LA", "CMYK", "YCbCr", "I;16"])
@pytest.mark.parametrize("orientation", [1, 3, 6])
@pytest.mark.parametrize("compression", ["tiff_lzw", None])
def test_a_pil_image_equals_its_file(rgb, tmp_path, mode, orientation, compression):
    deep = Image.fromarray(rgb[..., 0].astype(np.uint16) << 8)
    image = deep if mode == "I;16" else Image.fromarray(rgb).convert(mode)
    assert image.mode == mode
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / "a.tif"
    # Pillow scrambles the rows of uncompressed files in the modes that it maps into memory.
    image.save(path, exif=exif, compression=compression)
    with Image.open(path) as opened:
        found = as_rgb(opened)
    assert_pixels(found, as_rgb(path))
    # Rotated by NumPy according to the orientation; other modes lose colors.
    exact = {"RGB": rgb, "RGBA": rgb, "I;16": np.repeat(rgb[..., :1], 3, axis=2)}
    if mode in exact:
        turns = {1: 0, 3: 2, 6: 3}[orientation]
        assert_pixels(found, np.rot90(exact[mode], turns))


@pytest.mark.parametrize("mode", ["L", "RGBA", "I;16"])
def test_a_pil_image_that_pillow_has_scrambled_is_refused(rgb, tmp_path, mode):
    gray = Image.fromarray(rgb[..., 0].astype(np.uint16) << 8)
    image = gray if mode == "I;16" else Image.fromarray(rgb).convert(mode)
    exif = Image.Exif()
    exif[0x0112] = 6
    image.save(tmp_path / "a.tif", exif=exif)
    with Image.open(tmp_path / "a.tif") as opened:
        opened.load()
        if np.array_equal(np.asarray(opened), np.rot90(np.asarray(image), 3)):
            pytest.skip("this Pillow turns it right")
        with pytest.raises(InputError, match=r"^.*a\.tif: Pillow has scrambled its rows .*; give its path"):
            as_rgb(opened)
    with Image.open(tmp_path / "a.tif") as opened:
        # The remedies.
        assert_pixels(as_rgb(opened), as_rgb(tmp_path / "a.tif"))
        # Again: the loaded image stays intact.
        assert_pixels(as_rgb(opened), as_rgb(tmp_path / "a.tif"))


def test_gray_times_alpha_is_gray(rgb):
    image = Image.fromarray(np.dstack([rgb[..., 0], np.full((4, 6), 255, np.uint8)]), "LA")
    assert_pixels(as_rgb(image.convert("La")), np.repeat(rgb[..., :1], 3, axis=2))


def test_a_palette_with_transparency_is_read_without_a_warning(rgb, recwarn):
    image = Image.fromarray(rgb).quantize(8)
    expected = np.asarray(image.convert("RGB"))
    image.info["transparency"] = bytes(range(8))
    assert_pixels(as_rgb(image), expected)
    assert not recwarn.list


def test_paths_of_any_type_are_files(rgb, tmp_path, monkeypatch):
    Image.fromarray(rgb).save(tmp_path / "a.png")
    monkeypatch.setenv("HOME", str(tmp_path))
    for path in (tmp_path / "a.png", str(tmp_path / "a.png"), "~/a.png", Path("~/a.png")):
        assert_pixels(as_rgb(path, "BGR"), rgb)


def test_lists_may_mix_types_and_be_any_iterable(rgb, tmp_path):
    Image.fromarray(rgb).save(tmp_path / "a.png")
    mixed = [tmp_path / "a.png", rgb[..., ::-1], Image.fromarray(rgb), torch.tensor(rgb).permute(2, 0, 1)]
    for several in (mixed, tuple(mixed), iter(mixed), (one for one in mixed)):
        found = list(rgb_images(images_in(several), "BGR"))
        assert len(found) == 4
        for one in found:
            assert_pixels(one, rgb)


def test_four_dimensions_are_a_batch(rgb):
    for batch in (np.stack([rgb, rgb]), torch.from_numpy(np.stack([rgb, rgb])).permute(0, 3, 1, 2)):
        found = list(rgb_images(images_in(batch), "RGB"))
        assert len(found) == 2
        assert_pixels(found[1], rgb)


def test_an_empty_list_yields_no_images():
    assert list(rgb_images(images_in([]), None)) == []


PIXELS = np.zeros((5, 7, 3), np.uint8)
REFUSED = {
    "no color": (
        PIXELS,
        r'image: found a uint8 array of the shape \(5, 7, 3\): give .* color="RGB" .*"BGR"',
    ),
    "no color with alpha": (np.zeros((5, 7, 4), np.uint8), 'give the order of its channels, color="RGB"'),
    "float": (PIXELS.astype(np.float32), r"float32 array .* expected uint8, .*\(array \* 255\)"),
    "float to 255": (PIXELS + 200.0, r"float64 array .*scale its values.*astype\(np.uint8\)"),
    "16 bits": (PIXELS.astype(np.uint16), "uint16 array .*expected uint8, 0 to 255; scale its values"),
    "bool": (PIXELS.astype(bool), r"bool array .*expected uint8, .*: array.astype\(np.uint8\) \* 255"),
    "sparse": (torch.from_numpy(PIXELS).permute(2, 0, 1).to_sparse(), r"expected a dense .*to_dense\(\)"),
    "no values": (torch.zeros(3, 5, 7, dtype=torch.uint8, device="meta"), "expected a dense tensor"),
    "long name": ("x" * 5000 + ".jpg", "x.jpg: .*file name too long"),
    "objects": (np.array(["a.jpg"], object), "object array .*expected uint8"),
    "channels first": (PIXELS.transpose(2, 0, 1), r"\(3, 5, 7\).*transpose it: array.transpose\(1, 2, 0\)"),
    "five channels": (np.zeros((5, 7, 5), np.uint8), r"expected uint8 \(H, W, 3\)$"),
    "one dimension": (np.zeros(5, np.uint8), r"expected uint8 \(H, W, 3\)$"),
    "five dimensions": (np.zeros((1, 1, 5, 7, 3), np.uint8), r"expected uint8 \(H, W, 3\)$"),
    "empty": (np.zeros((0, 0, 3), np.uint8), r"an empty array \(0, 0, 3\), expected at least one pixel"),
    "channels last in a tensor": (torch.from_numpy(PIXELS), r"\(5, 7, 3\).*permute it: tensor.permute"),
    "float tensor": (torch.zeros(3, 5, 7), r"float32, expected uint8, 0 to 255, neither scaled nor normal"),
    "empty tensor": (torch.zeros(3, 0, 7, dtype=torch.uint8), "an empty array"),
    "float PIL": (Image.fromarray(PIXELS[..., 0].astype(np.float32)), "image: has floating-point pixels"),
    "bytes": (b"\xff\xd8", r"found bytes; decode it first: Image.open\(io.BytesIO\(data\)\)"),
    "bytearray": (bytearray(b"\xff\xd8"), "found bytearray; decode it first"),
    "open file": (io.BytesIO(b"\xff"), r"found an open file; give its path, or .*BytesIO\(file.read\(\)\)"),
    "None": (None, "found None .cv2.imread returns it for a file that it cannot read.; expected the path"),
    "number": (3, "found int; expected the path of an image, a PIL image"),
    "dict": ({"image": PIXELS}, "found dict; expected the path of an image"),
    "no text": ("", "the path ''; expected the path of an image"),
    "URL": ("https://example.com/a.jpg", "a.jpg: found a URL, expected a file; download it"),
    "folder": (str(Path(__file__).parent), r"a folder; give its files: sorted\(Path\(.*glob"),
    "missing": ("nowhere.jpg", "nowhere.jpg: does not exist"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_an_input_that_is_no_image_is_one_line(name):
    given, message = REFUSED[name]
    with pytest.raises(InputError, match=message) as alone:
        as_rgb(given) if images_in(given) is None else list(rgb_images(images_in(given), None))
    assert "\n" not in str(alone.value)
    # In a list the message gives the index, or names the file.
    with pytest.raises(InputError, match=message.replace("image:", "image 1:")):
        list(rgb_images([Image.new("RGB", (2, 2)), given], None))


def test_lists_in_lists_are_one_line():
    with pytest.raises(InputError, match="image 0: found a list in a list; give one flat list of images"):
        list(rgb_images(images_in([[PIXELS]]), "RGB"))


def test_an_unknown_color_is_one_line():
    with pytest.raises(InputError, match="color 'rgb': expected RGB or BGR"):
        as_rgb(PIXELS, "rgb")


def test_a_pil_image_of_a_closed_file_is_one_line(tmp_path):
    Image.fromarray(PIXELS).save(tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as image:
        pass
    with pytest.raises(InputError, match=r"image: the PIL image cannot be loaded .*; open its file again"):
        as_rgb(image)
