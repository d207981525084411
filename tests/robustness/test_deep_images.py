"""Images of more than 8 bits that decoders, or other images, mislead about: read right, or one line.

Expected pixels are computed here, from the values that the file was written with.
"""

import struct
import zlib

import cv2
import numpy as np
import pytest
from detectron2.data import DatasetCatalog
from PIL import Image, PngImagePlugin

from segzoo.data import (
    PixelRange,
    describe_reading,
    load_image,
    read_image,
    register_dataset_file,
)
from segzoo.data.image_size import image_size
from segzoo.data.images import range_of_files
from segzoo.data.pixel_range import to_8_bits
from segzoo.engine import default_setup
from segzoo.utils.errors import InputError
from tests.data.data_trees import load, random_image, save, write_roads, write_street
from tests.engine.toy_training import toy_cfg
from tests.robustness.deep_files import LABELS, gray_of, gray_ramp, gray_roads


def random_color(values, dtype=np.uint16, size=(48, 64)):
    return np.random.default_rng(0).integers(0, values, (*size, 3), dtype=dtype)


def planar_tiff(pixels, order="<", tile=None, compressed=False):
    """A planar TIFF of an array (H, W, 3), in strips or tiles of 16 x 16, which Pillow reads wrong."""
    height, width, _ = pixels.shape
    bits, step = 8 * pixels.dtype.itemsize, tile or max(height, width)
    parts = [
        np.ascontiguousarray(pixels[top : top + step, left : left + step, band])
        for band in range(3)
        for top in range(0, height, step)
        for left in range(0, width, step)
    ]
    parts = [part.astype(part.dtype.newbyteorder(order)).tobytes() for part in parts]
    parts = [zlib.compress(part) for part in parts] if compressed else parts
    lengths = [len(part) for part in parts]
    starts = [8 + sum(lengths[:index]) for index in range(len(parts))]
    place = 8 + sum(lengths)
    tags = [
        *((256, 4, [width]), (257, 4, [height]), (258, 3, [bits] * 3), (259, 3, [8 if compressed else 1])),
        *((262, 3, [2]), (277, 3, [3]), (284, 3, [2])),
        *([(322, 4, [tile]), (323, 4, [tile])] if tile else [(278, 4, [height])]),
        *([(324, 4, starts), (325, 4, lengths)] if tile else [(273, 4, starts), (279, 4, lengths)]),
    ]
    entries, arrays = b"", b""
    for tag, kind, values in sorted(tags):
        value = struct.pack(f"{order}{len(values)}{'H' if kind == 3 else 'I'}", *values)
        if len(value) > 4:
            where = place + len(arrays)
            arrays += value + bytes(len(value) % 4)
            value = struct.pack(order + "I", where)
        entries += struct.pack(order + "HHI", tag, kind, len(values)) + value.ljust(4, b"\0")
    head = {"<": b"II*\0", ">": b"MM\0*"}[order] + struct.pack(order + "I", place + len(arrays))
    directory = struct.pack(order + "H", len(tags)) + entries + bytes(4)
    return head + b"".join(parts) + arrays + directory


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("tile", [None, 16])
def test_planar_tiffs_of_16_bits_are_refused(tmp_path, order, tile):
    """Pillow shows their bytes as pixels."""
    file = tmp_path / "a.tif"
    file.write_bytes(planar_tiff(random_color(1 << 16), order, tile))
    with pytest.raises(
        InputError, match=r"a.tif: is a planar TIFF of 3 bands of 16 bits, .*with interleaved bands"
    ):
        read_image(str(file))
    cv2.imwrite(str(file), random_color(1 << 16)[:, :, ::-1])
    assert np.array_equal(read_image(str(file)), random_color(1 << 16) >> 8)
    file.write_bytes(planar_tiff(random_color(1 << 8, np.uint8), order, tile))
    assert np.array_equal(read_image(str(file)), random_color(1 << 8, np.uint8))


def test_check_data_names_a_tiff_of_separate_bands(tmp_path, tool):
    file = write_roads(tmp_path, LABELS)
    (tmp_path / "images/train/a.png").write_bytes(planar_tiff(random_color(1 << 16, size=(4, 6))))
    answer = tool("check-data", file, "--workers", 0)
    assert answer.status == 1
    assert any("save it with interleaved bands" in line for line in answer.out)


