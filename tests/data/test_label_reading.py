"""Images and label files are read as documented, or rejected with the file's name."""

import numpy as np
import pytest
from detectron2.data.detection_utils import read_image as detectron2_read_image
from PIL import Image

from segzoo.data import read_image
from segzoo.utils.errors import InputError
from tests.data.data_trees import (
    ROADS,
    STREET,
    STREET_CATEGORIES,
    STREET_IDS,
    load,
    random_image,
    save,
    write_panoptic,
    write_roads,
    write_street,
    write_yaml,
)

LABELS = np.array([[0, 1, 2], [3, 4, 255]], dtype=np.uint8)


@pytest.mark.parametrize("image_format", ["RGB", "BGR"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied_as_detectron2_does(tmp_path, orientation, image_format):
    image = Image.fromarray(random_image(5, 7))
    exif = Image.Exif()
    exif[274] = orientation
    image.save(tmp_path / "a.png", exif=exif)
    pixels = read_image(str(tmp_path / "a.png"), image_format)
    expected = detectron2_read_image(str(tmp_path / "a.png"), image_format)
    assert np.array_equal(pixels, expected)
    assert pixels.shape == ((5, 7, 3) if orientation < 5 else (7, 5, 3))
    assert pixels.dtype == np.uint8


@pytest.mark.parametrize("mode", ["L", "LA", "RGBA", "CMYK", "P", "1"])
def test_other_modes_are_converted_as_detectron2_does(tmp_path, mode):
    suffix = "tif" if mode == "CMYK" else "png"
    file = save(tmp_path / f"a.{suffix}", random_image(5, 7), mode)
    pixels = read_image(str(file))
    assert pixels.shape == (5, 7, 3)
    assert np.array_equal(pixels, detectron2_read_image(str(file), "RGB"))


def test_sixteen_bit_gray_keeps_its_upper_byte(tmp_path):
    gray = np.array([[0, 255, 256], [65535, 12345, 300]], dtype=np.uint16)
    pixels = read_image(str(save(tmp_path / "a.png", gray)))
    assert pixels[:, :, 0].tolist() == [[0, 0, 1], [255, 48, 1]]
    assert (pixels == pixels[:, :, :1]).all()


def test_floating_point_pixels_are_refused(tmp_path):
    file = save(tmp_path / "a.tif", np.zeros((2, 2), dtype=np.float32))
    with pytest.raises(
        InputError,
        match=r"a.tif: has floating-point pixels; set the values of black and white",
    ):
        read_image(str(file))


def truncated(path):
    save(path, random_image(64, 64))
    path.write_bytes(path.read_bytes()[:-500])


def not_an_image(path):
    path.write_text("hello")


def empty(path):
    path.write_bytes(b"")


def missing(path):
    pass


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (missing, "does not exist"),
        (not_an_image, "cannot be read as an image"),
        (empty, "cannot be read as an image"),
        (truncated, "cannot be read as an image"),
    ],
)
@pytest.mark.parametrize("name", ["a.png", "a.jpg"])
def test_broken_and_missing_files_are_named_in_one_line(tmp_path, make, message, name):
    make(tmp_path / name)
    with pytest.raises(InputError) as caught:
        read_image(str(tmp_path / name))
    assert str(caught.value).startswith(f"{tmp_path / name}: {message}")
    assert "\n" not in str(caught.value)
    # Reading a single image is not training.
    assert "DATALOADER" not in str(caught.value)


def read_labels(file):
    """The label map of a dataset's only image, read as the mapper does: knowing the image's size."""
    records, metadata = load(file)
    height, width, _ = read_image(records[0]["file_name"]).shape
    return metadata.load_sem_seg({**records[0], "height": height, "width": width})


COLORED = [{"name": name, "color": [index, 0, 0]} for index, name in enumerate(ROADS["classes"])]
MASK = np.array([[0, 255], [255, 0]], dtype=np.uint8)
TWO = ["background", "crack"]


