"""Tests that label maps in PNG files, decoded by segzoo's own loop, have the values that Pillow gives."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from segzoo.data.label_ops import index_codes, rgb_codes
from segzoo.data.label_reader import opened_labels
from segzoo.evaluation import prediction_io
from segzoo.utils import label_png
from segzoo.utils.errors import InputError

FILTERS = {"none": 0, "left": 1, "above": 2, "average": 3, "paeth": 4}
COLOR_TYPES = {"L": 0, "RGB": 2, "P": 3}


@pytest.fixture(autouse=True)
def _numba():
    pytest.importorskip("numba")


@pytest.fixture(params=["zlib", "zlib-ng"], autouse=True)
def _inflater(request, monkeypatch):
    if request.param == "zlib":
        monkeypatch.setattr(label_png, "inflater", zlib)
    else:
        monkeypatch.setattr(label_png, "inflater", pytest.importorskip("zlib_ng.zlib_ng"))


def values(mode, height, width, seed=0):
    """Regions of random colors in the upper half, a different color for every pixel in the lower one."""
    rng = np.random.default_rng(seed)
    bands = 3 if mode == "RGB" else 1
    colors = rng.integers(256, size=(6, bands))
    regions = np.sort(rng.integers(6, size=(height, width)), axis=1)
    pixels = colors[regions]
    pixels[height // 2 :] = rng.integers(256, size=(height - height // 2, width, bands))
    return (pixels if mode == "RGB" else pixels[:, :, 0]).astype(np.uint8)


def filtered(pixels, kinds):
    """The rows of a PNG with a filter for each, after the formulas of the PNG specification, section 9."""
    height, width = pixels.shape[:2]
    rows = pixels.reshape(height, -1).astype(int)
    step = rows.shape[1] // width
    content = b""
    for y, kind in enumerate(kinds):
        line = [kind]
        for x, value in enumerate(rows[y]):
            a = rows[y, x - step] if x >= step else 0
            b = rows[y - 1, x] if y else 0
            c = rows[y - 1, x - step] if y and x >= step else 0
            paeth = min(
                (a, b, c), key=lambda one, p=a + b - c: abs(p - one)
            )  # the first of equally near ones
            line.append((value - (0, a, b, (a + b) // 2, paeth)[kind]) % 256)
        content += bytes(line)
    return content


def chunk(name, data):
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png(mode, height, width, rows, parts=1):
    """A PNG of filtered rows, with the compressed data in several chunks."""
    header = struct.pack(">IIBBBBB", width, height, 8, COLOR_TYPES[mode], 0, 0, 0)
    palette = chunk(b"PLTE", bytes(range(256)) * 3) if mode == "P" else b""
    data = zlib.compress(rows)
    size = -(-len(data) // parts)
    chunks = b"".join(chunk(b"IDAT", data[start : start + size]) for start in range(0, len(data), size))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + palette + chunks + chunk(b"IEND", b"")


def opened(content):
    return Image.open(io.BytesIO(content))


def plain_values(content):
    labels = label_png.plain_labels(content)
    return None if labels is None else labels.values


def as_numbers(pixels):
    return pixels if pixels.ndim == 2 else pixels.astype(np.int32) @ np.array([1, 256, 65536], np.int32)


@pytest.mark.parametrize("mode", COLOR_TYPES)
@pytest.mark.parametrize("kind", [*FILTERS, "mixed"])
@pytest.mark.parametrize("size", [(12, 37), (4, 64), (3, 1), (1, 20)])
def test_each_filter_is_undone(mode, kind, size):
    pixels = values(mode, *size)
    kinds = (
        np.random.default_rng(1).integers(5, size=size[0]) if kind == "mixed" else [FILTERS[kind]] * size[0]
    )
    content = png(mode, *size, filtered(pixels, kinds), parts=3)
    np.testing.assert_array_equal(opened(content), pixels)  # Pillow agrees on the file
    image = opened(content)
    found = label_png.label_pixels(image)
    np.testing.assert_array_equal(found, as_numbers(pixels))
    assert found.dtype == (np.int32 if mode == "RGB" else np.uint8)
    np.testing.assert_array_equal(image, pixels)  # Pillow can still decode the same object
    np.testing.assert_array_equal(label_png.label_array(opened(content)), pixels)
    np.testing.assert_array_equal(rgb_codes(opened(content)) if mode == "RGB" else found, as_numbers(pixels))


def others():
    rows = filtered(values("L", 6, 9), [0] * 6)
    animated = io.BytesIO()
    first, second = (Image.fromarray(values("L", 6, 9, seed)) for seed in (0, 1))
    first.save(animated, format="PNG", save_all=True, append_images=[second])
    found = {"animation": animated.getvalue()}
    for name, image in {
        "1 bit": Image.fromarray(values("L", 6, 9) > 99),
        "16 bits": Image.fromarray(values("L", 6, 9).astype(np.uint16)),
        "alpha": Image.fromarray(np.dstack([values("L", 6, 9)] * 4)),
    }.items():
        file = io.BytesIO()
        image.save(file, format="PNG")
        found[name] = file.getvalue()
    header = struct.pack(">IIBBBBB", 9, 6, 8, 0, 0, 0, 1)
    start, end = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header), chunk(b"IEND", b"")
    found["interlaced"] = start + chunk(b"IDAT", zlib.compress(rows)) + end
    return found


@pytest.mark.parametrize("kind", others())
def test_other_files_are_left_to_pillow(kind):
    assert label_png.label_pixels(opened(others()[kind])) is None


def broken():
    rows = filtered(values("L", 6, 9), [4] * 6)
    content = png("L", 6, 9, rows)
    wrong_pixels, wrong_sum = bytearray(content), bytearray(content)
    wrong_pixels[content.index(b"IDAT") + 9] ^= 1
    wrong_sum[-13] ^= 1  # before the 12 bytes of IEND
    return {
        "cut": content[:-30],
        "no end": content[:-12],
        "pixels": bytes(wrong_pixels),
        "check sum": bytes(wrong_sum),
        "too few rows": png("L", 6, 9, rows[:-10]),
        "too many rows": png("L", 6, 9, rows + rows),
        "pixels in two places": content[:-12] + chunk(b"tEXt", b"") + chunk(b"IDAT", b"") + content[-12:],
        "no such filter": png("L", 6, 9, b"\x05" + rows[1:]),
    }


@pytest.mark.parametrize("kind", broken())
def test_damaged_files_are_left_to_pillow(kind):
    assert label_png.label_pixels(opened(broken()[kind])) is None


def random_png(rng):
    """A PNG with random filters and further chunks, damaged in up to three places."""
    mode = rng.choice(list(COLOR_TYPES))
    height, width = (int(side) for side in rng.integers(1, 24, 2))
    rows = filtered(values(mode, height, width, rng), rng.integers(5, size=height))
    content = bytearray(png(mode, height, width, rows, parts=int(rng.integers(1, 4))))
    if rng.random() < 0.3:  # 33: after the header
        content[33:33] = (
            chunk(b"tRNS", bytes(6 if mode == "RGB" else 2)) if mode != "P" else chunk(b"tEXt", b"a")
        )
    if rng.random() < 0.2:
        content += b"after the end"
    for damage in rng.permutation(4)[: rng.integers(3)]:
        place = int(rng.integers(len(content)))
        if damage == 0:
            content[place] = rng.integers(256)
        elif damage == 1:
            del content[place:]
        elif (
            damage == 2 and len(content) > 33
        ):  # another size, depth, color type, compression, filter or interlace
            content[16 + place % 13] = rng.choice([0, 1, 2, 3, 4, 6, 8, 16])
            content[29:33] = struct.pack(">I", zlib.crc32(content[12:29]))
        elif (start := content.find(b"IDAT")) > 0:
            (length,) = struct.unpack(">I", content[start - 4 : start])
            end = start + 4 + length
            if length and end + 4 <= len(content):
                content[start + 4 + place % length] ^= 1 << place % 8
                content[end : end + 4] = struct.pack(">I", zlib.crc32(content[start:end]))
    return bytes(content)


@pytest.mark.filterwarnings("ignore")
def test_random_and_damaged_files_have_pillows_pixels_or_are_left_to_it():
    rng = np.random.default_rng(11)
    decoded = {"opened": 0, "plain": 0}
    for _ in range(1500):
        content = random_png(rng)
        plain = plain_values(content)
        try:
            image = opened(content)
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
            assert plain is None
            continue  # not even Pillow's header
        for way, found in (("opened", label_png.label_pixels(image)), ("plain", plain)):
            if found is not None:
                decoded[way] += 1
                np.testing.assert_array_equal(found, as_numbers(np.asarray(opened(content))))
    assert decoded["opened"] > 500
    assert decoded["plain"] > 200


@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_a_plain_file_needs_no_pillow(mode, tmp_path, monkeypatch):
    pixels = values(mode, 12, 37)
    path = tmp_path / "labels.png"
    path.write_bytes(png(mode, 12, 37, filtered(pixels, [4] * 12)))
    monkeypatch.setattr(prediction_io.Image, "open", lambda *_: pytest.fail("opened"))
    load = prediction_io.load_ids if mode == "RGB" else prediction_io.load_labels
    np.testing.assert_array_equal(load(path), as_numbers(pixels))
    with opened_labels(str(path), decoded=False) as (labels, orientation):
        read = rgb_codes if mode == "RGB" else label_png.label_array
        np.testing.assert_array_equal(read(labels), as_numbers(pixels))
        np.testing.assert_array_equal(np.asarray(labels), pixels)
        assert (labels.mode, labels.size, labels.format, orientation) == (mode, (37, 12), "PNG", 1)


def odd_files():
    """Files with and without further chunks, before and after the pixels; other formats; damage."""
    turned = Image.Exif()
    turned[274] = 6
    exif = chunk(b"eXIf", turned.tobytes()[6:])
    gray = png("L", 6, 9, filtered(values("L", 6, 9), [4] * 6))
    color = png("RGB", 6, 9, filtered(values("RGB", 6, 9), [2] * 6), parts=2)
    jpeg = io.BytesIO()
    opened(gray).save(jpeg, "JPEG")
    found = {f"{name}, whole": content for name, content in {"gray": gray, "color": color}.items()}
    for name, content in {"gray": gray, "color": color}.items():
        clear = chunk(b"tRNS", bytes(2 if name == "gray" else 6))
        for kind, extra in {"eXIf": exif, "gAMA": chunk(b"gAMA", bytes(4)), "tRNS": clear}.items():
            found[f"{name}, {kind} before"] = content[:33] + extra + content[33:]
            found[f"{name}, {kind} after"] = content[:-12] + extra + content[-12:]
        wrong_header = bytearray(content)
        wrong_header[29] ^= 1
        found[f"{name}, wrong header"] = bytes(wrong_header)
        found[f"{name}, after the end"] = content + b"more"
    found["palette"] = png("P", 6, 9, filtered(values("P", 6, 9), [0] * 6))
    return {**found, **others(), **broken(), "JPEG": jpeg.getvalue(), "empty": b"", "text": b"0 1 2"}


@pytest.mark.parametrize("kind", odd_files())
def test_odd_files_are_read_or_refused_as_by_pillow(kind, tmp_path):
    path = tmp_path / "labels.png"
    path.write_bytes(odd_files()[kind])

    def outcome(decoded):
        try:
            with opened_labels(str(path), decoded=decoded) as (image, orientation):
                codes = rgb_codes(image).tolist() if image.mode in ("RGB", "RGBA") else None
                pixels = label_png.label_array(image)
                return image.mode, image.size, orientation, codes, pixels.dtype, pixels.tolist()
        except InputError as error:
            return type(error), str(error)

    assert outcome(decoded=False) == outcome(decoded=True)
    if "eXIf" in kind:
        assert outcome(decoded=False)[2] == 6


def test_more_pixels_than_pillow_opens_are_left_to_it(monkeypatch):
    content = png("L", 12, 37, filtered(values("L", 12, 37), [4] * 12))
    assert plain_values(content) is not None
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 12 * 37 - 1)
    assert plain_values(content) is None


@pytest.mark.parametrize("mode", COLOR_TYPES)
def test_readers_give_the_same_without_it(tmp_path, monkeypatch, mode):
    """Labels, predictions and errors."""
    pixels = values(mode, 8, 21)
    content = png(mode, 8, 21, filtered(pixels, [4, 2] * 4))
    files = {"good": content, "cut": content[: content.index(b"IDAT") + 20]}

    def read():
        found = []
        for name, data in files.items():
            path = tmp_path / f"{name}.png"
            path.write_bytes(data)
            load = prediction_io.load_ids if mode == "RGB" else prediction_io.load_labels
            try:
                with opened_labels(str(path), decoded=False) as (image, _):
                    found.append(rgb_codes(image) if mode == "RGB" else label_png.label_array(image))
                found.append(load(path))
            except InputError as error:
                found.append(str(error))
        return found

    with_loop = read()
    monkeypatch.setattr(label_png, "load_loops", lambda module: None)
    without = read()
    assert len(with_loop) == len(without) == 3
    for one, two in zip(with_loop, without, strict=True):
        np.testing.assert_array_equal(one, two)
        assert isinstance(one, str) or one.dtype == two.dtype
    np.testing.assert_array_equal(with_loop[0], as_numbers(pixels))


@pytest.mark.parametrize("is_compiled", [True, False])
def test_index_codes(monkeypatch, is_compiled):
    if not is_compiled:
        monkeypatch.setattr("segzoo.data.label_ops.load_loops", lambda module: None)
    listed = [0, 70000, 5, (1 << 24) - 1]
    codes = np.array([[5, 5, 0, 0], [70000, 5, (1 << 24) - 1, 5]], np.uint32)
    indices, areas = index_codes(codes, listed, [0, 1, 2, 2], np.uint8)
    np.testing.assert_array_equal(indices, [[2, 2, 0, 0], [1, 2, 2, 2]])
    assert indices.dtype == np.uint8
    assert areas.tolist() == [2, 1, 5]
    codes[1, 3] = 6
    assert index_codes(codes, listed, [0, 1, 2, 2], np.uint8)[0] is None
