"""What annotation tools and image programs export is read right, or one line; the truth is drawn here."""

import gzip
import json
import os

import numpy as np
import pytest
from panopticapi.utils import id2rgb
from PIL import Image
from pycocotools import mask as rle

from segzoo.data import PixelRange, load_image, read_image
from segzoo.data.pixel_range import to_8_bits
from segzoo.utils.errors import InputError
from tests.data.data_trees import STREET_IDS, load, random_image, save, write_roads, write_street, write_yaml

HEIGHT, WIDTH = 12, 16
MASK = np.zeros((HEIGHT, WIDTH), np.uint8, order="F")
MASK[2:7, 3:11] = 1
LABELS = (np.arange(24).reshape(4, 6) % 5).astype(np.uint8)
CATEGORIES = [{"id": 1, "name": "cat"}]


def write_pets(folder, segmentation, categories=CATEGORIES, images=None, **keys):
    """Instances of one image; `keys` are those of the annotation."""
    save(folder / "images/a.png", random_image(HEIGHT, WIDTH))
    content = {
        "images": images or [{"id": 1, "file_name": "a.png", "height": HEIGHT, "width": WIDTH}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "segmentation": segmentation, **keys}],
        "categories": categories,
    }
    (folder / "pets.json").write_text(json.dumps(content))
    pets = {"splits": {"pets_x": "x"}, "images": "images", "instances": "pets.json", "classes": ["cat"]}
    return write_yaml(folder, pets, "pets.yaml")


def drawn(file):
    """(H, W) 0 or 1: where the instance is."""
    (record,), metadata = load(file)
    (instance,) = metadata.load_instances(record)
    return rle.decode(instance["segmentation"])


def runs(mask):
    flat = np.concatenate([[0], mask.ravel(order="F"), [-1]])
    edges = np.flatnonzero(np.diff(flat))
    return np.diff(np.concatenate([[0], edges])).tolist()


COMPRESSED = rle.encode(MASK)["counts"]


@pytest.mark.parametrize(
    "counts",
    [
        COMPRESSED.decode(),
        str(COMPRESSED),  # json.dumps(..., default=str) of pycocotools' bytes
        runs(MASK),
        [float(run) for run in runs(MASK)],
        [str(run) for run in runs(MASK)],
        str(runs(MASK)),
        str(np.array(runs(MASK))).replace("\n", ""),
    ],
)
@pytest.mark.parametrize("as_size", [int, float, str])
def test_rle_is_read_however_python_wrote_it(tmp_path, counts, as_size):
    size = [as_size(HEIGHT), as_size(WIDTH)]
    assert np.array_equal(drawn(write_pets(tmp_path, {"size": size, "counts": counts})), MASK)


def test_compressed_rle_may_begin_with_a_bracket(tmp_path):
    mask = np.zeros(HEIGHT * WIDTH, np.uint8)
    mask[43:50] = 1  # 43 = 11 + 32 * 1: the characters 48 + 32 + 11, "[", and 48 + 1, "1"
    mask = np.asfortranarray(mask.reshape(HEIGHT, WIDTH, order="F"))
    counts = rle.encode(mask)["counts"].decode()
    assert counts.startswith("[1")
    segmentation = {"size": [HEIGHT, WIDTH], "counts": counts}
    assert np.array_equal(drawn(write_pets(tmp_path, segmentation)), mask)


@pytest.mark.parametrize(
    ("segmentation", "found"),
    [
        ({"size": [HEIGHT, WIDTH]}, "it lacks 'counts'"),
        ({"counts": COMPRESSED.decode()}, "it lacks 'size'"),
        ({"size": [HEIGHT, WIDTH], "counts": "b'"}, "unterminated string literal"),
        ({"size": [HEIGHT, WIDTH], "counts": "[1, x]"}, "malformed node"),
        ({"size": [HEIGHT, WIDTH], "counts": "!"}, "not a compressed RLE"),
    ],
)
def test_rle_that_cannot_be_read_is_one_line_with_a_remedy(tmp_path, segmentation, found):
    with pytest.raises(InputError, match=r"annotation 1: its segmentation cannot be read \(") as error:
        drawn(write_pets(tmp_path, segmentation))
    assert found in str(error.value)
    assert str(error.value).endswith("; write it as polygons, or as COCO's RLE")


