"""Image and label files as cameras, scanners and annotation tools write them: read right, or one line.

Expected pixels are computed here, from the values that the file was written with.
"""

import io
import json
import logging
import struct
import zlib

import cv2
import numpy as np
import pytest
import torch
import yaml
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image, TiffImagePlugin, features

from segzoo.data import (
    PixelRange,
    SegmentationMapper,
    build_test_loader,
    describe_reading,
    load_image,
    read_image,
    register_dataset_file,
)
from segzoo.engine import Predictor, Trainer, default_setup, describe
from segzoo.engine.model_description import take_trained_range
from segzoo.engine.predictor_inputs import as_rgb
from segzoo.model_zoo import load_config
from segzoo.utils.errors import InputError
from tests.data.data_trees import load, random_image, save, write_roads, write_street, write_yaml
from tests.engine.toy_training import toy_cfg
from tests.robustness.deep_files import LABELS, gray_of, gray_ramp, gray_roads


def write_gray(file, values, suffix):
    if suffix == "big-endian tif":
        image = Image.frombytes("I;16B", values.shape[::-1], values.astype(">u2").tobytes())
        file = file.with_suffix(".tif")
        image.save(file)
    elif suffix == "32-bit tif":
        file = file.with_suffix(".tif")
        Image.fromarray(values.astype(np.int32)).save(file)
    else:
        file = file.with_suffix(f".{suffix}")
        Image.fromarray(values).save(file)
    return str(file)


@pytest.mark.parametrize("suffix", ["png", "tif", "big-endian tif", "32-bit tif"])
@pytest.mark.parametrize(("bits", "brightest"), [(8, 255), (10, 1000), (12, 4095), (14, 9000), (16, 65535)])
def test_the_bits_that_an_image_uses_are_spread_over_eight(tmp_path, suffix, bits, brightest):
    values = gray_ramp(brightest)
    found = gray_of(read_image(write_gray(tmp_path / "a", values, suffix)))
    assert np.array_equal(found, values >> (bits - 8))


@pytest.mark.parametrize("suffix", [".png", ".tif"])
@pytest.mark.parametrize("channels", [3, 4])
def test_twelve_bits_of_color_are_not_cut_to_the_upper_eight_of_sixteen(tmp_path, suffix, channels):
    values = np.random.default_rng(0).integers(0, 4096, (5, 7, channels), dtype=np.uint16)
    values[0, 0] = 4095
    cv2.imwrite(str(tmp_path / f"a{suffix}"), values)
    assert np.array_equal(read_image(str(tmp_path / f"a{suffix}"), "BGR"), (values >> 4)[:, :, :3])


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_deep_color_gets_the_orientation_of_eight_bits(tmp_path, suffix, orientation):
    """The same small image, with 8 and with 12 bits, by two decoders."""
    small = random_image(4, 6)
    exif = Image.Exif()
    exif[274] = orientation
    Image.fromarray(small).save(tmp_path / f"small{suffix}", exif=exif)
    deep = small.astype(np.uint16) << 4 | 15
    if suffix == ".png":
        cv2.imwrite(str(tmp_path / "deep.png"), deep[:, :, ::-1])
        png_with_orientation(tmp_path / "deep.png", orientation)
    else:
        (tmp_path / "deep.tif").write_bytes(tiff(deep, (274, 3, 1, orientation), photometric=2))
    expected = read_image(str(tmp_path / f"small{suffix}"))
    assert expected.shape[:2] == ((6, 4) if orientation > 4 else (4, 6))
    found = read_image(str(tmp_path / f"deep{suffix}"), pixel_range=PixelRange(0, 4095))
    assert np.array_equal(found, expected)
    found = read_image(str(tmp_path / f"deep{suffix}"), pixel_range=PixelRange(0, 4095), apply_exif=False)
    assert np.array_equal(found, small)


