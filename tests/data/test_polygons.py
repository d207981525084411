"""Polygons in every form in which programs write them cover the pixels that COCO's form covers."""

import json
import logging

import numpy as np
import pytest
from detectron2.data import DatasetCatalog
from pycocotools import mask as mask_tools

from segzoo.data import label_reader, register_dataset_file
from segzoo.data.checks import RemediedError
from segzoo.utils.errors import InputError
from tests.data.data_trees import random_image, save, write_yaml

HEIGHT, WIDTH = 40, 50
SQUARE = [5, 6, 25, 6, 25, 30, 5, 30]
LONG = [5, 6, 15, 4, 25, 6, 28, 20, 25, 30, 15, 33, 5, 30]


def points(polygon):
    return [[x, y] for x, y in zip(polygon[::2], polygon[1::2], strict=True)]


def named(polygon):
    return [{"x": x, "y": y} for x, y in points(polygon)]


def write(folder, segmentations, **more):
    """Two classes in turn, an image for each of the segmentations."""
    images, annotations = [], []
    for number, segmentation in enumerate(segmentations, 1):
        save(folder / f"images/{number}.png", random_image(HEIGHT, WIDTH, number))
        images.append({"id": number, "file_name": f"{number}.png", "height": HEIGHT, "width": WIDTH})
        one = {"id": number, "image_id": number, "category_id": 1 + number % 2, "iscrowd": 0, "area": 9.0}
        annotations.append({**one, "bbox": [1, 1, 3, 3], "segmentation": segmentation})
    categories = [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (folder / "instances.json").write_text(json.dumps(content))
    keys = {"splits": {"pets_x": "x"}, "images": "images", "instances": "instances.json"}
    register_dataset_file(write_yaml(folder, {**keys, "classes": ["cat", "dog"], **more}, "pets.yaml"))


def masks():
    reader = label_reader("pets_x")
    found = [reader.load_instances(record) for record in DatasetCatalog.get("pets_x")]
    return [mask_tools.decode(one["segmentation"]).astype(bool) for of_image in found for one in of_image]


def true_mask(*polygons):
    codes = mask_tools.frPyObjects([[float(side) for side in polygon] for polygon in polygons], HEIGHT, WIDTH)
    return mask_tools.decode(mask_tools.merge(codes)).astype(bool)


@pytest.mark.parametrize("polygon", [SQUARE[:6], SQUARE, LONG], ids=["3 points", "4 points", "7 points"])
@pytest.mark.parametrize(
    "form",
    [
        lambda polygon: [polygon],
        lambda polygon: polygon,
        lambda polygon: points(polygon),
        lambda polygon: [points(polygon)],
        lambda polygon: named(polygon),
        lambda polygon: [named(polygon)],
        lambda polygon: [list(map(str, polygon))],
        lambda polygon: [[str(x), str(y)] for x, y in points(polygon)],
        lambda polygon: ",".join(map(str, polygon)),
        lambda polygon: " ".join(map(str, polygon)),
        lambda polygon: [" ".join(map(str, polygon))],
        lambda polygon: json.dumps([polygon]),
    ],
)
def test_one_polygon_is_read_in_every_form(tmp_path, polygon, form):
    write(tmp_path, [form(polygon)])
    (found,) = masks()
    assert (found == true_mask(polygon)).all()


@pytest.mark.parametrize("form", [points, named, lambda polygon: polygon])
def test_several_polygons_of_an_object_are_joined(tmp_path, form):
    second = [30, 8, 45, 8, 45, 20]
    write(tmp_path, [[form(SQUARE), form(second)]])
    (found,) = masks()
    assert (found == true_mask(SQUARE, second)).all()


def test_another_form_is_logged_once_however_often_the_file_is_read(tmp_path, caplog):
    write(tmp_path, [points(SQUARE), named(LONG), [SQUARE]])
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            DatasetCatalog.get("pets_x")
    (line,) = [one.getMessage() for one in caplog.records if "another form" in one.getMessage()]
    assert (
        "instances.json: 2 annotations have polygons in another form than COCO's (first: annotation 1" in line
    )


@pytest.mark.parametrize(
    ("segmentation", "message"),
    [
        ([[5, 6, 25, 6]], "none of its 1 annotations has a polygon of three points"),
        ([[5, 6], [25, 6]], "none of its 1 annotations has a polygon of three points"),
        ([[5, 5, 9, 9, 20, 20]], "all of its polygons have the area 0"),
        ([[5, 5] * 4], "all of its polygons have the area 0"),
        ([5, 6, 25, 6, 25], "annotation 1 has a polygon of 5 coordinates, an odd number"),
        ([[[[5, 6], [25, 6], [25, 30]]]], r"annotation 1 has the segmentation \[\[\[\[5, 6\]"),
        ([{"a": 1}], r"annotation 1 has the segmentation \[{\"a\": 1}\]"),
        ("polygon", 'annotation 1 has the segmentation "polygon"'),
    ],
)
def test_an_invalid_polygon_stops_with_the_expected_form(tmp_path, segmentation, message):
    write(tmp_path, [segmentation])
    with pytest.raises(InputError, match=message) as caught:
        masks()
    assert "[x, y, x, y, ...]" in str(caught.value)


def test_some_degenerate_polygons_among_others_are_left_out(tmp_path, caplog):
    write(tmp_path, [[SQUARE], [[5, 6, 25, 6]]])
    with caplog.at_level(logging.WARNING):
        (found,) = masks()
    assert (found == true_mask(SQUARE)).all()
    assert "1 annotations without a polygon of three points left out" in caplog.text


def relative(polygon):
    return [value / (WIDTH, HEIGHT)[index % 2] for index, value in enumerate(polygon)]


def test_coordinates_in_0_to_1_stop_and_are_read_with_the_remedy(tmp_path):
    write(tmp_path, [[relative(SQUARE)], [relative(LONG)]])
    with pytest.raises(RemediedError, match="set coordinates: relative") as caught:
        masks()
    assert caught.value.keys == {"coordinates": "relative"}
    write(tmp_path, [[relative(SQUARE)], [relative(LONG)]], **caught.value.keys)
    for found, polygon in zip(masks(), (SQUARE, LONG), strict=True):
        # Rounding of the coordinates moves an edge by a pixel at most.
        assert np.count_nonzero(found != true_mask(polygon)) <= 2 * (HEIGHT + WIDTH) / 20
    instances = [label_reader("pets_x").load_instances(record) for record in DatasetCatalog.get("pets_x")]
    # The JSON's areas, in either unit, do not count.
    assert [one["area"] for (one,) in instances] == [float(found.sum()) for found in masks()]


def test_pixels_that_are_called_relative_stop(tmp_path):
    write(tmp_path, [[SQUARE]], coordinates="relative")
    with pytest.raises(InputError, match="has the coordinate 30, but the YAML has coordinates: relative"):
        masks()


def test_a_crowd_is_an_instance_with_the_key(tmp_path):
    for keys, expected in (({}, [1]), ({"crowd": "instances"}, [0])):
        write(tmp_path, [[SQUARE]], **keys)
        content = json.loads((tmp_path / "instances.json").read_text())
        content["annotations"][0]["iscrowd"] = 1
        (tmp_path / "instances.json").write_text(json.dumps(content))
        (record,) = DatasetCatalog.get("pets_x")
        assert [one["iscrowd"] for one in record["annotations"]] == expected
        reader = label_reader("pets_x")
        assert [one["iscrowd"] for one in reader.load_instances(record)] == expected
        assert reader.load_index_map(record).segments.is_crowd.tolist() == [bool(expected[0])]


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"crowd": "yes"}, "crowd is 'yes'; expected groups or instances"),
        ({"coordinates": "percent"}, "coordinates is 'percent'; expected pixels or relative"),
    ],
)
def test_other_values_of_the_keys_are_refused(tmp_path, keys, message):
    with pytest.raises(InputError, match=message):
        write(tmp_path, [[SQUARE]], **keys)