def test_a_category_that_only_groups_others_is_not_a_class(tmp_path):
    """Roboflow writes the name of the project as category 0."""
    grouped = [{"id": 0, "name": "pets-x1", "supercategory": "none"}]
    grouped += [{**one, "supercategory": "pets-x1"} for one in CATEGORIES]
    polygon = [[3, 2, 11, 2, 11, 7, 3, 7]]
    assert drawn(write_pets(tmp_path, polygon, grouped)).sum() == MASK.sum()
    # One that has an annotation is a class that the YAML lacks; so is one that groups nothing.
    with pytest.raises(InputError, match="category 0 'pets-x1' is neither a class"):
        drawn(write_pets(tmp_path, polygon, grouped, category_id=0))
    with pytest.raises(InputError, match="category 0 'pets-x1' is neither a class"):
        drawn(write_pets(tmp_path, polygon, [*grouped[:1], *CATEGORIES]))


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-be", "cp1252"])
def test_a_json_may_have_any_encoding(tmp_path, encoding):
    file = write_pets(tmp_path, [[3, 2, 11, 2, 11, 7, 3, 7]], name="Kätzchen")
    text = json.dumps(json.loads((tmp_path / "pets.json").read_text()), ensure_ascii=False)
    (tmp_path / "pets.json").write_bytes(text.encode(encoding))
    assert drawn(file).any()


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (b" \n", "it is empty"),
        (gzip.compress(b"{}", mtime=0), "compressed with gzip; decompress it"),
        (b'{"images": [1,]}', "line 1 column"),
        (b'{"a": 1}\n{"a": 2}', "Extra data: line 2"),
    ],
)
def test_a_file_that_is_no_json_says_where_and_why(tmp_path, content, found):
    file = write_pets(tmp_path, [])
    (tmp_path / "pets.json").write_bytes(content)
    with pytest.raises(InputError, match=r"pets.json: cannot be read as JSON") as error:
        load(file)
    assert found in str(error.value)