def png_with_orientation(file, orientation):
    """Writes an EXIF chunk behind the header, without decoding the file."""
    chunk = b"eXIf" + b"II*\x00\x08\x00\x00\x00\x01\x00" + tag_of_tiff(274, 3, 1, orientation) + bytes(4)
    framed = (len(chunk) - 4).to_bytes(4, "big") + chunk + zlib.crc32(chunk).to_bytes(4, "big")
    content = file.read_bytes()
    file.write_bytes(content[:33] + framed + content[33:])


def tag_of_tiff(tag, kind, count, value):
    return struct.pack("<HHII", tag, kind, count, value)


def tiff(pixels, *more_tags, photometric=1):
    """A TIFF of an array (H, W, bands), without compression."""
    height, width, bands = pixels.shape
    content = pixels.astype(pixels.dtype.newbyteorder("<")).tobytes()
    bits, kind = 8 * pixels.dtype.itemsize, {"u": 1, "i": 2, "f": 3}[pixels.dtype.kind]
    place = 8 + len(content)
    bit_counts = (bits, place) if bands == 1 else (place, place)
    tags = [
        *((256, 3, 1, width), (257, 3, 1, height), (258, 3, bands, bit_counts[0]), (259, 3, 1, 1)),
        *((262, 3, 1, photometric), (273, 4, 1, 8), *more_tags, (277, 3, 1, bands), (278, 3, 1, height)),
        *((279, 4, 1, len(content)), (339, 3, 1, kind)),
    ]
    entries = b"".join(tag_of_tiff(*tag) for tag in tags)
    extra = struct.pack(f"<{bands}H", *[bits] * bands) + bytes(2 * (bands % 2))
    directory = struct.pack("<H", len(tags)) + entries + bytes(4)
    return b"II*\x00" + struct.pack("<I", place + len(extra)) + content + extra + directory