@pytest.mark.parametrize(
    ("labels", "keys", "message"),
    [
        (
            np.where(LABELS == 4, 7, LABELS).astype(np.uint8),
            {},
            "a.png: label 7 is outside [0, 5) and is not the ignore label 255 (1 pixels); ",
        ),
        (
            LABELS + np.uint8(3),
            {},
            "a.png: labels 5, 6, 7 are outside [0, 5) and are not the ignore label 255 (3 pixels); ",
        ),
        (
            LABELS,
            {"encoding": {"type": "index", "values": {0: "road", 7: "sky"}}},
            "a.png: labels 1, 2, 3, 4 are not among the values 0, 7",
        ),
        (
            MASK,
            {"classes": TWO},
            "a.png: holds only {0, 255}; 255 is the ignore label, so no foreground remains. Set encoding:",
        ),
        (
            np.stack([LABELS] * 3, 2),
            {},
            "a.png: is a color image (RGB) with three equal channels, but roads",
        ),
        (
            random_image(2, 3),
            {},
            "a.png: is a color image (RGB), but roads.yaml says encoding index; set encoding: rgb",
        ),
        (LABELS, {"encoding": "palette"}, "a.png: has the mode L, but roads.yaml says encoding palette"),
        (
            LABELS,
            {"encoding": "rgb", "classes": COLORED},
            "a.png: has the mode L, but roads.yaml says encoding rgb",
        ),
    ],
)
def test_wrong_labels_are_explained_in_one_line(tmp_path, labels, keys, message):
    with pytest.raises(InputError) as caught:
        read_labels(write_roads(tmp_path, labels, **keys))
    assert message in str(caught.value)
    assert "roads.yaml" in str(caught.value) or "Set encoding" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "keys",
    [
        {"encoding": "binary"},
        {"label_map": {255: "crack"}},
        {"encoding": {"type": "index", "void": [255]}},
    ],
)
def test_the_remedies_named_for_a_mask_work(tmp_path, keys):
    labels = read_labels(write_roads(tmp_path, MASK, classes=TWO, **keys))
    foreground = 255 if "void" in str(keys) else 1
    assert labels.tolist() == [[0, foreground], [foreground, 0]]


def test_labels_of_another_size_than_the_image_are_refused(tmp_path):
    file = write_roads(tmp_path, LABELS)
    save(tmp_path / "images/train/a.png", random_image(4, 6))
    with pytest.raises(InputError) as caught:
        read_labels(file)
    assert "masks/train/a.png: is 3x2, but its image" in str(caught.value)
    assert "images/train/a.png is 6x4" in str(caught.value)


def test_semantic_labels_have_no_instances(tmp_path):
    records, metadata = load(write_roads(tmp_path, LABELS))
    with pytest.raises(InputError, match="roads_train: has semantic labels only"):
        metadata.label_reader.load_panoptic(records[0])


def test_a_gray_panoptic_png_is_refused(tmp_path):
    records, metadata = load(write_street(tmp_path))
    save(tmp_path / "panoptic/a.png", STREET_IDS.astype(np.uint8))
    with pytest.raises(InputError, match=r"a.png: a panoptic PNG holds segment ids as RGB, found mode L"):
        metadata.load_panoptic(records[0])


@pytest.mark.parametrize("count", [3, 254, 255, 300, 1000])
def test_any_number_of_segments_keeps_its_ids(tmp_path, count):
    ids = np.random.default_rng(count).permutation(1 << 16)[:count] * 255 + 1
    pixels = np.resize(ids, (40, 30))
    segments = [{"id": int(one), "category_id": 3} for one in ids]
    write_panoptic(tmp_path, {"a": pixels}, {"a": segments}, STREET_CATEGORIES)
    records, metadata = load(write_yaml(tmp_path, STREET, "street.yaml"))
    loaded, info = metadata.load_panoptic(records[0])
    assert loaded.dtype == np.int32
    assert np.array_equal(loaded, pixels)
    assert [one["id"] for one in info] == ids.tolist()
    indices, table, _ = metadata.label_reader.load_index_map(records[0])
    assert len(table.classes) == count
    assert np.array_equal(ids[indices.astype(int) - 1], pixels)


def test_semantic_labels_of_a_panoptic_dataset_come_from_its_png_or_from_files(tmp_path):
    from_png = load(write_street(tmp_path / "png"))
    expected = np.full(STREET_IDS.shape, 255)
    for segment, index in {70000: 2, 500: 1, 7: 1, 66051: 3, 300: 3, 12: 0}.items():
        expected[np.equal(STREET_IDS, segment)] = index
    assert np.array_equal(from_png[1].load_sem_seg(from_png[0][0]), expected)
    file = write_street(tmp_path / "file", labels="semantic/{stem}.png", splits={"with_files": "train"})
    save(tmp_path / "file/semantic/a.png", np.full((4, 6), 3, dtype=np.uint8))
    records, metadata = load(file)
    assert (metadata.load_sem_seg(records[0]) == 3).all()
