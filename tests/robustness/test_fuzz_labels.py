"""Damaged label files and panoptic JSONs: the right result or an InputError, nothing else.

The files are damaged at random; hypothesis draws the same damage at every run.
"""

import json
import zlib

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from segzoo.data import read_image
from segzoo.utils.errors import InputError
from tests.data.data_trees import STREET_IDS, load, write_roads, write_street

LABELS = (np.arange(35).reshape(5, 7) % 5).astype(np.uint8)
BOUNDED = settings(
    max_examples=60,
    derandomize=True,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)

edits = st.lists(st.tuples(st.integers(0, 1 << 16), st.integers(0, 255)), min_size=1, max_size=4)
cuts = st.none() | st.floats(0, 1)


def damaged(content: bytes, changes, cut) -> bytes:
    """Some bytes replaced, and perhaps the end cut off."""
    spoilt = bytearray(content)
    for position, value in changes:
        spoilt[position % len(spoilt)] = value
    return bytes(spoilt if cut is None else spoilt[: int(cut * len(spoilt))])


def with_right_sums(content: bytes) -> bytes:
    """A PNG whose chunks have the checksums of what they hold: damage then reaches the decoder."""
    fixed, position = bytearray(content), 8
    while position + 12 <= len(fixed):
        length = int.from_bytes(fixed[position : position + 4], "big")
        end = position + 8 + length
        if end + 4 > len(fixed):
            break
        fixed[end : end + 4] = zlib.crc32(fixed[position + 4 : end]).to_bytes(4, "big")
        position = end + 4
    return bytes(fixed)


def refused(error, start):
    """The message of an error is one line that begins with the file."""
    assert str(error).startswith(start)
    assert "\n" not in str(error)


@pytest.fixture
def roads(tmp_path):
    """A dataset of one image: its label file, what that holds, and how its labels are read."""
    records, metadata = load(write_roads(tmp_path, LABELS))
    record = {**records[0], "height": 5, "width": 7}
    file = tmp_path / "masks/train/a.png"
    return file, file.read_bytes(), lambda: metadata.load_sem_seg(record)


@BOUNDED
@given(changes=edits, cut=cuts, fix=st.booleans())
def test_a_damaged_label_file_gives_labels_or_an_input_error(roads, changes, cut, fix):
    file, whole, read = roads
    content = damaged(whole, changes, cut)
    file.write_bytes(with_right_sums(content) if fix else content)
    try:
        labels = read()
    except InputError as error:
        refused(error, str(file))
        return
    assert labels.shape == LABELS.shape
    assert labels.dtype == np.uint8
    assert ((labels < 5) | (labels == 255)).all()
    # What Pillow reads without complaint counts.
    with Image.open(file) as image:
        assert np.array_equal(labels, np.asarray(image))


@BOUNDED
@given(changes=edits, cut=cuts, suffix=st.sampled_from(["jpg", "png", "webp", "gif", "tif", "bmp"]))
def test_a_damaged_image_gives_pixels_or_an_input_error(tmp_path, changes, cut, suffix):
    file = tmp_path / f"a.{suffix}"
    pixels = np.random.default_rng(0).integers(0, 256, (9, 11, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(file)
    file.write_bytes(damaged(file.read_bytes(), changes, cut))
    try:
        found = read_image(str(file))
    except InputError as error:
        refused(error, str(file))
        return
    assert found.ndim == 3
    assert found.shape[2] == 3
    assert found.dtype == np.uint8


@pytest.fixture
def street(tmp_path):
    """A panoptic dataset: its YAML, and the content of its JSON and its PNG."""
    file = write_street(tmp_path)
    return file, (tmp_path / "panoptic.json").read_text(), (tmp_path / "panoptic/a.png").read_bytes()


def read_street(file):
    """(H, W) segment ids and the segments; read as training and as evaluation read them."""
    records, metadata = load(file)
    if not records:  # a JSON may list no image
        return np.zeros(STREET_IDS.shape, np.int32), []
    (record,) = records
    ids, segments = metadata.load_panoptic(record)
    index_map = metadata.label_reader.load_index_map(record)
    assert [int(one) for one in index_map.segments.classes] == [one["category_id"] for one in segments]
    return ids, segments


def check_street(file, tmp_path):
    """The right ids, or an InputError."""
    try:
        ids, segments = read_street(file)
    except InputError as error:
        refused(error, "")
        return
    with Image.open(tmp_path / "panoptic/a.png") as image:
        expected = np.asarray(image.convert("RGB")).astype(np.int64) @ [1, 256, 65536]
    listed = [segment["id"] for segment in segments]
    assert set(np.unique(ids)) - {0} == set(listed)
    # Segments of a category that is void are out; all others are where the file has them.
    assert np.array_equal(ids, np.where(np.isin(expected, listed), expected, 0))
    assert all(0 <= segment["category_id"] < 4 for segment in segments)


@BOUNDED
@given(changes=edits, cut=cuts, fix=st.booleans())
def test_a_damaged_panoptic_png_gives_ids_or_an_input_error(street, tmp_path, changes, cut, fix):
    file, text, png = street
    content = damaged(png, changes, cut)
    (tmp_path / "panoptic.json").write_text(text)
    (tmp_path / "panoptic/a.png").write_bytes(with_right_sums(content) if fix else content)
    check_street(file, tmp_path)


@BOUNDED
@given(changes=edits, cut=cuts)
def test_a_panoptic_json_with_damaged_bytes_gives_ids_or_an_input_error(street, tmp_path, changes, cut):
    file, text, png = street
    (tmp_path / "panoptic.json").write_bytes(damaged(text.encode(), changes, cut))
    (tmp_path / "panoptic/a.png").write_bytes(png)
    check_street(file, tmp_path)


anything = st.none() | st.booleans() | st.integers(-5, 1 << 25) | st.floats() | st.text(max_size=4)
anything = (
    anything | st.lists(anything, max_size=2) | st.dictionaries(st.text(max_size=3), anything, max_size=2)
)


@BOUNDED
@given(data=st.data())
def test_a_panoptic_json_with_any_value_in_any_place_gives_ids_or_an_input_error(street, tmp_path, data):
    file, text, png = street
    content = json.loads(text)
    node = content
    while True:
        keys = list(range(len(node))) if isinstance(node, list) else list(node)
        key = data.draw(st.sampled_from(keys))
        if not isinstance(node[key], dict | list) or not node[key] or data.draw(st.integers(0, 9)) == 0:
            break
        node = node[key]
    if data.draw(st.booleans()):
        node[key] = data.draw(anything)
    else:
        del node[key]
    (tmp_path / "panoptic.json").write_text(json.dumps(content))
    (tmp_path / "panoptic/a.png").write_bytes(png)
    check_street(file, tmp_path)


def test_what_is_not_damaged_is_read(street, roads, tmp_path):
    ids, _ = read_street(street[0])
    assert np.array_equal(ids, STREET_IDS)
    assert np.array_equal(roads[2](), LABELS)