def test_a_given_range_is_a_window(tmp_path):
    values = np.array([[-1024, -160, 39, 40, 240, 3000]], dtype=np.int32)
    Image.fromarray(values).save(tmp_path / "a.tif")
    found = gray_of(read_image(str(tmp_path / "a.tif"), pixel_range=PixelRange(-160, 240)))
    assert found[0].tolist() == [0, 0, 199 * 256 // 401, 200 * 256 // 401, 255, 255]
    with pytest.raises(InputError, match=r"a.tif: gray values range from -1024 to 3000"):
        read_image(str(tmp_path / "a.tif"))


def test_floating_point_pixels_need_a_range_and_are_read_with_it(tmp_path):
    values = np.array([[0.0, 0.25, 0.5, 1.0, 2.0, np.nan]], dtype=np.float32)
    Image.fromarray(values).save(tmp_path / "a.tif")
    with pytest.raises(InputError, match=r"image_range: \[0, 1\] in its dataset YAML"):
        read_image(str(tmp_path / "a.tif"))
    found = gray_of(read_image(str(tmp_path / "a.tif"), pixel_range=PixelRange(0, 1)))
    assert found[0].tolist() == [0, 64, 128, 255, 255, 0]


@pytest.mark.parametrize("bright", ["train", "val"])
def test_equal_values_become_equal_in_all_images_of_a_dataset(tmp_path, caplog, bright):
    """Its darkest split, which is read first, would be of 8 bits alone."""
    values = {"train": [100, 255], "val": [100, 255], bright: [200, 3000]}
    register_dataset_file(gray_roads(tmp_path, values))
    with caplog.at_level(logging.WARNING):
        for split in sorted(("roads_val", "roads_train"), key=lambda name: bright in name):
            for record in DatasetCatalog.get(split):
                values = np.asarray(Image.open(record["file_name"]))
                assert np.array_equal(gray_of(load_image(record)), values >> 4)
    assert len(caplog.messages) == 1
    assert "image_range: [0, 4095] there to confirm it" in caplog.messages[0]


def test_the_range_of_the_yaml_counts_and_an_image_beyond_a_guess_is_one_line(tmp_path):
    file = gray_roads(tmp_path, {"train": [255] * 70})
    (record, *_), _ = load(file)
    assert record["image_range"] == (0, 255, "roads.yaml")
    save(tmp_path / "images/train/1.png", gray_ramp(5000))  # not in the sample of 32 of 70
    records, _ = load(file)
    (record,) = [one for one in records if one["image_id"] == "1"]
    with pytest.raises(InputError, match=r"has the value 5000, .*set image_range: \[0, 16383\] in roads"):
        load_image(record)
    file = gray_roads(tmp_path, {"train": [255]}, image_range=[0, 16383])
    records, _ = load(file)
    found = {record["file_name"]: gray_of(load_image(record)) for record in records}
    assert np.array_equal(found[str(tmp_path / "images/train/1.png")], gray_ramp(5000) >> 6)
    with pytest.raises(InputError, match=r"image_range is \[5, 5\]; expected \[lowest, highest\]"):
        load(gray_roads(tmp_path, {"train": [255]}, image_range=[5, 5]))


def test_the_mapper_takes_the_configured_range_where_the_dataset_has_none(tmp_path):
    (record,), _ = load(gray_roads(tmp_path, {"train": [255]}))
    mapper = SegmentationMapper(False, task="semantic", augmentations=[], image_range=(0, 1023))
    assert np.array_equal(mapper(record)["image"][0].numpy(), gray_ramp(255) >> 2)
    (record,), _ = load(gray_roads(tmp_path, {"train": [255]}, image_range=[0, 4095]))
    assert np.array_equal(mapper(record)["image"][0].numpy(), gray_ramp(255) >> 4)


@pytest.mark.parametrize("depth", ["8 bits", "16 bits"])
def test_dark_images_are_a_problem_and_the_remedy_brightens_them(tmp_path, tool, depth):
    file = gray_roads(tmp_path, {"train": [15]}, image_range=[0, 255])
    if depth == "16 bits":
        file = gray_roads(tmp_path, {"train": [4095]}, image_range=[0, 65535])
    else:
        save(tmp_path / "images/train/0.png", gray_ramp(15).astype(np.uint8))
    answer = tool("check-data", file, "--workers", 0)
    (line,) = [line for line in answer.out if "PROBLEM" in line]
    assert "almost black: the brightest pixel of the split is 15 of 255" in line
    remedy = yaml.safe_load(line.partition("set ")[2].partition(" in roads")[0])
    (record,), _ = load(write_yaml(tmp_path, {**yaml.safe_load(file.read_text()), **remedy}))
    assert load_image(record).max() == 255
    assert tool("check-data", file, "--workers", 0).status == 0


def encoded(pixels, kind, **options):
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, kind, **options)
    return stream.getvalue()


# AVIF is a part of Pillow only from 11.3 on.
LOSSY = {
    **({"AVIF": lambda pixels: encoded(pixels, "AVIF")} if features.check("avif") else {}),
    "JPEG": lambda pixels: encoded(pixels, "JPEG", quality=95),
    "JPEG 2000": lambda pixels: encoded(pixels, "JPEG2000"),
    "lossy WebP": lambda pixels: encoded(pixels, "WEBP", quality=95),
    "TIFF with JPEG compression": lambda pixels: encoded(pixels, "TIFF", compression="jpeg"),
}


@pytest.mark.parametrize("kind", LOSSY)
@pytest.mark.parametrize("target", ["semantic", "panoptic"])
def test_labels_in_a_lossy_format_are_refused_whatever_they_hold(tmp_path, kind, target):
    """All of one value, so that decoding gives what was written."""
    if target == "semantic":
        records, metadata = load(write_roads(tmp_path, np.zeros((4, 6), np.uint8)))
        file, read = tmp_path / "masks/train/a.png", metadata.load_sem_seg
        pixels = np.zeros((4, 6), np.uint8)
    else:
        records, metadata = load(write_street(tmp_path))
        file, read = tmp_path / "panoptic/a.png", metadata.load_panoptic
        pixels = np.asarray(Image.open(file))
    file.write_bytes(LOSSY[kind](pixels))
    with pytest.raises(InputError, match=rf"a.png: holds labels as {kind}, a lossy format"):
        read(records[0])


