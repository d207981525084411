"""tools/mask_size_bound.py: masks and scores computed by hand."""

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.data.data_trees import forget, write_panoptic, write_yaml

TOOL = Path(__file__).resolve().parents[2] / "tools" / "mask_size_bound.py"


@pytest.fixture(scope="module")
def tool():
    sys.path.insert(0, str(TOOL.parent))
    spec = importlib.util.spec_from_file_location("mask_size_bound_under_test", TOOL)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    sys.path.remove(str(TOOL.parent))
    return module


def columns(height, width, *ends):
    """An id map whose segment i + 1 has the columns up to ends[i]."""
    ids = np.zeros((height, width), np.int32)
    for segment, (start, end) in enumerate(zip((0, *ends), ends, strict=False), start=1):
        ids[:, start:end] = segment
    segments = [{"id": i + 1, "category_id": i, "iscrowd": 0} for i in range(len(ends))]
    return ids, segments


def extents(ids):
    """First and last column of every segment, by id."""
    return {
        int(i): (int(np.nonzero(ids == i)[1].min()), int(np.nonzero(ids == i)[1].max()))
        for i in np.unique(ids)
    }


@pytest.mark.parametrize(
    ("method", "width", "ends", "expected"),
    [
        # Cells at 3.5 and 11.5: 1 and 0 for the first segment, 0.5 at 7.5, between columns 7 and 8.
        ("panoptic_segformer", 16, (8, 16), {1: (0, 7), 2: (8, 15)}),
        ("panoptic_segformer", 16, (6, 16), {1: (0, 7), 2: (8, 15)}),
        # A segment between two cells vanishes.
        ("panoptic_segformer", 16, (5, 8, 16), {1: (0, 7), 3: (8, 15)}),
        # Three cells of 20 / 3 columns, at 2.8, 9.5, 16.2: 1, 0, 0 for the first segment, 0.5 at 6.2.
        ("panoptic_segformer", 20, (7, 20), {1: (0, 6), 2: (7, 19)}),
        # Cells at 2, 6, 10, ...: 1 at 6, 0 at 10, exactly 0.5 at column 8, which no segment gets.
        ("entityseg", 32, (10, 32), {0: (8, 8), 1: (0, 7), 2: (9, 31)}),
        # Logits at 4, 12, ...: 10, -10; doubled, 10, 10, 0, -10 at 2, 6, 10, 14: 0.5 at column 10.
        ("entityseg_logits", 32, (10, 32), {0: (10, 10), 1: (0, 9), 2: (11, 31)}),
        # Cells between columns 1 and 2, 5 and 6, 9 and 10: 1, 1, 0.5 of the first segment, 0.5 at 9.5.
        ("maskformer", 32, (10, 32), {1: (0, 9), 2: (10, 31)}),
    ],
)
def test_extents_by_hand(tool, method, width, ends, expected):
    ids, segments = columns(32, width, *ends)
    found, listed = tool.reduced(ids, segments, ids.shape, method)
    assert extents(found) == expected
    assert [one["id"] for one in listed] == [i for i in expected if i]


def test_crowds_are_left_out_and_an_image_may_be_empty(tool):
    ids, segments = columns(16, 16, 8, 16)
    segments[0]["iscrowd"] = 1
    found, listed = tool.reduced(ids, segments, ids.shape, "panoptic_segformer")
    assert extents(found) == {0: (0, 7), 2: (8, 15)}
    assert [one["id"] for one in listed] == [2]
    found, listed = tool.reduced(ids, [], ids.shape, "entityseg")
    assert not found.any()
    assert listed == []


def test_size_of_the_network(tool):
    assert tool.network_size((480, 640), 800, 1333) == (800, 1067)
    assert tool.network_size((427, 1000), 800, 1333) == (569, 1333)
    assert tool.network_size((480, 640), 0, 1333) == (480, 640)


def test_scores_by_hand(tool, tmp_path, capsys):
    """Segments of 6 and 10 columns become 8 and 8: IoU 6 / 8 and 8 / 10.

    Both match up to 0.75. At 0.8 the first, of equal score, is a false positive before the true one:
    precision 1/2 at the 51 recalls up to 1/2.
    """
    ids, segments = columns(16, 16, 6, 16)
    categories = [{"id": 0, "name": "road", "isthing": 0}, {"id": 1, "name": "car", "isthing": 1}]
    write_panoptic(tmp_path, {"a": ids}, {"a": segments}, categories)
    content = {
        "splits": {"bound_roads": "all"},
        "images": "images",
        "panoptic": "panoptic",
        "annotations": "panoptic.json",
        "classes": [{"name": "road", "id": 0, "isthing": False}, {"name": "car", "id": 1, "isthing": True}],
    }
    path = write_yaml(tmp_path, content)
    try:
        assert tool.main(["--data", str(path), "--method", "panoptic_segformer", "--short", "0"]) == 0
    finally:
        forget(["bound_roads"])
    (row,) = [line for line in capsys.readouterr().out.splitlines() if "panoptic_segformer" in line]
    pq, _, _, things, stuff, ap, ap50, ap75 = (float(cell) for cell in row.split("|")[2:-1])
    assert (pq, things, stuff) == (77.5, 80, 75)
    assert ap == pytest.approx(10 * (6 + 0.5 * 51 / 101), abs=0.006)
    assert (ap50, ap75) == (100, 100)


@pytest.mark.parametrize(("words", "message"), [(["--split", "a"], "--split a: expected one of")])
def test_wrong_input_is_one_line(tool, capsys, words, message):
    assert tool.main(["--data", "coco_panoptic", *words]) == 2
    assert message in capsys.readouterr().err