@pytest.mark.parametrize("given", [PixelRange(0, 65535), PixelRange(0, 65535, "roads.yaml"), None])
def test_no_decoder_is_trusted_that_disagrees_with_the_upper_8_bits(tmp_path, monkeypatch, given):
    """OpenCV 4 decodes compressed planar TIFFs wrong, as written here."""
    deep = random_color(1 << 12)
    file = tmp_path / "a.tif"
    file.write_bytes(planar_tiff(deep, compressed=True))
    if given is not None:  # needs the upper 8 bits only
        assert np.array_equal(read_image(str(file), pixel_range=given), deep >> 8)
        return
    wrong = cv2.imencode(".png", deep[::-1])[1]
    decode = cv2.imdecode
    monkeypatch.setattr(cv2, "imdecode", lambda _, how: decode(wrong, how))
    with pytest.raises(InputError, match="its 16 bits per channel cannot be read, only the upper 8"):
        read_image(str(file))


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_training_datasets_of_different_depth_keep_each_its_range(tmp_path, order):
    for name, brightest in (("low", 4095), ("high", 65535)):
        register_dataset_file(gray_roads(tmp_path / name, {"train": [brightest]}, name))
    names = tuple(("low_train", "high_train")[index] for index in order)
    cfg = toy_cfg(tmp_path / "run", DATASETS__TRAIN=names, DATASETS__TEST=())
    default_setup(cfg)
    for name, brightest, shift in (("low_train", 4095, 4), ("high_train", 65535, 8)):
        (record,) = DatasetCatalog.get(name)
        found = gray_of(load_image(record, configured=cfg.INPUT.IMAGE_RANGE))
        assert np.array_equal(found, gray_ramp(brightest) >> shift)
    assert tuple(cfg.INPUT.IMAGE_RANGE) == ()


def test_training_datasets_that_agree_or_have_no_range_of_their_own_save_one(tmp_path):
    for name, brightest in (("one", 4095), ("two", 3000), ("three", 255)):
        file = gray_roads(tmp_path / name, {"train": [brightest]}, name)
        if name == "three":
            save(tmp_path / "three/images/train/0.png", random_image(4, 6))
        register_dataset_file(file)
    names = ("three_train", "one_train", "two_train")
    cfg = toy_cfg(tmp_path / "run", DATASETS__TRAIN=names, DATASETS__TEST=())
    default_setup(cfg)
    assert tuple(cfg.INPUT.IMAGE_RANGE) == (0, 4095)