@pytest.mark.parametrize("frames", [1, 2])
def test_labels_in_lossless_webp_are_read_but_no_animations(tmp_path, frames):
    pixels = np.repeat(LABELS[:, :, None], 3, axis=2)
    records, metadata = load(write_roads(tmp_path, LABELS, encoding={"type": "index", "channel": 0}))
    more = {"save_all": True, "append_images": [Image.fromarray(pixels // 2)]} if frames == 2 else {}
    content = encoded(pixels, "WEBP", lossless=True, exif=b"Exif\x00\x00II*\x00" + bytes(8), **more)
    (tmp_path / "masks/train/a.png").write_bytes(content)
    if frames == 1:
        assert np.array_equal(metadata.load_sem_seg(records[0]), LABELS)
        return
    with pytest.raises(InputError, match="an animation of 2 frames"):
        metadata.load_sem_seg(records[0])


def test_check_data_says_that_labels_are_lossy(tmp_path, tool):
    file = write_roads(tmp_path, LABELS)
    (tmp_path / "masks/train/a.png").write_bytes(LOSSY["JPEG"](LABELS))
    answer = tool("check-data", file, "--workers", 0)
    assert answer.status == 1
    assert any("1 image: labels in a lossy format; export them again as PNG" in line for line in answer.out)


def write_turned(folder, orientation, label_orientation=1, suffix=".png", **keys):
    """The image's pixels as stored, with an EXIF orientation; labels drawn on these."""
    stored = random_image(4, 6)
    file = write_roads(folder, LABELS, images=f"images/{{split}}/{{stem}}{suffix}", **keys)
    (folder / "images/train/a.png").unlink()
    for path, pixels, turn in (
        (folder / f"images/train/a{suffix}", stored, orientation),
        (folder / "masks/train/a.png", LABELS, label_orientation),
    ):
        exif = Image.Exif()
        exif[274] = turn
        Image.fromarray(pixels).save(path, exif=exif)
    return file, stored


@pytest.mark.parametrize("suffix", [".png", ".tif", ".webp"])
@pytest.mark.parametrize("orientation", [2, 3, 5, 6, 7, 8])
def test_the_remedy_for_labels_on_stored_pixels_puts_them_there(tmp_path, tool, orientation, suffix):
    file, stored = write_turned(tmp_path, orientation, suffix=suffix)
    answer = tool("check-data", file, "--workers", 0)
    lines = [line for line in answer.out if "EXIF orientation" in line]
    assert (
        f"1 image has an EXIF orientation ({orientation} in 1), which is applied; labels are taken"
        in lines[-1]
    )
    if orientation > 4:
        assert answer.status == 1
        assert (
            f"its EXIF orientation {orientation} is applied, but the labels fit the stored pixels"
            in " ".join(lines)
        )
    assert all("set exif: ignore in" in line for line in lines[-2:])
    file = write_yaml(tmp_path, {**yaml.safe_load(file.read_text()), "exif": "ignore"})
    (record,), metadata = load(file)
    image, labels = load_image(record), metadata.load_sem_seg({**record, "height": 4, "width": 6})
    assert image.shape[:2] == labels.shape
    assert np.array_equal(labels, LABELS)
    if suffix != ".webp":
        assert np.array_equal(image, stored)
    answer = tool("check-data", file, "--workers", 0)
    assert answer.status == 0
    assert not [line for line in answer.out if "EXIF" in line]


def test_labels_that_copied_the_exif_data_of_their_image_are_refused(tmp_path):
    """A viewer rotates both; their stored pixels correspond."""
    file, _ = write_turned(tmp_path, orientation=3, label_orientation=3)
    (record,), metadata = load(file)
    with pytest.raises(InputError, match=r"set exif: ignore in roads.yaml"):
        metadata.load_sem_seg(record)
    (record,), metadata = load(write_yaml(tmp_path, {**yaml.safe_load(file.read_text()), "exif": "ignore"}))
    assert np.array_equal(metadata.load_sem_seg(record), LABELS)


def test_panoptic_labels_made_of_a_dataset_read_its_images_alike(tmp_path, tool):
    """The size of an image without orientation is that of its labels."""
    classes = [{"name": "road"}, {"name": "car", "isthing": True}]
    file, stored = write_turned(tmp_path, 6, classes=classes, exif="ignore", image_range=[0, 127])
    save(tmp_path / "masks/train/a.png", (LABELS == 1).astype(np.uint8))
    save(tmp_path / "cars/a.png", (LABELS == 1).astype(np.uint8))
    assert (
        tool("convert-data", "panoptic", file, "--instance-masks", "cars/{stem}.png", "--workers", 0).status
        == 0
    )
    records, _ = load(tmp_path / "roads_panoptic.yaml")
    assert np.array_equal(load_image(records[0]), np.round(np.minimum(stored, 127) * (255 / 127)))


def test_a_json_with_the_size_of_the_stored_pixels_names_the_orientation(tmp_path):
    exif = Image.Exif()
    exif[274] = 8
    Image.fromarray(random_image(4, 6)).save(tmp_path / "a.jpg", exif=exif)
    content = {
        "images": [{"id": 1, "file_name": "a.jpg", "height": 4, "width": 6}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "segmentation": [[0, 0, 5, 0, 5, 3]]}],
        "categories": [{"id": 1, "name": "cat"}],
    }
    (tmp_path / "pets.json").write_text(json.dumps(content))
    pets = {"splits": {"pets_x": "x"}, "images": ".", "instances": "pets.json", "classes": ["cat"]}
    mapper = SegmentationMapper(False, task="instance", augmentations=[])
    (record,), _ = load(write_yaml(tmp_path, pets, "pets.yaml"))
    with pytest.raises(InputError, match=r"is 4x6, but its annotation says 6x4; its EXIF orientation 8"):
        mapper(record)
    (record,), _ = load(write_yaml(tmp_path, {**pets, "exif": "ignore"}, "pets.yaml"))
    assert mapper(record)["image"].shape == (3, 4, 6)


def test_a_tiff_of_several_pages_is_refused_as_image_and_as_labels(tmp_path):
    pages = [Image.fromarray(LABELS + index) for index in range(3)]
    pages[0].save(tmp_path / "a.tif", save_all=True, append_images=pages[1:])
    with pytest.raises(InputError, match=r"a.tif: is a TIFF of 3 pages, of which only one would be read"):
        read_image(str(tmp_path / "a.tif"))
    records, metadata = load(write_roads(tmp_path, LABELS))
    (tmp_path / "masks/train/a.png").write_bytes((tmp_path / "a.tif").read_bytes())
    with pytest.raises(InputError, match=r"masks/train/a.png: is a TIFF of 3 pages"):
        metadata.load_sem_seg(records[0])


@pytest.mark.parametrize("is_marked", [True, False])
def test_smaller_copies_after_the_first_page_of_a_tiff_are_ignored(tmp_path, is_marked):
    """As in pyramids and with previews; by the tag that says so, or by their proportions."""
    pixels = random_image(40, 60)
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    tags[254] = 1
    small = Image.fromarray(pixels).resize((31, 20) if is_marked else (30, 20))
    small.encoderinfo = {"tiffinfo": tags} if is_marked else {}
    Image.fromarray(pixels).save(tmp_path / "a.tif", save_all=True, append_images=[small])
    with Image.open(tmp_path / "a.tif") as image:
        assert image.n_frames == 2
    assert np.array_equal(read_image(str(tmp_path / "a.tif")), pixels)


def test_a_smaller_page_of_other_proportions_is_a_page(tmp_path):
    more = [Image.fromarray(random_image(20, 20))]
    Image.fromarray(random_image(40, 60)).save(tmp_path / "a.tif", save_all=True, append_images=more)
    with pytest.raises(InputError, match=r"a.tif: is a TIFF of 2 pages"):
        read_image(str(tmp_path / "a.tif"))


def test_a_photo_of_a_phone_in_two_parts_is_read(tmp_path):
    """MPO: a JPEG that a second one follows."""
    pixels = np.full((16, 16, 3), 90, np.uint8)
    more = [Image.fromarray(pixels // 2)]
    Image.fromarray(pixels).save(tmp_path / "a.jpg", "MPO", save_all=True, append_images=more)
    with Image.open(tmp_path / "a.jpg") as image:
        assert image.format == "MPO"
    assert np.abs(read_image(str(tmp_path / "a.jpg")).astype(int) - 90).max() <= 2


@pytest.mark.parametrize(
    ("bands", "kind", "described"),
    [
        (8, np.uint8, "8 bands of 8 bits"),
        (5, np.uint16, "5 bands of 16 bits"),
        (1, np.int64, "one band of signed 64 bits"),
        (3, np.float32, "3 bands of floating-point 32 bits"),
    ],
)
def test_a_tiff_that_pillow_cannot_read_is_described(tmp_path, bands, kind, described):
    (tmp_path / "a.tif").write_bytes(tiff(np.zeros((2, 4, bands), kind)))
    with pytest.raises(InputError, match=rf"a.tif: is a TIFF of {described}, which Pillow cannot read"):
        read_image(str(tmp_path / "a.tif"))


def test_a_training_saves_the_range_of_its_images_for_what_reads_files_without_a_dataset(tmp_path):
    register_dataset_file(gray_roads(tmp_path / "data", {"train": [1000], "val": [100]}))
    cfg = toy_cfg(tmp_path / "run", DATASETS__TRAIN=("roads_train",), DATASETS__TEST=("roads_val",))
    default_setup(cfg)
    assert tuple(cfg.INPUT.IMAGE_RANGE) == (0, 1023)
    saved = yaml.safe_load((tmp_path / "run/config.yaml").read_text())
    assert list(saved["INPUT"]["IMAGE_RANGE"]) == [0, 1023]
    assert describe(cfg, MetadataCatalog.get("roads_train"))["image_range"] == [0, 1023]
    values = gray_ramp(100)  # of 8 bits, if it were alone
    save(tmp_path / "a.png", values)
    read = as_rgb(tmp_path / "a.png", image_range=cfg.INPUT.IMAGE_RANGE)
    assert np.array_equal(gray_of(read), values >> 2)
    read = as_rgb(Image.open(tmp_path / "a.png"), image_range=cfg.INPUT.IMAGE_RANGE)
    assert np.array_equal(gray_of(read), values >> 2)


def test_a_predictor_reads_files_in_the_range_of_its_checkpoint(tmp_path):
    """A configuration from elsewhere does not know it."""
    cfg = load_config("semantic/shapes/pspnet_r18_quarter", ("MODEL.DEVICE", "cpu"))
    model = Trainer.build_model(cfg)
    description = describe(cfg, MetadataCatalog.get("shapes_train"))
    for saved, expected in (([0, 4095], (0, 4095)), ([], ())):
        content = {"model": model.state_dict(), "segzoo": {**description, "image_range": saved}}
        torch.save(content, tmp_path / "model.pth")
        predictor = Predictor(cfg, weights=tmp_path / "model.pth")
        assert predictor.image_range == expected
        seen = []
        predictor._predict = lambda pictures, *asked, seen=seen: seen.extend(pictures) or [{}]
        save(tmp_path / "a.png", gray_ramp(255))
        predictor(tmp_path / "a.png")
        assert np.array_equal(gray_of(seen[0]), gray_ramp(255) >> (4 if saved else 0))


def test_check_data_says_each_thing_once_and_nothing_beside_its_report(tmp_path, tool):
    values = gray_ramp(1000)
    file = write_roads(tmp_path, LABELS)
    save(tmp_path / "images/train/a.png", values)
    answer = tool("check-data", file, "--workers", 0)
    assert not answer.err
    assert len([line for line in answer.out if "1023" in line]) == 1


def test_check_data_reports_what_reading_the_json_warns_of(tmp_path, tool):
    corners = [1, 1, 3, 1, 3, 3]
    annotations = [
        {"id": 1, "image_id": 1, "category_id": 1, "segmentation": [corners], "area": -4, "iscrowd": 0}
    ]
    save(tmp_path / "images/a.png", random_image(4, 6))
    content = {
        "images": [{"id": 1, "file_name": "a.png", "height": 4, "width": 6}],
        "annotations": annotations,
        "categories": [{"id": 1, "name": "cat"}],
    }
    (tmp_path / "pets.json").write_text(json.dumps(content))
    pets = {"splits": {"pets_x": "x"}, "images": "images", "instances": "pets.json", "classes": ["cat"]}
    answer = tool("check-data", write_yaml(tmp_path, pets, "pets.yaml"), "--workers", 0, "--json")
    assert not answer.err
    (finding,) = json.loads("\n".join(answer.out))["findings"]
    assert "1 have no usable area and 1 have no usable bbox" in finding["text"]
    assert not finding["is_problem"]


@pytest.mark.parametrize(
    ("values", "keys", "configured", "expected"),
    [
        ([255], {"image_range": [0, 4095]}, (), {"image_range": [0, 4095]}),
        ([1000], {}, (), {"image_range": [0, 1023]}),
        ([1000], {}, (0, 4095), {"image_range": [0, 4095]}),
        ([1000], {"image_range": [0, 2047]}, (0, 4095), {"image_range": [0, 2047]}),
        ([1000], {"exif": "ignore"}, (), {"image_range": [0, 1023], "exif": "ignore"}),
        # Of 8 bits, which a range of more does not change.
        (None, {}, (0, 4095), {}),
        (None, {}, (0, 127), {"image_range": [0, 127]}),
        (None, {"exif": "ignore"}, (), {"exif": "ignore"}),
    ],
)
def test_the_described_settings_are_those_that_change_pixels(tmp_path, values, keys, configured, expected):
    deep = gray_roads(tmp_path, {"train": values or [255]}, **keys)
    if values is None:
        save(tmp_path / "images/train/0.png", gray_ramp(255).astype(np.uint8))
    (record,), _ = load(deep)
    assert describe_reading(record, configured) == expected
    shown = gray_of(load_image(record, configured=configured))
    usual = gray_of(load_image({"file_name": record["file_name"]}))
    if not expected:
        assert np.array_equal(shown, usual)
    _low, high = expected.get("image_range", (0, 255))
    stored = gray_ramp((values or [255])[0])
    scale = (lambda v: v * 256 // (high + 1)) if high >= 255 else (lambda v: np.round(v * 255 / high))
    assert np.array_equal(shown, np.clip(scale(stored.astype(float)), 0, 255).astype(np.uint8))


def test_a_checkpoints_range_that_replaces_the_estimate_is_logged_once(tmp_path, caplog):
    register_dataset_file(gray_roads(tmp_path / "data", {"train": [1000], "val": [1000]}))
    cfg = toy_cfg(tmp_path / "run", DATASETS__TRAIN=("roads_train",), DATASETS__TEST=("roads_val",))
    cfg.INPUT.IMAGE_RANGE = ()
    caplog.set_level(logging.WARNING)
    take_trained_range(cfg, {"image_range": [0, 4095]})
    assert tuple(cfg.INPUT.IMAGE_RANGE) == (0, 4095)
    take_trained_range(cfg, {"image_range": [0, 255]})  # given already
    assert tuple(cfg.INPUT.IMAGE_RANGE) == (0, 4095)
    for _ in range(2):
        build_test_loader(cfg, "roads_val")
    (line,) = [line for line in caplog.messages if "INPUT.IMAGE_RANGE" in line]
    assert line.startswith("roads_val: images of more than 8 bits are read with 0 as black and 4095 as white")
    assert "without it, 0 and 1023 are used; image_range in roads.yaml overrides both" in line
    caplog.clear()
    file = gray_roads(tmp_path / "data", {"train": [1000], "val": [1000]}, image_range=[0, 1023])
    register_dataset_file(file)
    build_test_loader(cfg, "roads_val")
    assert not caplog.messages
