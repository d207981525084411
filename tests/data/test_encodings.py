"""Every encoding turns every value that files can hold into the class that its rule says."""

import numpy as np
import pytest
from PIL import Image

from segzoo.data.encodings import LabelSpace, build_encoding
from segzoo.utils.errors import InputError
from tests.data.data_trees import load, write_roads

NAMES = ("road", "building", "sky", "car", "person")
COLORS = [(128, 64, 128), (70, 70, 70), (70, 130, 180), (0, 0, 142), (220, 20, 60)]


def encoding_of(setting, names=NAMES, ids=(7, 11, 23, 26, 24), label_map=None):
    space = LabelSpace(tuple(names), tuple(ids), label_map or {}, "roads.yaml")
    return build_encoding(setting, space, dict(zip(names, COLORS, strict=False)))


def decode_values(encoding, dtype=np.uint8):
    """{value: class} of every value that the encoding accepts when it is the only one in a file."""
    accepted = {}
    for value in range(256):
        image = Image.fromarray(np.full((1, 2), value, dtype=dtype))
        try:
            accepted[value] = encoding.decode(image, "a.png")[0, 0]
        except InputError:
            continue
    return accepted


@pytest.mark.parametrize(
    ("setting", "label_map", "expected"),
    [
        ("index", {}, {0: 0, 1: 1, 2: 2, 3: 3, 4: 4, 255: 255}),
        ({"type": "index", "offset": -1}, {}, {0: 255, 1: 0, 2: 1, 3: 2, 4: 3, 5: 4, 255: 255}),
        (
            {"type": "index", "void": [5, 9]},
            {},
            {0: 0, 1: 1, 2: 2, 3: 3, 4: 4, 5: 255, 9: 255, 255: 255},
        ),
        ("id", {}, {7: 0, 11: 1, 23: 2, 26: 3, 24: 4, 255: 255}),
        ({"type": "id", "void": [0]}, {}, {0: 255, 7: 0, 11: 1, 23: 2, 26: 3, 24: 4, 255: 255}),
        (
            {"type": "index", "values": {3: "car", 8: "truck", 9: "rider"}},
            {"truck": "car", "rider": "void"},
            {3: 3, 8: 3, 9: 255, 255: 255},
        ),
        ({"type": "index", "values": ["sky", "road"]}, {}, {0: 2, 1: 0, 255: 255}),
        ("index", {40: "person", 4: "car"}, {0: 0, 1: 1, 2: 2, 3: 3, 4: 3, 40: 4, 255: 255}),
        ("index", {255: "road"}, {0: 0, 1: 1, 2: 2, 3: 3, 4: 4, 255: 0}),
    ],
)
def test_index_values_become_the_classes_of_the_rule_and_no_others_are_accepted(setting, label_map, expected):
    assert decode_values(encoding_of(setting, label_map=label_map)) == expected


def test_others_void_makes_every_unlisted_value_void():
    classes = decode_values(encoding_of({"type": "id", "others": "void"}))
    listed = {7: 0, 11: 1, 23: 2, 26: 3, 24: 4}
    assert classes == {value: listed.get(value, 255) for value in range(256)}


def test_binary_masks_have_the_background_first():
    encoding = encoding_of("binary", names=("background", "crack"), ids=(0, 1))
    assert decode_values(encoding) == {0: 0, 1: 1, 255: 1}
    one_bit = Image.fromarray(np.array([[0, 255]], dtype=np.uint8)).convert("1")
    assert encoding.decode(one_bit, "a.png").tolist() == [[0, 1]]


def test_a_palette_image_counts_by_its_index_not_its_color():
    image = Image.fromarray(np.array([[0, 1], [4, 255]], dtype=np.uint8))
    image.putpalette([9, 9, 9] * 256)
    for name in ("palette", "index"):
        assert encoding_of(name).decode(image, "a.png").tolist() == [[0, 1], [4, 255]]


def test_sixteen_bits_hold_more_than_255_classes():
    names = [f"class {index}" for index in range(847)]
    space = LabelSpace(tuple(names), tuple(range(847)))
    encoding = build_encoding("index", space, {})
    stored = np.array([[0, 255, 256], [846, 65535, 3]], dtype=np.uint16)
    labels = encoding.decode(Image.fromarray(stored), "a.tif")
    assert space.ignore_label == 65535
    assert labels.dtype == np.uint16
    assert labels.tolist() == stored.tolist()
    with pytest.raises(InputError, match=r"a.tif: label 847 is outside \[0, 847\)"):
        encoding.decode(Image.fromarray(stored + np.uint16(1)), "a.tif")


def test_colors_become_classes_and_unknown_ones_are_refused():
    pixels = np.array([[*COLORS, (0, 0, 0)]], dtype=np.uint8)
    encoding = encoding_of({"type": "rgb", "void": [[0, 0, 0]]})
    assert encoding.decode(Image.fromarray(pixels), "a.png").tolist() == [[0, 1, 2, 3, 4, 255]]
    pixels[0, 0] = (1, 2, 3)
    with pytest.raises(InputError, match=r"a.png: 1 pixels have colors of no class: \(1, 2, 3\)"):
        encoding.decode(Image.fromarray(pixels), "a.png")
    tolerant = encoding_of({"type": "rgb", "void": [[0, 0, 0]], "others": "void"})
    assert tolerant.decode(Image.fromarray(pixels), "a.png").tolist() == [[255, 1, 2, 3, 4, 255]]