@pytest.mark.parametrize(
    ("content", "name"),
    [
        ({"version": "5", "shapes": [], "imagePath": "a.png", "imageHeight": 4}, "labelme"),
        ({"a.png12": {"filename": "a.png", "regions": []}}, "VGG Image Annotator"),
        ({"_via_settings": {}, "_via_img_metadata": {"a": {"regions": []}}}, "VGG Image Annotator"),
        ([{"id": 1, "data": {"image": "a.png"}, "annotations": []}], "Label Studio"),
        ({"size": {"height": 4, "width": 6}, "objects": [], "tags": []}, "Supervisely"),
        ({"type": "FeatureCollection", "features": []}, "GeoJSON"),
    ],
)
def test_the_formats_of_tools_are_distinguished_from_coco(tmp_path, content, name):
    file = write_pets(tmp_path, [])
    (tmp_path / "pets.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match=rf"pets.json: is in .*{name}.*; expected COCO's instances format"):
        load(file)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P"])
def test_the_colors_of_a_panoptic_png_are_ids_however_it_is_stored(tmp_path, mode):
    """Optimizers write a palette, without losses, where there are at most 256 colors."""
    file = write_street(tmp_path)
    image = Image.fromarray(id2rgb(STREET_IDS.astype(np.uint32)))
    image = image.quantize(256) if mode == "P" else image.convert(mode)
    image.save(tmp_path / "panoptic/a.png")
    (record,), metadata = load(file)
    ids, segments = metadata.load_panoptic(record)
    assert np.array_equal(ids, STREET_IDS)
    assert {one["id"] for one in segments} == set(np.unique(STREET_IDS)) - {0}


def test_a_panoptic_png_that_opencv_wrote_without_conversion_is_recognized(tmp_path):
    file = write_street(tmp_path)
    save(tmp_path / "panoptic/a.png", id2rgb(STREET_IDS.astype(np.uint32))[:, :, ::-1])
    (record,), metadata = load(file)
    # One id may be the same in both orders.
    with pytest.raises(InputError, match="with red and blue exchanged they are: write the PNG as RGB"):
        metadata.load_panoptic(record)


@pytest.mark.parametrize("with_range", [False, True])
def test_signed_images_need_a_range_and_the_line_has_one(tmp_path, with_range):
    """CT scans: no range of bits holds them, and 0 is not black."""
    values = np.linspace(-1000, 3000, 24).reshape(4, 6).astype(np.int32)
    content = {"image_range": [-1000, 3000]} if with_range else {}
    file = write_roads(tmp_path, LABELS, images="images/{split}/{stem}.tif", **content)
    (tmp_path / "images/train/a.png").unlink()
    Image.fromarray(values).save(tmp_path / "images/train/a.tif")
    (record,), _ = load(file)
    if with_range:
        expected = np.floor((values + 1000.0) * 256 / 4001).astype(np.uint8)
        assert np.array_equal(load_image(record)[:, :, 0], expected)
    else:
        with pytest.raises(InputError, match=r"range from -1000 to 3000, .*image_range: \[-1000, 3000\]"):
            load_image(record)


def test_labels_in_an_animation_are_refused(tmp_path):
    file = write_roads(tmp_path, LABELS)
    frames = [Image.fromarray(LABELS), Image.fromarray(LABELS[::-1].copy())]
    frames[0].save(tmp_path / "masks/train/a.png", save_all=True, append_images=frames[1:])
    (record,), metadata = load(file)
    with pytest.raises(InputError, match="holds labels as an animation of 2 frames"):
        metadata.load_sem_seg(record)


HEIC = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(64)


def test_images_of_phones_are_named_not_missed(tmp_path):
    file = write_roads(tmp_path, LABELS, images="images/{split}/{stem}.*", encoding="index")
    (tmp_path / "images/train/b.HEIC").write_bytes(HEIC)
    save(tmp_path / "masks/train/b.png", LABELS)
    records, _ = load(file)
    assert len(records) == 2
    with pytest.raises(InputError, match=r"b.HEIC: .*HEIF/HEIC.*; convert it to JPEG or PNG"):
        read_image(records[1]["file_name"])


def test_links_that_lead_nowhere_are_named_and_those_in_circles_are_no_folders(tmp_path):
    file = write_roads(tmp_path, LABELS, images="images/{split}/{place}/{stem}.png")
    folder = tmp_path / "images/train"
    (folder / "x").mkdir()
    os.rename(folder / "a.png", folder / "x/a.png")
    os.symlink("circle", folder / "circle")
    os.symlink("..", folder / "x/up")
    records, _ = load(file)
    assert [record["image_id"] for record in records] == ["x/a"]
    os.symlink("/nowhere/b.png", folder / "x/b.png")
    save(tmp_path / "masks/train/b.png", LABELS)
    records, _ = load(file)
    assert len(records) == 2
    with pytest.raises(InputError, match=r"x/b.png: does not exist; restore the file"):
        read_image(records[1]["file_name"])


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (b"\x93NUMPY\x01\x00v\x00", "it is a NumPy array"),
        (b"MATLAB 5.0 MAT-file", "it is a MATLAB file"),
        (b'{"shapes": []}', "it is JSON"),
        (b"<annotation>", "it is XML"),
        (b"0 0.1 0.1 0.5 0.1\n", "it is text, as in YOLO's format"),
    ],
)
def test_label_files_that_are_not_images_are_named_by_format(tmp_path, content, found):
    (record,), metadata = load(write_roads(tmp_path, LABELS))
    (tmp_path / "masks/train/a.png").write_bytes(content)
    with pytest.raises(
        InputError, match=rf"a.png: cannot be read as an image \({found}\); convert it to an image"
    ):
        metadata.load_sem_seg(record)


def test_a_value_below_0_that_the_sample_did_not_have_is_one_line(tmp_path):
    values = np.array([[-7, 0, 500]], np.int32)
    with pytest.raises(
        InputError, match=r"a.tif: has the value -7, .*image_range: \[-7, 1023\] in roads.yaml"
    ):
        to_8_bits(values, PixelRange(0, 1023, "roads.yaml"), "a.tif")
    assert to_8_bits(values, PixelRange(-7, 1023), "a.tif").tolist() == [
        [0, 7 * 256 // 1031, 507 * 256 // 1031]
    ]