def deep_png(pixels):
    """A PNG of an array (H, W, bands) of 16 bits."""
    height, width, bands = pixels.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    header = struct.pack(">IIBBBBB", width, height, 16, {2: 4, 3: 2, 4: 6}[bands], 0, 0, 0)
    content = b"\x89PNG\r\n\x1a\n"
    for name, data in ((b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")):
        content += struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
    return content


def deep_ppm(pixels, largest=65535):
    height, width, _ = pixels.shape
    return f"P6\n{width} {height}\n{largest}\n".encode() + pixels.astype(">u2").tobytes()


DEEP_LABELS = {
    "gray and alpha": deep_png(np.dstack([LABELS, np.full_like(LABELS, 255)]).astype(np.uint16)),
    "RGB": deep_png(np.repeat(LABELS[:, :, None], 3, 2)),
    "PPM": deep_ppm(np.repeat(LABELS[:, :, None], 3, 2)),
    "PPM of 10 bits": deep_ppm(np.repeat(LABELS[:, :, None], 3, 2), 1023),
}


@pytest.mark.parametrize("kind", DEEP_LABELS)
@pytest.mark.parametrize("target", ["semantic", "first channel", "panoptic"])
def test_labels_in_16_bits_of_several_channels_are_refused_and_the_remedy_is_right(tmp_path, kind, target):
    """Pillow keeps the upper 8 bits: all of them 0."""
    if target == "panoptic":
        (record,), metadata = load(write_street(tmp_path))
        file, read = tmp_path / "panoptic/a.png", metadata.load_panoptic
    else:
        content = {"encoding": {"type": "index", "channel": 0}} if target == "first channel" else {}
        (record,), metadata = load(write_roads(tmp_path, LABELS, **content))
        file, read = tmp_path / "masks/train/a.png", metadata.load_sem_seg
    file.write_bytes(DEEP_LABELS[kind])
    with pytest.raises(InputError, match=r"a.png: holds labels in several channels of 16 bits.*save one"):
        read(record)
    if target != "panoptic":
        for dtype in (np.uint8, np.uint16):
            save(file, LABELS.astype(dtype))
            assert np.array_equal(read(record), LABELS)


def test_an_estimated_range_of_16_bits_needs_no_second_decoder(tmp_path, monkeypatch):
    deep = random_color(1 << 16)
    cv2.imwrite(str(tmp_path / "a.png"), deep[:, :, ::-1])
    monkeypatch.setattr(cv2, "imdecode", lambda *_: pytest.fail("decoded twice"))
    for given in (PixelRange(0, 65535), PixelRange(0, 65535, "roads.yaml")):
        assert np.array_equal(read_image(str(tmp_path / "a.png"), pixel_range=given), deep >> 8)


def test_values_above_16_bits_need_a_range(tmp_path):
    """The line that refuses them has a range that is right."""
    values = np.linspace(0, 100_000, 24).reshape(4, 6).astype(np.int32)
    content = {"images": "images/{split}/{stem}.tif"}
    for index in range(2):
        (tmp_path / "images/train").mkdir(parents=True, exist_ok=True)
        Image.fromarray(values).save(tmp_path / f"images/train/{index}.tif")
        save(tmp_path / f"masks/train/{index}.png", LABELS)
    assert range_of_files([str(tmp_path / "images/train/0.tif")], "roads.yaml") is None
    (record, _), _ = load(gray_roads(tmp_path, {"train": []}, **content))
    with pytest.raises(InputError, match=r"range from 0 to 100000, .*image_range: \[0, 100000\]"):
        load_image(record)
    with pytest.raises(InputError, match=r"has the value 100000, .*set image_range: \[0, 100000\]"):
        to_8_bits(values, PixelRange(0, 65535, "roads.yaml"), "a.tif")
    (record, _), _ = load(gray_roads(tmp_path, {"train": []}, image_range=[0, 100_000], **content))
    assert np.array_equal(gray_of(load_image(record)), np.floor(values * (256 / 100_001)))


@pytest.mark.parametrize("suffix", ["jp2", "ppm"])
def test_twelve_bits_in_other_formats_of_16_are_spread_over_eight(tmp_path, suffix):
    down, across = np.mgrid[:48, :64]
    deep = np.dstack([across * 30, down * 50, across * 20 + down * 30]).astype(np.uint16)
    file = tmp_path / f"a.{suffix}"
    cv2.imwrite(str(file), deep[:, :, ::-1])  # the JPEG 2000 of such a ramp is exact
    assert range_of_files([str(file)], "roads.yaml") == (0, 4095, "roads.yaml")
    for given in (None, PixelRange(0, 4095), PixelRange(0, 4095, "roads.yaml")):
        assert np.array_equal(read_image(str(file), pixel_range=given), deep >> 4)


def test_a_ppm_of_12_bits_is_read_by_what_its_header_says(tmp_path):
    dark = random_color(1 << 10)
    (tmp_path / "a.ppm").write_bytes(deep_ppm(dark, 4095))
    assert np.array_equal(read_image(str(tmp_path / "a.ppm"), pixel_range=PixelRange(0, 1023)), dark >> 2)
    bright = random_color(1 << 12)
    (tmp_path / "a.ppm").write_bytes(deep_ppm(bright, 4095))
    assert np.array_equal(read_image(str(tmp_path / "a.ppm")), np.round(bright * (255 / 4095)))


def test_a_range_with_values_below_0_does_not_change_8_bits(tmp_path):
    """As the README says: only one within 0..255 does."""
    pixels = np.array([[0, 40, 240, 255]], np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    record = {"file_name": str(tmp_path / "a.png")}
    assert np.array_equal(gray_of(load_image(record, configured=(-160, 240))), pixels)
    assert describe_reading(record, (-160, 240)) == {}
    assert gray_of(load_image(record, configured=(0, 240)))[0].tolist() == [0, 42, 255, 255]
    assert describe_reading(record, (0, 240)) == {"image_range": [0, 240]}


def test_registering_a_dataset_file_again_reads_its_images_again(tmp_path):
    file = gray_roads(tmp_path, {"train": [255]})
    (record,), _ = load(file)
    assert record["image_range"] == (0, 255, "roads.yaml")
    gray_roads(tmp_path, {"train": [4095]})
    (record,), _ = load(file)
    assert record["image_range"] == (0, 4095, "roads.yaml")
    assert np.array_equal(gray_of(load_image(record)), gray_ramp(4095) >> 4)


@pytest.mark.parametrize("late", [None, 6, "text"])
def test_the_size_of_a_png_is_found_without_its_pixels(tmp_path, monkeypatch, late):
    """Unless EXIF data, or text that may be some, follows them."""
    file = tmp_path / "a.png"
    Image.fromarray(random_image(4, 6)).save(file)
    content = file.read_bytes()
    end = content.index(b"IEND") - 4
    if late == 6:
        exif = Image.Exif()
        exif[274] = 6
        chunk = b"eXIf" + exif.tobytes().removeprefix(b"Exif\0\0")
    else:
        chunk = b"tEXtComment\0sunny"
    framed = struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk))
    if late is None:
        monkeypatch.setattr(PngImagePlugin.PngImageFile, "load", lambda *_: pytest.fail("decoded"))
        file.write_bytes(content[:33] + framed + content[33:])
    else:
        file.write_bytes(content[:end] + framed + content[end:])
    assert image_size(str(file)) == ((6, 4) if late == 6 else (4, 6))
    monkeypatch.undo()
    assert read_image(str(file)).shape[:2] == ((6, 4) if late == 6 else (4, 6))
