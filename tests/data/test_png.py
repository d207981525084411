"""Tests that PNG files decoded by kornia-rs have the values that Pillow gives."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from segzoo.data.images import read_image
from segzoo.data.label_reader import opened_labels
from segzoo.evaluation import prediction_io
from segzoo.utils import png
from segzoo.utils.errors import InputError

SIZE = (37, 53)
# Of each pass of an interlaced PNG: first column, first row, and the distances of columns and of rows.
PASSES = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
MODES = ("L", "P", "RGB", "RGBA", "I;16")
COLOR_TYPES = {"L": 0, "I;16": 0, "RGB": 2, "P": 3, "LA": 4, "RGBA": 6}


@pytest.fixture(autouse=True)
def _kornia():
    pytest.importorskip("kornia_rs")


def pixels(mode, seed=0):
    """Random values below 9 on the left and of the whole range on the right, so that all filters are used."""
    rng = np.random.default_rng(seed)
    shape = SIZE if mode in ("L", "P", "I;16") else (*SIZE, len(mode))
    values = rng.integers(1 << (16 if mode == "I;16" else 8), size=shape)
    values[:, :25] = values[:, :25] % 9
    return values.astype(np.uint16 if mode == "I;16" else np.uint8)


def chunk(name, data):
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def interlaced(values, mode):
    """A PNG interlaced by Adam7, which Pillow does not write."""
    rows = b""
    for column, row, across, down in PASSES:
        for line in values[row::down, column::across]:
            rows += b"\0" + line.astype(">u2" if mode == "I;16" else np.uint8).tobytes()
    height, width = values.shape[:2]
    header = struct.pack(">IIBBBBB", width, height, 16 if mode == "I;16" else 8, COLOR_TYPES[mode], 0, 0, 1)
    palette = chunk(b"PLTE", bytes(range(256)) * 3) if mode == "P" else b""
    content = chunk(b"IHDR", header) + palette + chunk(b"IDAT", zlib.compress(rows))
    return b"\x89PNG\r\n\x1a\n" + content + chunk(b"IEND", b"")


def saved(image, **options):
    file = io.BytesIO()
    image.save(file, format="PNG", **options)
    return file.getvalue()


def picture(mode):
    """An image whose palette and transparency, if its mode has them, are not the default."""
    image = Image.fromarray(pixels("L" if mode == "P" else mode))
    if mode == "P":
        image.putpalette(np.random.default_rng(1).integers(256, size=768).astype(np.uint8).tobytes())
    return image


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    "options", [{}, {"compress_level": 0}, {"optimize": True}, {"transparency": 3}, None]
)
def test_values_palette_and_information_are_those_of_pillow(mode, options):
    if options is None:
        content = interlaced(pixels(mode), mode)
    else:
        if "transparency" in options and mode in ("RGBA", "I;16"):
            pytest.skip("Pillow writes none")
        options = {"transparency": (3, 4, 5)} if "transparency" in options and mode == "RGB" else options
        content = saved(picture(mode), **options)
    image, expected = Image.open(io.BytesIO(content)), Image.open(io.BytesIO(content))
    expected.load()
    assert expected.mode == mode
    np.testing.assert_array_equal(expected, pixels(mode))  # whatever decodes
    np.testing.assert_array_equal(png.png_pixels(image), pixels(mode))
    decoded = png.decoded_png(image)
    np.testing.assert_array_equal(decoded, pixels(mode))
    assert (decoded.mode, decoded.size, decoded.format) == (expected.mode, expected.size, "PNG")
    assert decoded.getpalette() == expected.getpalette()
    assert decoded.info == expected.info
    np.testing.assert_array_equal(decoded.convert("RGBA"), expected.convert("RGBA"))
    image.load()  # Pillow can still decode the same object
    np.testing.assert_array_equal(image, pixels(mode))


def others():
    gray = Image.fromarray(pixels("L"))
    few = Image.fromarray(pixels("L") % 4)
    few.putpalette(bytes(range(12)))
    animated = io.BytesIO()
    gray.save(animated, format="PNG", save_all=True, append_images=[Image.fromarray(pixels("L", 1))])
    jpeg = io.BytesIO()
    gray.save(jpeg, format="JPEG")
    return {
        "1 bit": saved(Image.fromarray(pixels("L") > 4)),
        "2 bits": saved(few, bits=2),
        "gray with alpha": saved(Image.fromarray(np.dstack([pixels("L")] * 2), "LA")),
        "animation": animated.getvalue(),
        "JPEG": jpeg.getvalue(),
    }


@pytest.mark.parametrize("kind", others())
def test_pillow_decodes_everything_else(kind):
    image = Image.open(io.BytesIO(others()[kind]))
    assert png.png_pixels(image) is png.decoded_png(image) is None


def damaged(content):
    """Files of which bytes of the pixels are cut off, changed or repeated."""
    rng = np.random.default_rng(2)
    start = content.index(b"IDAT") + 4
    yield content[: start + 5]
    yield content[:-20]
    for _ in range(40):
        broken = bytearray(content)
        broken[rng.integers(start, len(content) - 16)] ^= 1 << int(rng.integers(8))
        yield bytes(broken)
        yield content[: (cut := int(rng.integers(start, len(content) - 16)))] + content[cut - 3 :]


@pytest.mark.parametrize("mode", MODES)
def test_what_is_decoded_of_a_damaged_file_is_what_pillow_decodes(mode):
    """In most cases nothing: the check sum of the pixels is wrong, and Pillow says so."""
    refused = 0
    for content in damaged(saved(picture(mode))):
        found = png.png_pixels(Image.open(io.BytesIO(content)))
        refused += found is None
        if found is not None:
            np.testing.assert_array_equal(found, Image.open(io.BytesIO(content)))
    assert refused >= 70


def test_files_are_read_with_and_without_it_alike(tmp_path, monkeypatch):
    """Images, also with an orientation before or after the pixels, labels and predictions; and errors."""
    exif = Image.Exif()
    exif[274] = 6
    files = {}
    for mode in MODES:
        for name, options in (("plain", {}), ("turned", {"exif": exif})):
            files[mode, name] = tmp_path / f"{mode.replace(';', '')}_{name}.png"
            files[mode, name].write_bytes(saved(picture(mode), **options))
    content = files["RGB", "turned"].read_bytes()
    start, stop = (content.index(one) - 4 for one in (b"eXIf", b"IDAT"))
    late = content[:start] + content[stop:-12] + content[start:stop] + content[-12:]
    files["RGB", "late"] = tmp_path / "late.png"
    files["RGB", "late"].write_bytes(late)
    files["RGB", "cut"] = tmp_path / "cut.png"
    files["RGB", "cut"].write_bytes(content[: len(content) // 2])

    def read():
        found = {}
        for (mode, name), file in files.items():
            ours = []
            for reader in (read_image, labels, prediction_io.load_labels, prediction_io.load_ids):
                try:
                    ours.append(np.asarray(reader(file if "load" in reader.__name__ else str(file))))
                except InputError as error:
                    ours.append(str(error))
            found[mode, name] = ours
        return found

    def labels(file):
        with opened_labels(file) as (image, orientation):
            return [*np.asarray(image).ravel(), orientation]

    monkeypatch.setattr(png, "_decoders", lambda: None)
    expected = read()
    monkeypatch.undo()
    calls = []
    original = png.png_pixels
    monkeypatch.setattr(png, "png_pixels", lambda image: calls.append(original(image)) or calls[-1])
    found = read()
    assert sum(one is not None for one in calls) > 20
    for key, values in expected.items():
        for ours, theirs in zip(found[key], values, strict=True):
            np.testing.assert_array_equal(ours, theirs)
    assert expected["RGB", "late"][0].shape == (SIZE[1], SIZE[0], 3)
    assert "cannot be read as an image" in expected["RGB", "cut"][0]