def test_several_colors_may_be_one_class_under_other_names():
    colors = {"asphalt": [[1, 2, 3], [3, 2, 1]], "sky": [[9, 9, 9]], "building": [], "car": [], "person": []}
    setting = {"type": "rgb", "colors": colors}
    encoding = encoding_of(setting, label_map={"asphalt": "road"})
    pixels = np.array([[(1, 2, 3), (3, 2, 1), (9, 9, 9)]], dtype=np.uint8)
    assert encoding.decode(Image.fromarray(pixels), "a.png").tolist() == [[0, 0, 2]]


def test_the_mode_of_a_file_selects_one_of_several_encodings():
    encoding = encoding_of(["index", "rgb"])
    assert encoding.decode(Image.fromarray(np.array([[3]], dtype=np.uint8)), "a.png").tolist() == [[3]]
    assert encoding.decode(Image.fromarray(np.array([[COLORS[4]]], dtype=np.uint8)), "a").tolist() == [[4]]


def test_a_class_without_a_color_is_fine_where_another_encoding_has_it():
    encoding = encoding_of(["index", {"type": "rgb", "colors": {"road": [[1, 2, 3]]}}])
    assert encoding.decode(Image.fromarray(np.array([[3]], dtype=np.uint8)), "a.png").tolist() == [[3]]


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("indx", "encoding 'indx' is unknown; did you mean index?"),
        ({"offset": 1}, "encoding lacks its type"),
        ({"type": "index", "ofset": 1}, "encoding index has no option ofset; did you mean offset?"),
        ({"type": "index", "offset": "one"}, "offset is 'one'; expected a whole number"),
        ({"type": "index", "values": {"a": "road"}}, "'a': 'road' is not a value"),
        (
            {"type": "index", "values": ["raod"]},
            "label 'raod' in the files is neither a class nor in label_map",
        ),
        ({"type": "index", "void": 3}, "void is 3; expected a list of numbers"),
        ({"type": "index", "others": "skip"}, "others is 'skip'; expected error or void"),
        ("binary", "needs two classes (background first), found 5"),
        ({"type": "rgb", "colors": {"road": [[1, 2]]}}, "'road': [1, 2] is not a color"),
        ({"type": "rgb", "colors": {"road": None}}, "'road': None is not a list of colors"),
        (
            {"type": "rgb", "colors": {"road": [[1, 2, 3]], "building": [[3, 2, 1]], "sky": []}},
            "encoding rgb: class 'car' has no color; give it one under color or encoding.colors",
        ),
        (
            {"type": "rgb", "colors": {"road": [[1, 2, 3]], "sky": [[1, 2, 3]]}},
            "is given to 'sky' and to another",
        ),
    ],
)
def test_wrong_encodings_are_explained_in_one_line(setting, message):
    with pytest.raises(InputError) as caught:
        encoding_of(setting)
    assert message in str(caught.value)
    assert "roads.yaml" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_class_map_of_a_file_is_the_same_through_the_dataset(tmp_path):
    stored = np.array([[0, 1, 2], [3, 4, 255]], dtype=np.uint8)
    records, metadata = load(write_roads(tmp_path, stored))
    assert metadata.load_sem_seg(records[0]).tolist() == stored.tolist()


@pytest.mark.parametrize(
    ("setting", "label_map", "expected"),
    [
        ("id", {}, [7, 11, 23, 26, 24]),
        ({"type": "index", "offset": -1}, {}, [1, 2, 3, 4, 5]),
        # Of merged labels the class's own counts, and a class that lost its own has the one mapped to it.
        ("index", {3: "road", 9: "car", 40: "person"}, [0, 1, 2, 9, 4]),
        ({"type": "index", "values": ["sky", "road"]}, {}, None),
        ("rgb", {}, None),
        (["rgb", {"type": "index", "void": [5]}], {}, [0, 1, 2, 3, 4]),
    ],
)
def test_the_values_that_files_hold_for_the_classes_are_known(setting, label_map, expected):
    assert encoding_of(setting, label_map=label_map).file_values() == expected


def test_values_of_16_bits_are_known_too():
    names = [f"class {index}" for index in range(847)]
    encoding = encoding_of({"type": "index", "offset": -1}, names, range(847))
    assert encoding.file_values() == list(range(1, 848))


def test_a_mask_saved_as_rgb_is_read_by_its_channel(tmp_path):
    mask = np.repeat(np.array([[0, 255, 1]], dtype=np.uint8)[..., None], 3, axis=2)
    names = ["background", "road"]
    for given, named in (("index", "index"), ("binary", "binary")):
        (record,), metadata = load(write_roads(tmp_path, mask, classes=names, encoding=given))
        with pytest.raises(InputError, match=rf"set encoding: {{type: {named}, channel: 0}}"):
            metadata.load_sem_seg(record)
    setting = {"type": "binary", "channel": 0}
    (record,), metadata = load(write_roads(tmp_path, mask, classes=names, encoding=setting))
    assert metadata.load_sem_seg(record).tolist() == [[0, 1, 1]]
